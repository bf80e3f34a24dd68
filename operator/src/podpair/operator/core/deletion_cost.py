"""The cost of deleting each pod, by which a ReplicaSet that is scaled down chooses: the emptiest pod goes first.

Kubernetes compares costs only between pods that are ready, and reads an annotation; each change of one is a write. So a
cost is rough: it grows with the logarithm of the load, and is changed only if the load has left its step and a margin beside it.
Source: k8s.io/kubernetes/pkg/controller/controller_utils.go, ActivePodsWithRanks.
"""

import math
from collections.abc import Mapping

from podpair.operator.core.load import PodLoad

ANNOTATION = "controller.kubernetes.io/pod-deletion-cost"
_STEPS = 4.0  # in a doubling of the load: a step is 19 %
_MARGIN = 0.75  # of a step, from its middle


def deletion_cost(load: PodLoad, before: int) -> int:
    """Return the cost of a pod, given the one that it has: 0 for an idle pod, as for one without an annotation.

    A session counts once, and each request in flight once more: it would have to be waited for.
    """
    level = _STEPS * math.log2(1 + load.sessions + load.inflight)
    return before if abs(level - before) <= _MARGIN else round(level)


def changed_costs(loads: Mapping[str, PodLoad], before: Mapping[str, int]) -> dict[str, int]:
    """Return the costs to write, by pod. `before` has those that are annotated; of one pod alone there is nothing to choose."""
    if len(loads) < 2:
        return {}
    costs = {name: deletion_cost(load, before.get(name, 0)) for name, load in loads.items()}
    return {name: cost for name, cost in costs.items() if cost != before.get(name, 0)}


def read_cost(annotations: Mapping[str, str]) -> int:
    """Return the cost that a pod is annotated with; 0: none, or one that Kubernetes can't read either."""
    try:
        return int(annotations.get(ANNOTATION, "0"))
    except ValueError:
        return 0
