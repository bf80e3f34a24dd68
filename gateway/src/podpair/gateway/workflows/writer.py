"""The records of a step: the state, the events that tell of it, and the answer to whoever waits for the instance."""

import time

from podpair.common.gateway_config.model import Config
from podpair.gateway.core import records
from podpair.gateway.core.protocol import Code, Fault
from podpair.gateway.core.record_headers import answer_headers, cancel_headers
from podpair.gateway.core.workflows.instance import Instance
from podpair.gateway.core.workflows.records import Begun, Scheduled
from podpair.gateway.core.workflows.steps import Step, encode_events
from podpair.gateway.kafka.producer import Outgoing
from podpair.gateway.results.replies import ReplyWriter
from podpair.gateway.results.writer import ResultWriter
from podpair.gateway.worker.dead_letters import DeadLetters
from podpair.gateway.workflows.state_log import StateRecord


class StoredRequest:
    """The record of an instance's request, as its state has it: what a dead letter is made of."""

    def __init__(self, topic: str, partition: int, begun: Begun) -> None:
        self._topic = topic
        self._partition = partition
        self._begun = begun

    def topic(self) -> str:
        return self._topic

    def partition(self) -> int:
        return self._partition

    def offset(self) -> int:
        return self._begun.offset

    def key(self) -> None:
        return None

    def value(self) -> bytes:
        return bytes(self._begun.value)

    def headers(self) -> list[tuple[str, bytes]]:
        return [(name, value.encode("latin-1")) for name, value in self._begun.headers.items()]


class StepWriter:
    """Makes the records of steps."""

    def __init__(
        self, config: Config, source: str, results: ResultWriter, dead_letters: DeadLetters, replies: ReplyWriter
    ) -> None:
        self._requests_topic = config.requests.topic
        self._state_topic = config.workflows_topic or ""
        self._results_topic = config.results.topic
        self._source = source
        self._results = results
        self._dead_letters = dead_letters
        self._replies = replies

    def records(self, instance: Instance, step: Step, partition: int) -> list[StateRecord]:
        """Return all records of a step, which are written together."""
        key = instance.key
        made = [
            StateRecord(self._state_topic, (f"{key}/{suffix}" if suffix else key).encode(), value, partition=partition)
            for suffix, value in step.records.items()
        ]
        if step.events:
            made.append(self._partial(instance.begun, step))
        if step.ends:
            made += [_state_record(record) for record in self._terminal(instance.begun, step, partition)]
        return made

    def smaller(self, record: StateRecord, instance: Instance) -> StateRecord | None:
        """Return what is written instead of a record that its topic doesn't take; None: nothing."""
        if record.topic != self._results_topic or ("ce_type", records.PARTIAL) in record.headers:
            return None
        begun = instance.begun
        message = f"the answer ({len(record.value or b'')} bytes) is larger than topic {record.topic} takes"
        return _state_record(self._results.error(begun.session, begun.id, Fault(Code.INTERNAL, message)))

    def request(self, kept: Scheduled, partition: int) -> StateRecord:
        """Return the record of a request that was kept, as it came; where it has a key that says to which partition."""
        headers = [(name, value.encode("latin-1")) for name, value in kept.headers.items()]
        return StateRecord(self._requests_topic, kept.key, kept.value, headers, -1 if kept.key else partition)

    def cancellation(self, kept: Scheduled, partition: int) -> StateRecord:
        """Return the record that cancels a request behind its own."""
        headers = cancel_headers(request_id=kept.id, session=kept.session, source=self._source, now=time.time())
        return StateRecord(self._requests_topic, kept.key, b"", headers, -1 if kept.key else partition)

    def failed(self, kept: Scheduled, fault: Fault) -> list[StateRecord]:
        """Return the records that end a request which has not begun."""
        answer = self._results.error(kept.session, kept.id, fault)
        return [_state_record(record) for record in (answer, *self._replies.to(kept.reply_to, answer))]

    def _partial(self, begun: Begun, step: Step) -> StateRecord:
        session = begun.session.encode()
        headers = answer_headers(
            records.PARTIAL,
            request_id=begun.id,
            session=session,
            source=self._source,
            now=time.time(),
            seq=step.seq,
        )
        return StateRecord(self._results_topic, session, encode_events(step.events), headers)

    def _terminal(self, begun: Begun, step: Step, partition: int) -> list[Outgoing]:
        request = StoredRequest(self._requests_topic, partition, begun)
        if step.fault is None:
            answer = self._results.result(begun.session, begun.id, step.result or b"{}")
            return [answer, *self._replies.to(begun.reply_to, answer)]
        made = []
        if step.fault.code in (Code.UPSTREAM, Code.INTERNAL):
            made = self._dead_letters.bury(request, step.fault.message, step.tries)
        answer = self._results.error(begun.session, begun.id, step.fault)
        return [*made, answer, *self._replies.to(begun.reply_to, answer)]


def _state_record(record: Outgoing) -> StateRecord:
    return StateRecord(record.topic, record.key, record.value, record.headers, record.partition, record.optional)
