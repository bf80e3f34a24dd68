"""A direct request that is one row of numbers and asks for nothing else: one object from its frame to its answer.

It is the session's open request, the batcher's item, and, should anything go wrong, an inference request like any other.
"""

from collections.abc import Callable
from typing import Any, ClassVar

from podpair.gateway.core.ledger import OpenRequest
from podpair.gateway.core.protocol import decode_plain_row
from podpair.gateway.core.request import InferenceRequest
from podpair.gateway.core.row_codec import EncodedRows, RowForm
from podpair.gateway.sessions.session import Session
from podpair.gateway.upstream.batch_calls import Outcome


class RowRequest(OpenRequest, kw_only=True, eq=False):
    """An open request for the model, until `callback` has got its outcome, or it was cancelled."""

    session: Session
    id: str
    model: str
    frame: str  # a PlainRow in JSON, from which the numbers are read again if they are needed; empty at the end
    form: RowForm
    raw: bytes  # its row
    callback: Callable[[list[tuple[Any, Outcome]]], object]
    in_flight: Any = None  # the call that it is in
    done: bool = False  # it waits for no outcome any more: it has one, or was cancelled
    retried: ClassVar = False

    @property
    def request(self) -> InferenceRequest:
        """The request, as it would be without the short cut."""
        row = decode_plain_row(self.frame).data
        return InferenceRequest(self.id, self.model, row=row, key=self.session.id)

    @property
    def rows(self) -> EncodedRows:
        """The request as a row of a call."""
        return EncodedRows(self.form.layout, (self.raw,), self.form.size)

    def complete(self) -> bool:
        """Mark the request as done; return False if nobody waits for it."""
        waited, self.done = not self.done, True
        return waited

    def stop(self) -> bool:
        """Cancel the request, and the call if it is only for this one; return False if it has its outcome."""
        if not self.complete():
            return False
        if self.in_flight is not None:
            self.in_flight.leave()
        return True
