"""Routes a request: directly to the model in the pod, or through Kafka to any pod's."""

from typing import Literal, NamedTuple

from podpair.gateway.core.protocol import Code, Fault, RouteName

Route = Literal["direct", "queue"]


class Load(NamedTuple):
    """The pair's load when a request arrives."""

    ready: bool  # the inference container answers
    in_flight: int  # direct requests that it has from this gateway
    limit: int  # direct requests that it may have


def choose_route(asked: RouteName, load: Load) -> Route:
    """Choose direct for `auto` while the local model has room, else queue: a burst spills to the fleet instead of being
    dropped.

    Raises Fault(overloaded) if the way that was asked for is full.
    """
    has_room = load.ready and load.in_flight < load.limit
    if asked != "queue" and has_room:
        return "direct"
    if asked != "direct":
        return "queue"
    what = f"{load.in_flight} direct requests are running" if load.ready else "the model is not ready"
    raise Fault(Code.OVERLOADED, what, retry_after_ms=1000 if not load.ready else 100)
