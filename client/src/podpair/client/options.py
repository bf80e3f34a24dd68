"""The options of a request."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

Route = Literal["auto", "direct", "queue"]


class RequestOptions(TypedDict, total=False):
    """Keyword arguments of `Session.infer` and `Session.stream`."""

    inputs: Sequence[Any]
    """V2 input tensors (`name`, `shape`, `datatype`, `data`), instead of `data`. The result then has `outputs`."""
    parameters: Mapping[str, Any]
    """V2 parameters of the request, passed to the model."""
    route: Route
    """`direct` asks the model of this pod, `queue` goes through Kafka; `auto`, the default, is direct while there is room."""
    deadline: float
    """Seconds from now after which nobody wants the answer any more."""
    on_disconnect: Literal["detach", "cancel"]
    """`cancel` cancels the request if the connection breaks; by default it runs on, and its result waits for the session."""
    resend: bool
    """False: raise `Lost` if the connection breaks and the request may have run, instead of sending it again."""
    id: str
    """The request's id, by default a new one. A request that repeats the id of one that ended lately gets its answer."""
    traceparent: str
    """W3C trace context. By default that of the active OpenTelemetry span, if there is one."""
