"""Events as the CloudEvents SDK for Python writes them on Kafka, as JSON lines. Arguments: the session, the model's row."""

import base64
import json
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

from cloudevents.core.bindings.kafka import to_binary, to_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from cloudevents.v1 import http as v1_http
from cloudevents.v1 import kafka as v1_kafka

session, row = sys.argv[1], json.loads(sys.argv[2])


def event(kind: str, name: str, data: Any, content_type: str = "application/json", **more: Any) -> CloudEvent:
    attributes = {"id": name, "source": "/shop", "type": kind, "subject": session, "datacontenttype": content_type}
    return CloudEvent({"specversion": "1.0", "time": datetime.now(UTC), **attributes, **more}, data)


def say(name: str, headers: dict[str, bytes], value: bytes) -> None:
    encoded = {header: base64.b64encode(text).decode() for header, text in headers.items()}
    sys.stdout.write(json.dumps({"id": name, "headers": encoded, "value": base64.b64encode(value).decode()}) + "\n")


# The earlier interface of the same package; what its structured mode writes is not marked as such.
about = {"id": "json-binary-v1", "source": "/shop", "type": "com.example.order", "datacontenttype": "application/json"}
earlier = v1_kafka.to_binary(v1_http.CloudEvent(about, {"mode": "binary-v1"}), key_mapper=lambda _: session)
say("json-binary-v1", earlier.headers, earlier.value)
for mode, write in (("binary", to_binary), ("structured", to_structured)):
    events = [
        event("com.example.order", f"json-{mode}", {"mode": mode}),
        event("com.example.order", f"bytes-{mode}", b"\x00\xff", "application/octet-stream"),
        event("com.example.order", f"text-{mode}", "hello", "text/plain"),
        event(
            "dev.podpair.request", f"request-{mode}", {"data": row},
            model="digits", deadline=datetime.now(UTC) + timedelta(hours=1),
        ),
    ]  # fmt: skip
    for one in events:
        message = write(one, JSONFormat())
        say(one.get_id(), message.headers, message.value)
