"""What metrics have of workflows."""

import time
from collections.abc import Sequence
from functools import partial

from podpair.gateway.metrics import Metrics

STATES = ("running", "waiting", "compensating")


class Observer:
    """Counts instances by workflow and state, and how long nothing has happened to them."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._noted: dict[str, tuple[str, str, float]] = {}  # workflow, state, and since when nothing has happened
        for state in STATES:
            metrics.workflow_idle.labels(state).set_function(partial(self._idle, state))

    def note(self, key: str, workflow: str, state: str, now: float) -> None:
        """Note that something has happened to an instance."""
        known = self._noted.get(key)
        if known is None or known[1] != state:
            if known is not None:
                self._metrics.workflows.labels(*known[:2]).dec()
            self._metrics.workflows.labels(workflow, state).inc()
        self._noted[key] = (workflow, state, now)

    def forget(self, key: str) -> None:
        """Note that an instance is none any more, or another gateway's."""
        if (known := self._noted.pop(key, None)) is not None:
            self._metrics.workflows.labels(*known[:2]).dec()

    def stages(self, workflow: str, outcomes: Sequence[tuple[str, str, float]]) -> None:
        """Count stages that ended: name, outcome, seconds."""
        for stage, outcome, seconds in outcomes:
            self._metrics.workflow_stages.labels(workflow, stage, outcome).inc()
            self._metrics.workflow_stage_seconds.labels(workflow, stage).observe_all((seconds,))

    def _idle(self, state: str) -> float:
        since = min((since for _, noted, since in self._noted.values() if noted == state), default=None)
        return 0.0 if since is None else max(time.time() - since, 0.0)
