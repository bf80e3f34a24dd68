"""A request's span, which ends with the request."""

from podpair.gateway.core.ledger import Ledger, OpenRequest


class Recorded:
    traceparent = ""
    ended = 0

    def failed(self, why: str) -> None: ...

    def end(self) -> None:
        self.ended += 1


def test_a_span_ends_once_with_its_request() -> None:
    ledger, span = Ledger(9), Recorded()
    ledger.open("r", OpenRequest("queue", cancels_on_disconnect=False, span=span))
    assert span.ended == 0
    ledger.end("r", 7)
    ledger.end("r", 9)
    ledger.discard("r")
    assert span.ended == 1
