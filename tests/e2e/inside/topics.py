"""The names of the topics at a broker, as JSON."""

import json
import sys

from confluent_kafka.admin import AdminClient

admin = AdminClient({"bootstrap.servers": json.loads(sys.argv[1])["servers"]})
print(json.dumps(sorted(admin.list_topics(timeout=10).topics)))  # noqa: T201
