"""Hands requests for workflows over to whoever runs them, and what is said to those that run."""

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from podpair.gateway.core.chat import is_chat
from podpair.gateway.core.protocol import Code, Fault, QueueOnly
from podpair.gateway.core.records import NOT_BEFORE, Reply, Signal
from podpair.gateway.core.request import InferenceRequest
from podpair.gateway.kafka.producer import Outgoing
from podpair.gateway.upstream.client import InferenceClient
from podpair.gateway.worker.request import QueuedRequest
from podpair.gateway.worker.workflows import BeginHooks, Workflows


class Handover:
    """Hands over. A request's offset is finished once a workflow's state has what it says.

    Args:
        workflows: Who runs them; None: nobody, and there are only models.
        client: Knows which models are workflows.
        finish: Finishes requests, with an outcome, by records.
        fail: Ends a request with an error, after so many attempts.
        answer: Ends a request with the body of its result.
    """

    def __init__(
        self,
        workflows: Workflows | None,
        client: InferenceClient,
        finish: Callable[[Sequence[QueuedRequest], str, Sequence[Outgoing]], object],
        fail: Callable[[QueuedRequest, Exception, int], object],
        answer: Callable[[QueuedRequest, bytes], object],
    ) -> None:
        self._workflows = workflows
        self._client = client
        self._finish = finish
        self._fail = fail
        self._answer = answer

    def knows_not(self, request: InferenceRequest) -> bool:
        """Return whether its model has to be described before it is known whether that is a workflow."""
        return self._workflows is not None and not is_chat(request) and self._client.described(request.model) is None

    def take(self, request: QueuedRequest, asked: InferenceRequest) -> bool:
        """Hand a request over, if it is for a workflow. Returns whether it is."""
        if self._workflows is None or request.parsed is None or is_chat(asked):
            return False
        model = self._client.described(asked.model)
        if model is None or model.workflow is None:
            return False
        request.begins = True
        parsed = request.parsed._replace(written=request.written)
        beginning = self._workflows.begin(
            request.partition.number, request.record, parsed, model, self._hooks(request, "workflow")
        )
        request.ask(beginning)
        return True

    def keep(self, request: QueuedRequest, not_before: float) -> bool:
        """Keep a request that is to begin at a time (Unix seconds) until then. Returns whether it is. Raises Fault(invalid).

        Also one whose time has come: it may be kept, and its record be read once more.
        """
        parsed = request.parsed
        if parsed is None or (self._workflows is None and not_before <= time.time()):
            return False
        if self._workflows is None:
            raise Fault(Code.INVALID, f"{NOT_BEFORE}: no request is kept for later here (workflows.enabled)")
        request.begins = True
        hooks = self._hooks(request, "kept")
        request.ask(self._workflows.keep(request.partition.number, request.record, parsed, hooks))
        return True

    def _hooks(self, request: QueuedRequest, outcome: str) -> BeginHooks:
        return BeginHooks(
            lambda: self._finish([request], outcome, []),
            lambda fault: self._fail(request, fault, 0),
            lambda body: self._answer(request, body),
        )

    def explained(self, error: Exception) -> Exception:
        """Return what to tell of a request that failed: of one for a workflow that nobody here runs, that."""
        if isinstance(error, QueueOnly) and self._workflows is None:
            return Fault(Code.INVALID, f"{error.model} is a workflow, and this gateway runs none (workflows.enabled)")
        return error

    def cancel(self, cancellation: QueuedRequest, *, ended_here: bool) -> None:
        """Cancel the instance, if it is one, and finish the record that says so.

        ended_here: it has ended a request that was in hand.
        """
        if self._workflows is None:
            self._finish([cancellation], "cancellation", [])
            return
        number, key = cancellation.partition.number, cancellation.key
        done = partial(self._finish, [cancellation], "cancellation", [])
        self._workflows.cancel(number, *key, done, ended_here=ended_here)

    def say(self, record: QueuedRequest, said: Signal | Reply, in_hand: Iterable[QueuedRequest]) -> None:
        """Pass on what is said to an instance, and finish the record that says it.

        A client's message waits with its request, if that is in hand before it and not handed over yet: nobody knows the
        instance, and would keep it.
        """
        number, record.said = record.partition.number, said
        if self._workflows is None:
            self._finish([record], "ignored", [])
        elif isinstance(said, Signal):
            waiting = (one for one in in_hand if one.key == record.key and _waits(one, record))
            if (request := next(waiting, None)) is not None:
                request.add_repeat(record)
                return
            self._workflows.signal(number, said, lambda: self._finish([record], "signal", []))
        else:
            self._workflows.reply(number, said, lambda: self._finish([record], "reply", []))


def _waits(request: QueuedRequest, message: QueuedRequest) -> bool:
    """Return whether a request is one that has to be handed over, or answered, before its message."""
    known = request.parsed is None or request.begins or not request.open
    return not known and request.partition is message.partition
