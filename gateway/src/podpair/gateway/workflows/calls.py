"""Makes the calls of stages: of models, of Python steps in the inference container, and of other gateways through Kafka.

Invariant: a model that is away costs a stage no attempt, and none of its time.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, NoReturn, Protocol

import msgspec

from podpair.common.gateway_config.model import Config
from podpair.gateway.core.model_errors import Busy, Failed, Unavailable
from podpair.gateway.core.protocol import Code, Fault
from podpair.gateway.core.record_headers import cancel_headers, request_headers
from podpair.gateway.core.records import REPLY_PARTITION, REPLY_TO, USER, WORKFLOW_SESSION
from podpair.gateway.core.request import InferenceRequest
from podpair.gateway.core.retry_policy import RetryPolicy
from podpair.gateway.core.workflows.instance import Instance
from podpair.gateway.core.workflows.records import InvalidState, Unit, unit_of
from podpair.gateway.core.workflows.steps import StartCall
from podpair.gateway.kafka.producer import DeliveryError, Outgoing, RecordProducer
from podpair.gateway.tasks import Tasks
from podpair.gateway.upstream.factory import ModelAccess

_encode = msgspec.json.Encoder().encode
_FINAL = (Code.INVALID, Code.NOT_FOUND, Code.UNAUTHORIZED, Code.FORBIDDEN)
"""What another attempt would get as well."""


class CallListener(Protocol):
    """Hears what becomes of calls, each by its instance, unit and attempt."""

    def call_ended(self, key: str, unit: Unit, attempt: int, output: bytes) -> object: ...
    def call_failed(self, key: str, unit: Unit, attempt: int, message: str, *, retry: bool) -> object: ...
    async def progress(self, key: str, unit: Unit, attempt: int, data: bytes) -> None: ...
    def checkpoint(self, key: str, unit: Unit, attempt: int, data: bytes) -> object: ...


class _StepChunk(msgspec.Struct):
    output: msgspec.Raw = msgspec.Raw(b"")
    progress: msgspec.Raw = msgspec.Raw(b"")
    checkpoint: msgspec.Raw = msgspec.Raw(b"")


class _Result(msgspec.Struct):
    data: msgspec.Raw = msgspec.Raw(b"")
    outputs: msgspec.Raw = msgspec.Raw(b"")


class _Error(msgspec.Struct):
    code: str = ""
    message: str = ""


def output_of_result(body: bytes) -> bytes:
    """Return the output of a stage from the body of a `result`: its data, or its outputs. Raises ValueError."""
    found = msgspec.json.decode(body, type=_Result)
    return bytes(found.data) or bytes(found.outputs) or b"null"


def error_of_reply(body: bytes) -> tuple[str, bool]:
    """Return what another gateway's error says, and whether another attempt may succeed."""
    try:
        found = msgspec.json.decode(body, type=_Error)
    except msgspec.MsgspecError:
        return "an error that can't be read", True
    return f"{found.code}: {found.message}", found.code not in _FINAL


class StageCalls:
    """Makes calls, at most `workflows.max_calls` at a time."""

    def __init__(self, config: Config, source: str, model: ModelAccess, producer: RecordProducer) -> None:
        self._config = config
        self._source = source
        self._client = model.client
        self._readiness = model.readiness
        self._producer = producer
        self._room = asyncio.Semaphore(config.workflows.max_calls)
        self._withdrawals = Tasks()
        self._suspects = asyncio.Lock()  # one at a time: the next crash is then due to the call that was under way

    async def make(self, instance: Instance, start: StartCall, partition: int, listener: CallListener) -> None:
        """Make a call, and tell the listener what became of it."""
        key, unit, attempt = instance.key, start.unit, start.attempt
        try:
            if start.call.gateway is not None:
                await self._ask_gateway(instance, start, partition)
            async with self._room:
                output = await self._until_answered(instance, start, listener)
        except Fault as fault:
            listener.call_failed(key, unit, attempt, fault.message, retry=fault.code not in _FINAL)
        except TimeoutError:
            self.withdraw(key, start)
            listener.call_failed(key, unit, attempt, f"no answer in {start.call.timeout:g} s", retry=True)
        except (msgspec.MsgspecError, ValueError) as error:
            listener.call_failed(key, unit, attempt, f"its answer can't be read: {error}", retry=True)
        else:
            listener.call_ended(key, unit, attempt, output)

    async def _until_answered(self, instance: Instance, start: StartCall, listener: CallListener) -> bytes:
        """Ask the model, and again as long as that costs no attempt. Raises Fault, TimeoutError or ValueError."""
        requests = self._config.requests
        own = next((one.busy_seconds for one in requests.models if one.model == start.call.model), None)
        busy_seconds = own or requests.busy_seconds
        policy = RetryPolicy(1, requests.backoff_seconds, requests.max_model_crashes, busy_seconds)
        while True:
            await self._readiness.wait()
            try:
                if policy.poison_suspect:
                    async with self._suspects, asyncio.timeout(start.call.timeout):
                        return await self._ask(instance, start, listener, alone=True)
                async with asyncio.timeout(start.call.timeout):
                    return await self._ask(instance, start, listener, alone=policy.refusals > 0)
            except (Unavailable, Busy, Failed) as error:
                self._readiness.on_error(error)
                doubt = isinstance(error, Unavailable) and not error.down
                step, seconds = policy.next(error, ready=doubt and await self._readiness.confirmed())
                if step == "give_up":
                    raise Fault(Code.UPSTREAM, str(error)) from None
                await asyncio.sleep(seconds)

    async def _ask(self, instance: Instance, start: StartCall, listener: CallListener, *, alone: bool) -> bytes:
        request = self._request(instance, start)
        if start.call.step is not None:
            return await self._run_step(instance, start, request, listener)
        on_chunk = None
        if request.stream:
            on_chunk = _progress(listener, instance.key, start)
        return output_of_result(await self._client.infer(request, alone=alone, retried=True, on_chunk=on_chunk))

    def _request(self, instance: Instance, start: StartCall) -> InferenceRequest:
        begun, call = instance.begun, start.call
        key = f"{instance.key}/{start.unit.suffix}"
        request = InferenceRequest(
            key, call.model or begun.model, deadline=time.time() + call.timeout, key=begun.session, trace=begun.trace,
            lane=begun.lane, subject=begun.headers.get(USER, "").encode("latin-1").decode(errors="replace"),
            data=_encode(start.input), stream=call.stream, version=str(call.version or ""), timeout=call.timeout,
        )  # fmt: skip
        if call.step is not None:
            parameters: dict[str, Any] = {"step": call.step, "key": key, "attempt": start.attempt}
            if start.checkpoint:
                parameters["checkpoint"] = start.checkpoint.decode()
            request.parameters = _encode(parameters)
            request.data = _encode(request.data.decode())
            request.stream, request.version = True, begun.version
        return request

    async def _run_step(
        self, instance: Instance, start: StartCall, request: InferenceRequest, listener: CallListener
    ) -> bytes:
        about, output = (instance.key, start.unit, start.attempt), b""

        async def on_chunk(_: int, data: bytes) -> None:
            nonlocal output
            found = msgspec.json.decode(msgspec.json.decode(data, type=str), type=_StepChunk)
            if found.progress:
                await listener.progress(*about, bytes(found.progress))
            if found.checkpoint:
                listener.checkpoint(*about, bytes(found.checkpoint))
                start.checkpoint = bytes(
                    found.checkpoint
                )  # if the model dies, it goes on from there in the same attempt
            output = bytes(found.output) or output

        await self._client.stream(request, on_chunk)
        if not output:
            raise ValueError("the step ended without an output")
        return output

    def withdraw(self, key: str, start: StartCall) -> None:
        """Cancel the request to another gateway that a call has made, if it has: nobody waits for its answer any more."""
        if start.call.gateway is None:
            return
        topic, request_id = start.call.gateway.topic, reply_id(start.unit, start.attempt)
        headers = cancel_headers(
            request_id=request_id, session=reply_session(key), source=self._source, now=time.time()
        )
        about = f"the cancellation of {request_id} at {topic}".__str__
        record = Outgoing(topic, b"", _record_key(key, start.unit), headers, about, None, optional=True)
        self._withdrawals.spawn(self._producer.send_until_acked(record))

    async def close(self) -> None:
        """Give up what is still being withdrawn, after a moment."""
        await self._withdrawals.join(1.0)
        await self._withdrawals.cancel()

    async def _ask_gateway(self, instance: Instance, start: StartCall, partition: int) -> NoReturn:
        """Write a request to the topic of another gateway, and wait for its answer, which comes as a record.

        Raises TimeoutError, or Fault if it can't be written.
        """
        call, begun = start.call, instance.begun
        assert call.gateway is not None  # noqa: S101 - `make` has seen it
        headers = request_headers(
            request_id=reply_id(start.unit, start.attempt), session=reply_session(instance.key), model=call.gateway.model,
            source=self._source, now=time.time(), deadline=time.time() + call.timeout,
        )  # fmt: skip
        headers += [(REPLY_TO, self._config.requests.topic.encode()), (REPLY_PARTITION, b"%d" % partition)]
        if begun.trace:
            headers.append(("traceparent", begun.trace.encode()))
        async with asyncio.timeout(call.timeout):
            value, key = b'{"data":%b}' % _encode(start.input), _record_key(instance.key, start.unit)
            await _write(self._producer, call.gateway.topic, value, key, headers)
            await asyncio.get_running_loop().create_future()  # whoever hears the answer cancels this
        raise AssertionError("nobody answers that")


async def _write(
    producer: RecordProducer, topic: str, value: bytes, key: bytes, headers: list[tuple[str, bytes]]
) -> None:
    try:
        await producer.write(topic, value, key=key, headers=headers)
    except DeliveryError as error:
        code = Code.INVALID if error.too_large else Code.OVERLOADED
        raise Fault(code, f"its request is not in the queue of {topic}: {error.client_message}") from None


def _record_key(key: str, unit: Unit) -> bytes:
    """Return the key of records about a unit at another gateway: its request, and its cancellation behind it in one partition."""
    return f"{key}/{unit.suffix}".encode()


def reply_id(unit: Unit, attempt: int) -> str:
    """Return the id of the request that an attempt at a unit sends to another gateway."""
    return f"{unit.suffix}#{attempt}"


def attempt_of_reply(request_id: str) -> tuple[Unit, int]:
    """Return the unit and the attempt that an id stands for. Raises InvalidState."""
    suffix, _, attempt = request_id.partition("#")
    if not (attempt.isdecimal() and attempt.isascii() and len(attempt) < 10):
        raise InvalidState(f"{request_id[:100]!r} names no attempt")
    return unit_of(suffix), int(attempt)


def reply_session(key: str) -> str:
    """Return the session of the requests that an instance sends to other gateways: no client has it."""
    return WORKFLOW_SESSION + key


def key_of_reply(session: str) -> str | None:
    """Return the instance that a session stands for; None: it is a client's."""
    return session.removeprefix(WORKFLOW_SESSION) if session.startswith(WORKFLOW_SESSION) else None


def _progress(listener: CallListener, key: str, start: StartCall) -> Callable[[int, bytes], Any]:
    async def on_chunk(_: int, data: bytes) -> None:
        await listener.progress(key, start.unit, start.attempt, data)

    return on_chunk
