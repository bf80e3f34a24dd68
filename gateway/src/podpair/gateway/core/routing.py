"""Which way a request goes: into the model next door, or through Kafka to any pod's."""

from typing import Literal, NamedTuple

from podpair.gateway.core.protocol import Code, Fault, RouteName

Route = Literal["direct", "queue"]


class Load(NamedTuple):
    """The pair as a request finds it."""

    ready: bool  # the inference container answers
    in_flight: int  # direct requests that it has from this gateway
    limit: int  # direct requests that it may have
    queue_open: bool  # the broker takes records


def choose_route(asked: RouteName, load: Load) -> Route:
    """`auto` is direct while the local model has room, else queue: a burst spills to the fleet instead of being dropped.

    Raises Fault(overloaded) where the way that was asked for is full.
    """
    has_room = load.ready and load.in_flight < load.limit
    if asked != "queue" and has_room:
        return "direct"
    if asked != "direct" and load.queue_open:
        return "queue"
    if asked == "direct":
        what = f"{load.in_flight} direct requests are running" if load.ready else "the model is not ready"
    else:
        what = "the queue takes no more"
    raise Fault(Code.OVERLOADED, what, retry_after_ms=1000 if not load.ready else 100)


def may_spill(asked: RouteName, load: Load) -> bool:
    """Whether a request that the local model refused, or died under, can go through Kafka instead."""
    return asked == "auto" and load.queue_open
