"""The state of a resource, for people: `podpair status` prints it.

Computed from what the API server has of the resource and of its pods; what isn't known is shown as such.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from podpair.operator.core.api.igw import InferenceGateway
from podpair.operator.core.builders.naming import Manifest, consumer_group
from podpair.operator.core.wanted_topics import wanted_topics

_GOOD = dict.fromkeys(
    ("Reconciling", "Stalled", "Degraded", "Paused", "ReplicasCappedByPartitions"), "False"
)  # others: True
_FOR_TOOLS = ("Reconciling", "Stalled")  # which repeat what others say
_UNKNOWN = "not known"


@dataclass(frozen=True)
class PodSummary:
    """One pod. `waits_for` None: nothing."""

    name: str
    ready: bool
    restarts: int
    waits_for: str | None


@dataclass(frozen=True)
class ConditionSummary:
    """One condition; `good`: as it is when all is well."""

    type: str
    status: str
    reason: str
    message: str
    good: bool


@dataclass(frozen=True)
class Summary:
    """The whole summary."""

    name: str
    namespace: str
    ready: str | None
    version: str | None
    sessions: int | None
    lag: int | None
    topics: Sequence[str]
    group: str
    broker: str
    conditions: Sequence[ConditionSummary]
    pods: Sequence[PodSummary]
    waits_for: Sequence[str]
    """What keeps the resource from being well, a sentence each."""

    def json(self) -> dict[str, Any]:
        """Return the summary as JSON values."""
        return asdict(self)


def summarize(gateway: InferenceGateway, pods: Iterable[Manifest]) -> Summary:
    """Summarize a resource as the API server has it, and its pods."""
    status = gateway.status
    conditions = [
        ConditionSummary(one.type, one.status, one.reason, one.message, one.status == _GOOD.get(one.type, "True"))
        for one in (status.conditions if status is not None else ())
    ]
    summaries = sorted((_pod(pod) for pod in pods), key=lambda pod: pod.name)
    return Summary(
        name=gateway.metadata.name,
        namespace=gateway.metadata.namespace,
        ready=status.ready if status is not None else None,
        version=status.version if status is not None else None,
        sessions=status.sessions if status is not None else None,
        lag=status.lag if status is not None else None,
        topics=[topic.name for topic in wanted_topics(gateway)],
        group=consumer_group(gateway),
        broker=gateway.spec.kafka.bootstrap_servers,
        conditions=conditions,
        pods=summaries,
        waits_for=list(_waits(gateway, conditions, summaries)),
    )


def _waits(
    gateway: InferenceGateway, conditions: Sequence[ConditionSummary], pods: Sequence[PodSummary]
) -> Iterator[str]:
    generation, status = gateway.metadata.generation, gateway.status
    if status is None or not conditions:
        yield "the operator, which has not seen this resource yet: is podpair-operator running, and does it watch this namespace?"
        return
    if generation is not None and (status.observed_generation or 0) < generation:
        yield f"the operator, which has seen generation {status.observed_generation or 0} of {generation}"
    bad = [one for one in conditions if not one.good]
    causes = [one for one in bad if one.type not in ("Ready", *_FOR_TOOLS)]
    yield from (f"{one.type} {one.reason}: {one.message}" for one in causes)
    if not causes:
        ready = [one for one in bad if one.type == "Ready"]
        yield from (f"{one.reason}: {one.message}" for one in ready or bad)
    for pod in pods:
        explained = any(f"pod {pod.name}:" in one.message for one in conditions)  # with what to do about it
        if pod.waits_for is not None and not explained:
            yield f"pod {pod.name}: {pod.waits_for}"


def _pod(pod: Manifest) -> PodSummary:
    status = pod.get("status") or {}
    conditions = {one["type"]: one for one in status.get("conditions") or ()}
    containers = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    ready = conditions.get("Ready", {}).get("status") == "True"
    return PodSummary(
        name=pod["metadata"]["name"],
        ready=ready,
        restarts=sum(one.get("restartCount", 0) for one in containers),
        waits_for=None if ready else _pod_waits(pod, conditions, containers),
    )


def _pod_waits(
    pod: Manifest, conditions: Mapping[str, Mapping[str, Any]], containers: Sequence[Mapping[str, Any]]
) -> str:
    if pod["metadata"].get("deletionTimestamp"):
        return "it is going"
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        return f"a node: {scheduled.get('message') or scheduled.get('reason')}"
    for one in containers:
        state = one.get("state") or {}
        stopped = state.get("waiting") or state.get("terminated")
        if stopped is not None and stopped.get("reason") not in (None, "PodInitializing", "Completed"):
            said = stopped.get("message")
            return f"container {one['name']}: {stopped['reason']}{f': {said}' if said else ''}"
    for one in containers:
        if not one.get("ready"):
            return f"container {one['name']}, which isn't ready yet"
    return "its containers"


def text(summary: Summary) -> str:
    """Format the summary for a terminal."""
    ready = next((one.status for one in summary.conditions if one.type == "Ready"), "Unknown")
    lines = [f"{summary.namespace}/{summary.name}  Ready: {ready}", ""]
    rows = [
        ("pods", f"{summary.ready or _UNKNOWN} ready"),
        ("version", summary.version or _UNKNOWN),
        ("sessions", _count(summary.sessions)),
        ("lag", _count(summary.lag)),
        ("topics", ", ".join(summary.topics)),
        ("group", summary.group),
        ("broker", summary.broker),
    ]
    lines += [f"  {name:<9} {value}" for name, value in rows]
    if summary.conditions:
        lines += ["", "conditions"]
        lines += _table([(one.type, one.status, one.reason, one.message) for one in summary.conditions])
    if summary.pods:
        lines += ["", "pods"]
        lines += _table(
            [
                (pod.name, "ready" if pod.ready else "not ready", _restarts(pod.restarts), pod.waits_for or "")
                for pod in summary.pods
            ]
        )
    lines += ["", "waits for" if summary.waits_for else "waits for nothing"]
    lines += [f"  {one}" for one in summary.waits_for]
    return "\n".join(lines) + "\n"


def _count(value: int | None) -> str:
    return _UNKNOWN if value is None else str(value)


def _restarts(count: int) -> str:
    return "" if not count else "1 restart" if count == 1 else f"{count} restarts"


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]) - 1)]
    return [
        "  " + "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
        for row in rows
    ]
