"""`spec.rollout`: how pods of a new template take the place of the old ones."""

from typing import ClassVar, Literal

from podpair.operator.core.api.rules import Rule, Section
from podpair.operator.core.api.scalars import Duration, IntOrPercent


def _is_zero(value: int | str | None) -> bool:
    return value is not None and int(str(value).removesuffix("%")) == 0


def _zero_in_cel(field: str) -> str:
    return f"string({field}).matches('^0+%?$')"


def _replaces(rollout: "Rollout") -> bool:
    unavailable = rollout.max_unavailable
    return not _is_zero(rollout.max_surge) or (unavailable is not None and not _is_zero(unavailable))


class Rollout(Section):
    """How pods of a new template take the place of the old ones."""

    RULES: ClassVar = (
        Rule(
            f"!has(self.maxSurge) || !{_zero_in_cel('self.maxSurge')} || "
            f"has(self.maxUnavailable) && !{_zero_in_cel('self.maxUnavailable')}",
            "maxSurge and maxUnavailable are both 0, so that no pod could be replaced: raise one of them",
            _replaces,
        ),
        Rule(
            "self.strategy == 'rolling' || !has(self.maxSurge) && !has(self.maxUnavailable)",
            "maxSurge and maxUnavailable are for strategy: rolling; with recreate all pods end first: leave them out",
            lambda rollout: (
                rollout.strategy == "rolling" or (rollout.max_surge is None and rollout.max_unavailable is None)
            ),
        ),
    )
    strategy: Literal["rolling", "recreate"] = "rolling"
    """`rolling`: some pods at a time. `recreate`: all old pods end before a new one starts, and nobody is served until it is
    ready: for versions that may not run side by side."""
    max_surge: IntOrPercent | None = None
    """Pods beyond the wanted number during a rollout, a number or `50%`; default: 25%, rounded up. 0 if there is no room for one
    more, such as in a pool of GPUs that are all in use: then set maxUnavailable."""
    max_unavailable: IntOrPercent | None = None
    """Pods of the wanted number that may be missing during a rollout, a number or `50%`; default: 0."""
    progress_deadline: Duration | None = None
    """After so long without a pod more that is ready the rollout counts as stuck (`ProgressDeadlineExceeded`); it goes on all the
    same. Default: as long as the model may take to start (inference.probes.startup), and 5 minutes for scheduling and pulling."""
