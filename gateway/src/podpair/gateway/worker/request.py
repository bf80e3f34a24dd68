"""The life of a queued request: its states, and the transitions between them.

    RECEIVED ──ask──▶ ASKED ──answer──▶ ANSWERED ──done──▶ DONE
        └───────────answer──────────────▶ │
    RECEIVED, ASKED, ANSWERED ──drop──▶ DROPPED

How a request ends is its `outcome`: `result`, `repeated`, `cancellation`, `invalid_record`, or the code of its terminal error
(`cancelled`, `upstream`, …). Invariant: a request is answered once, its offset is finished once, after its records are in
Kafka, and only if it was not dropped.
"""

import logging
from collections.abc import Sequence
from enum import IntEnum
from typing import Any, Protocol

import msgspec
from confluent_kafka import Message

from podpair.gateway.core.protocol import Code
from podpair.gateway.core.records import InvalidRecord, QueueRecord, Reply, Request, Signal, request_of_record
from podpair.gateway.core.request import InferenceRequest
from podpair.gateway.core.span import Span
from podpair.gateway.kafka.producer import Outgoing
from podpair.gateway.worker.partition import PartitionState

_log = logging.getLogger(__name__)
RequestKey = tuple[str, str]  # session, and id of the request


class State(IntEnum):
    """Where a request is."""

    RECEIVED = 0  # its record was read; it may wait for its turn, or for a request with the same id
    ASKED = 1  # the model works on it, or is to be retried
    ANSWERED = 2  # how it ends is known; its records are on their way to Kafka
    DONE = 3  # its records are in Kafka, and its offset is finished
    DROPPED = 4  # given up here: another member works on it, or this one after a restart


class Cancellable(Protocol):
    """The work in progress for a request: a pending call, or a task."""

    def cancel(self) -> object: ...


_RECEIVED, _ASKED, _ANSWERED, _DONE, _DROPPED = State  # looked up once: this is the hot path


class QueuedRequest(msgspec.Struct, eq=False):
    """A record of the requests topic, while it is in hand."""

    partition: PartitionState
    record: Message
    offset: int
    key: RequestKey = ("", "")
    parsed: Request | None = None  # None: `error` says why
    written: float | None = None  # when the record was, in Unix seconds; None: not known
    representative: bool = False  # that time tells what others' requests will wait
    asked: float = 0.0  # when the model was first asked, in Unix seconds
    inference_request: InferenceRequest | None = None
    state: State = _RECEIVED
    outcome: str = ""
    records: Sequence[Outgoing] = ()  # those that tell of its end
    error: InvalidRecord | None = None
    headers_readable: bool = True  # else the record may not be asked for its headers again
    work: Cancellable | None = None
    span: Span | None = None
    said: Signal | Reply | None = None  # it is no request, but says this to a workflow
    begins: bool = False  # it is a workflow that is to begin: its cancellation comes to that
    repeats: "list[QueuedRequest] | None" = None  # those with the same id, which wait for its answer, and messages
    predecessor: "QueuedRequest | None" = None  # the one in hand before it of its session, if their order is kept
    successor: "QueuedRequest | None" = None  # the one behind it

    @property
    def open(self) -> bool:
        """Whether it has no answer yet, and is to get one here."""
        return self.state <= _ASKED

    @property
    def cancellable(self) -> bool:
        """Whether its client can still end it here: a workflow that is to begin is ended where it runs."""
        return self.open and self.parsed is not None and not self.begins

    def read(self) -> QueueRecord | None:
        """Return what the record says; None if it is no request: `error` says why, and `outcome`."""
        try:
            headers: Any = self.record.headers()
        except Exception as error:  # the client library's, of a name that isn't UTF-8
            self.headers_readable = False
            self.outcome, self.error = "invalid_record", InvalidRecord(f"its headers can't be read: {error}")
            return None
        try:
            return request_of_record(self.record.value(), headers)
        except InvalidRecord as error:
            self.outcome, self.error = "invalid_record", error
        except Exception as error:
            # A fault of the reader's. Unless it ends here the partition is never committed beyond it, after any restart.
            _log.error("a record of the requests topic could not be read", exc_info=error)
            self.outcome, self.error = Code.INTERNAL, InvalidRecord(f"internal error: {type(error).__name__}")
        return None

    def add_repeat(self, repeat: "QueuedRequest") -> None:
        """Have another record wait for its answer."""
        if self.repeats is None:
            self.repeats = []
        self.repeats.append(repeat)

    def ask(self, work: Cancellable) -> None:
        """Note that the model is asked; `work` is what to cancel. Raises RuntimeError unless the request is open."""
        if self.state > _ASKED:
            raise RuntimeError(f"asked while {self.state.name}")
        self.state = _ASKED
        self.work = work

    def answer(self, outcome: str, records: Sequence[Outgoing]) -> bool:
        """End it by `records`, which are to be written. Returns False if it is answered already, or dropped."""
        if self.state > _ASKED:
            return False
        self.state = _ANSWERED
        self.outcome = outcome
        self.records = records
        self.work = None  # which refers to this request: both would stay in memory until cycles are collected
        return True

    def done(self) -> bool:
        """Finish its offset: its records are in Kafka. Returns False if it was dropped.

        Raises RuntimeError if it has no answer, or is done already.
        """
        if self.state is not _ANSWERED:
            if self.state is _DROPPED:
                return False
            raise RuntimeError(f"done while {self.state.name}")
        self.state = _DONE
        self.partition.offsets.finish(self.offset)
        return True

    def drop(self) -> bool:
        """Give it up, and cancel its work. Returns False if it is done, or dropped already."""
        if self.state >= _DONE:
            return False
        self.state = _DROPPED
        self.stop()
        return True

    def stop(self) -> None:
        """Cancel its work, if there is any."""
        work, self.work = self.work, None
        if work is not None:
            work.cancel()
