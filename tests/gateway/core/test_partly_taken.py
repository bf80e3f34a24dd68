"""A batch that its client takes only in part never moves the session back: no position comes twice."""

from typing import Any, cast

from podpair.gateway.core.ledger import Ledger, OpenRequest
from podpair.gateway.core.wires import JsonWire
from podpair.gateway.sessions.connection import Connection
from podpair.gateway.sessions.session import Session

_ANSWER = 8, b"{}", [("ce_type", b"dev.podpair.result"), ("ce_id", b"r")]


class TakesOne:
    """A connection with room for one event."""

    wire = JsonWire(b"e.0.")

    def send(self, events: Any) -> int:
        return 1


def test_where_only_the_word_that_it_was_accepted_is_taken() -> None:
    session = Session("s", "user", 0, Ledger(10))
    session.seen = 7
    session.connection = cast("Connection", TakesOne())
    session.ledger.open("r", OpenRequest("queue", cancels_on_disconnect=False))
    delivery = session.deliver([_ANSWER])
    assert not delivery.complete
    assert session.seen == 7
