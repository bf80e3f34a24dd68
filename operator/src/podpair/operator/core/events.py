"""Events: what happened to a resource, for `kubectl describe`. Each is posted once, when it happens."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from podpair.operator.core.builders.naming import Manifest
from podpair.operator.core.conditions import CAPPED, DEGRADED, KAFKA, MODEL_LOADING, PAUSED, READY, SCALING
from podpair.operator.core.messages import stable_message

_SHORT = 120  # of one that repeats another
_LONGEST = 1024  # of a message, as the API server takes it


class Event(NamedTuple):
    """One thing that happened."""

    type: str
    """Normal or Warning."""
    reason: str
    message: str

    def truncated(self) -> "Event":
        """Shorten the event to what the API server accepts, and drop what differs each time."""
        message = stable_message(self.message)
        return self._replace(message=message[: _LONGEST - 1] + "…" if len(message) > _LONGEST else message)


class Change(NamedTuple):
    """Something that the operator did to an object."""

    verb: str
    """made, changed, removed; of what others did: remade after it was deleted, restored after it was edited."""
    object: str
    """Kind and name."""
    by: str | None = None
    """Who had changed it, if it was restored."""


_REASONS = {"made": ("Created", "created"), "changed": ("Updated", "updated"), "removed": ("Deleted", "deleted")}


def change_events(changes: Sequence[Change]) -> Iterator[Event]:
    """Return an event for each kind of change that the operator made."""
    for verb, (reason, word) in _REASONS.items():
        done = [change.object for change in changes if change.verb == verb]
        if done:
            yield Event("Normal", reason, f"{word} {_list(done)}")
    for change in changes:
        if change.verb == "remade":
            yield Event("Normal", "Restored", f"{change.object} was deleted: made again")
        if change.verb == "restored":
            who = f" (written by {change.by})" if change.by else ""
            yield Event("Normal", "Restored", f"{change.object} was not as the resource says{who}: put back")


def status_events(before: Mapping[str, Any], after: Mapping[str, Any], deployment: Manifest | None) -> Iterator[Event]:
    """Yield the events by which a new status differs from the last one."""
    was, now = _by_type(before), _by_type(after)
    # What has a condition of its own is not repeated as the reason for Degraded.
    reported = {now[kind]["reason"] for kind in (KAFKA, SCALING) if kind in now and now[kind]["status"] == "False"}
    for kind, one in now.items():
        last = was.get(kind, {"status": "Unknown", "reason": "", "message": ""})
        if kind == DEGRADED and one["reason"] in reported:
            continue
        if (last["status"], last["reason"]) != (one["status"], one["reason"]):
            yield from _of_condition(kind, last, one, deployment)


def _of_condition(
    kind: str, last: Mapping[str, Any], one: Mapping[str, Any], deployment: Manifest | None
) -> Iterator[Event]:
    is_so, was_so = one["status"] == "True", last["status"] == "True"
    if kind == READY and one["reason"] == "Serving":
        yield Event("Normal", "RolloutComplete" if was_so else "Ready", f"{_rolled(deployment)}{one['message']}")
    elif kind == READY and was_so and not is_so:
        yield Event("Warning", "NotReady", one["message"])
    elif kind == READY and one["reason"] == MODEL_LOADING:
        yield Event("Normal", MODEL_LOADING, one["message"])
    elif kind == DEGRADED and is_so:
        yield Event("Warning", one["reason"], one["message"])
    elif kind == DEGRADED and was_so:
        yield Event("Normal", "Recovered", f"no longer {last['reason']}: {_short(last['message'])}")
    elif kind == KAFKA and is_so:
        yield Event("Normal", one["reason"], one["message"])
    elif kind in (KAFKA, SCALING) and one["status"] == "False":
        yield Event("Warning", one["reason"], one["message"])
    elif kind == CAPPED and is_so:
        yield Event("Warning", CAPPED, one["message"])
    elif kind == PAUSED and (is_so or was_so):
        yield Event("Normal", "Paused" if is_so else "Resumed", one["message"])


def _rolled(deployment: Manifest | None) -> str:
    if deployment is None:
        return ""
    pod = deployment["spec"]["template"]["spec"]
    images = [one.get("image", "") for one in pod.get("initContainers") or [] if one["name"] == "inference"]
    return f"Deployment {deployment['metadata']['name']} runs {', '.join(images)}: " if images else ""


def _short(message: str) -> str:
    return message if len(message) <= _SHORT else message[: message.rfind(" ", 0, _SHORT)] + " …"


def _by_type(status: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {one["type"]: one for one in status.get("conditions") or []}


def _list(names: Iterable[str]) -> str:
    return ", ".join(names)
