#!/usr/bin/env bash
# cloudevents 2.2.0 (Python), its earlier interface cloudevents.v1.kafka.
#
# to_structured() makes a record whose value is the whole event, and whose content-type header is that of the event's data, or
# none at all: never application/cloudevents+json, by which alone a reader can tell the structured mode from the binary one
# (CloudEvents, Kafka binding, 3). Every reader that goes by the specification takes the envelope for data. The current
# interface, cloudevents.core.bindings.kafka, marks it.
#
# Seen:
#   v1, with a data content type: {'content-type': b'application/json'}
#   v1, without: {}
#   core: {'content-type': b'application/cloudevents+json'}
#
# Needs python3 with venv. Exits non-zero if it behaves otherwise.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip -q install cloudevents==2.2.0

cat > seen.py <<'PY'
from cloudevents.core.bindings.kafka import to_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from cloudevents.v1 import kafka
from cloudevents.v1.http import CloudEvent as Earlier

about = {"id": "1", "source": "s", "type": "t"}
typed = about | {"datacontenttype": "application/json"}
print("v1, with a data content type:", kafka.to_structured(Earlier(typed, {}), key_mapper=lambda _: "k").headers)
print("v1, without:", kafka.to_structured(Earlier(about, {}), key_mapper=lambda _: "k").headers)
print("core:", to_structured(CloudEvent({"specversion": "1.0", **typed}, {}), JSONFormat()).headers)
PY
venv/bin/python seen.py > seen
cat seen
diff seen - <<'SEEN'
v1, with a data content type: {'content-type': b'application/json'}
v1, without: {}
core: {'content-type': b'application/cloudevents+json'}
SEEN
