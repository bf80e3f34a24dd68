"""`spec.gateway.workflows`: workflows that are declared beside the models."""

from typing import ClassVar

from podpair.operator.core.api.rules import Rule, Section
from podpair.operator.core.api.scalars import Count, Duration, seconds

_SHORTEST, _LONGEST = "1m", "8784h"


class Workflows(Section):
    """Workflows that are declared beside the models (docs/models.md); `workflows: {}` runs them. With it there is a topic,
    `<requests topic>.workflows`, which is compacted, has the state of instances, and is as wide as the requests topic. The
    gateways' user needs Write on transactional ids.
    """

    RULES: ClassVar = (
        Rule(
            f"duration(self.remember) >= duration('{_SHORTEST}') && duration(self.remember) <= duration('{_LONGEST}')",
            f"remember ({{remember}}) must be between {_SHORTEST} and {_LONGEST}",
            lambda workflows: seconds(_SHORTEST) <= seconds(workflows.remember) <= seconds(_LONGEST),
        ),
    )
    max_instances: Count = 10_000
    """Instances that run or wait at a time, for each partition of the requests topic. Past it a request ends as overloaded."""
    max_calls: Count = 64
    """Calls of stages that one pod makes at a time; others wait for their turn."""
    remember: Duration = "1h"
    """How long it is known of an instance that it has ended: its request, if it is read again, runs no second time."""
