"""What a call to the model is made of, and how its answer is distributed to the requests in it.

Invariant: each request that somebody waits for gets one outcome, and the callbacks of one caller are one call.
"""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import msgspec

from podpair.gateway.core.models import Model
from podpair.gateway.core.request import InferenceRequest
from podpair.gateway.core.row_codec import EncodedRows, RowLayout
from podpair.gateway.core.tensors import Columns
from podpair.gateway.upstream.calls import Call, CallAnswer

_encode = msgspec.json.Encoder().encode

Outcome = bytes | Exception  # the members of a `result`, without its braces; or why there is none
ResultCallback = Callable[[list[tuple[Any, Outcome]]], object]
"""Gets requests that it was passed with, each with its outcome."""


class BatchItem(Protocol):
    """A request in a batch: a PendingRequest, or one that its caller has made to be its own."""

    in_flight: Any  # the call that it is in
    done: bool  # nobody waits for it any more

    @property
    def retried(self) -> bool:
        """Whether the caller makes further attempts, and counts those that the model died of."""
        ...

    @property
    def request(self) -> InferenceRequest:
        """The request itself."""
        ...

    @property
    def rows(self) -> EncodedRows:
        """The request as rows of a call."""
        ...

    @property
    def callback(self) -> ResultCallback:
        """Gets the outcome."""
        ...

    def complete(self) -> bool:
        """Mark the request as done; return False if nobody waits for it."""
        ...


class PlainItem(BatchItem, Protocol):
    """A request of one row of numbers without parameters, deadline, version and trace."""

    raw: bytes  # its row


def plain_call(model: Model, requests: list[PlainItem], layout: RowLayout) -> Call:
    """Make the call of several plain rows."""
    shapes = ((len(requests), *layout.tails[0]),)
    raw = b"".join([pending.raw for pending in requests])
    return Call(model, shapes, (raw,), b"", None, "", "")


def merged_call(model: Model, requests: list[BatchItem]) -> tuple[Call, int]:
    request = requests[0].request
    key = request.key if len(model.versions) > 1 else ""
    encoded = [pending.rows for pending in requests]
    layout = encoded[0].layout
    if len(encoded) == 1:
        shapes = tuple([(layout.rows, *tail) for tail in layout.tails])
        call = Call(
            model, shapes, encoded[0].raw, request.parameters, request.deadline, key, request.id, request.trace, request.lane,
            request.timeout,
        )  # fmt: skip
        return call, layout.rows
    rows = sum([encoded.layout.rows for encoded in encoded])
    shapes = tuple([(rows, *tail) for tail in layout.tails])
    raw = tuple([b"".join(parts) for parts in zip(*[encoded.raw for encoded in encoded], strict=True)])
    merged = [pending.request for pending in requests]
    deadlines = [request.deadline for request in merged]
    # The container may drop the call when nobody of it has time left.
    deadline = max([d for d in deadlines if d is not None]) if None not in deadlines else None
    trace = next((request.trace for request in merged if request.trace), "")
    # They have one queue only if they have one time-out.
    return Call(model, shapes, raw, request.parameters, deadline, key, "", trace, request.lane, request.timeout), rows


def _behind(model: Model, answer: CallAnswer) -> bytes:
    """Encode the members of a `result` that are the same for all."""
    spent = answer.inference_ms
    return b',"model":%b,"model_version":%b,"timing":{%b}' % (
        _encode(model.name), _encode(answer.model_version),
        b"" if spent is None else b'"inference_ms":%.3f' % spent,
    )  # fmt: skip


def distribute_plain(model: Model, requests: list[BatchItem], answer: CallAnswer) -> None:
    """Distribute the rows of the answer to plain rows."""
    members = Columns(answer.outputs).members(b'"data":', _behind(model, answer))
    outcomes: list[tuple[Any, Outcome]] = [
        (pending, outcome) for pending, outcome in zip(requests, members, strict=True) if not pending.done
    ]
    if outcomes:
        requests[0].callback(outcomes)


def distribute(model: Model, requests: list[BatchItem], answer: CallAnswer) -> None:
    """Distribute the rows of the answer."""
    columns, behind = Columns(answer.outputs), _behind(model, answer)
    outcomes: list[tuple[BatchItem, Outcome]] = []
    start = 0
    for pending in requests:
        _, _, rows, member, slice_rows = pending.rows.layout
        if not pending.done:
            outcomes.append((pending, b'"%b":%b%b' % (member, slice_rows(columns, start, rows), behind)))
        start += rows
    notify(outcomes)


def notify(outcomes: Iterable[tuple[BatchItem, Outcome]]) -> None:
    """Call each callback once, with the outcomes of its requests."""
    by_callback: dict[ResultCallback, list[tuple[BatchItem, Outcome]]] = {}
    for outcome in outcomes:
        pending = outcome[0]
        if pending.complete():
            mine = by_callback.get(pending.callback)
            if mine is None:
                mine = by_callback[pending.callback] = []
            mine.append(outcome)
    for callback, mine in by_callback.items():
        callback(mine)
