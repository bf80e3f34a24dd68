"""The options of a request."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

Route = Literal["auto", "direct", "queue"]


class CommonOptions(TypedDict, total=False):
    """What can be said of any request."""

    inputs: Sequence[Any]
    """V2 input tensors (`name`, `shape`, `datatype`, `data`), instead of `data`. The result then has `outputs`."""
    parameters: Mapping[str, Any]
    """V2 parameters of the request, passed to the model."""
    deadline: float
    """Seconds from now after which nobody wants the answer any more."""
    traceparent: str
    """W3C trace context. By default that of the active OpenTelemetry span, if there is one."""


class RequestOptions(CommonOptions, total=False):
    """Keyword arguments of `Session.infer`, `Session.stream` and `Session.workflow`."""

    route: Route
    """`direct` asks the model of this pod, `queue` goes through Kafka; `auto`, the default, is direct while there is room."""
    on_disconnect: Literal["detach", "cancel"]
    """`cancel` cancels the request if the connection breaks; by default it runs on, and its result waits for the session."""
    resend: bool
    """False: raise `Lost` if the connection breaks and the request may have run, instead of sending it again."""
    id: str
    """The request's id, by default a new one. A request that repeats the id of one that ended lately gets its answer."""


class JobOptions(CommonOptions, total=False):
    """Keyword arguments of `submit` that say more of the request."""

    stream: bool
    """True: the model tells its progress in parts, which `Job.partials` gives, and `Job.events` those of a workflow."""
    id: str
    """The request's id, by default a new one."""
    delay: float
    """Seconds from now before which it does not begin: it waits in Kafka. At most `sessions.resume_seconds` of the gateway."""


def frame_members(model: str, data: Any, options: Mapping[str, Any], traceparent: str | None) -> dict[str, Any]:
    """Return the members of the request's `infer` frame, without `id` and `deadline_ms`."""
    names = ("inputs", "parameters", "route", "on_disconnect", "stream", "traceparent")
    members = {"model": model, "data": data} | {name: options.get(name) for name in names}
    members["traceparent"] = members["traceparent"] or traceparent
    members["delay_ms"] = round(options["delay"] * 1000) if options.get("delay") else None
    return {name: value for name, value in members.items() if value is not None}
