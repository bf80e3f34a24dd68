"""Settings of workflows."""

from typing import Annotated

from pydantic import Field

from podpair.common.gateway_config.fields import Count, Section, TopicName


class Workflows(Section):
    """Workflows that are declared beside the models (docs/models.md). Their requests go through the queue."""

    enabled: bool = False
    """Run them. Needs a broker with transactions; the embedded one takes them without guarding against a second gateway."""
    topic: TopicName | None = None
    """Compacted topic with the state of instances, as wide as the requests topic. Unset: `<requests.topic>.workflows`."""
    replication: Count | None = None
    """Copies of each partition if it is created here; unset is the broker's default."""
    max_instances: Count = 10_000
    """Instances that run or wait at a time, for each partition of the requests topic. Past it a request ends as overloaded."""
    max_calls: Count = 64
    """Calls of stages that this gateway makes at a time; others wait for their turn."""
    remember_seconds: Annotated[float, Field(ge=60, le=31_622_400)] = 3600
    """How long it is known of an instance that it has ended: its request, if it is read again, runs no second time."""
