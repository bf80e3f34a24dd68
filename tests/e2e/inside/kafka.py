"""What a test does at its broker, in the role of whoever looks after that: make a topic, allow a user everything."""

import json
import sys
from typing import Any

from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)


def main(servers: str, topic: str | None = None, partitions: int = 1, user: str | None = None) -> None:
    admin = AdminClient({"bootstrap.servers": servers})
    waited: list[Any] = []
    if topic is not None:
        waited += admin.create_topics([NewTopic(topic, num_partitions=partitions)]).values()
    if user is not None:
        kinds = ((ResourceType.TOPIC, "*"), (ResourceType.GROUP, "*"), (ResourceType.BROKER, "kafka-cluster"))
        allowed = (f"User:{user}", "*", AclOperation.ALL, AclPermissionType.ALLOW)
        acls = [AclBinding(kind, name, ResourcePatternType.LITERAL, *allowed) for kind, name in kinds]
        waited += admin.create_acls(acls).values()
    for future in waited:
        future.result(10)
    print("{}")  # noqa: T201


main(**json.loads(sys.argv[1]))
