"""Whatever comes, each reader either reads it or says in its own words that it can't."""

import contextlib
import json

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from gateway.fuzz.made import damaged, examples, intact, payloads, records, texts
from podpair.client.protocol import Request, SessionState
from podpair.gateway.core.chat import CompletionAssembler, chat_body, is_chat
from podpair.gateway.core.chunks import merge_adjacent
from podpair.gateway.core.dead_letters import parse_dead_letter
from podpair.gateway.core.generate import StreamFailed, chunk_of_event, generate_body
from podpair.gateway.core.model_errors import Failed
from podpair.gateway.core.models import model_of
from podpair.gateway.core.positions import InvalidPosition, Position
from podpair.gateway.core.protocol import Fault, Infer, InvalidFrame, decode, decode_infer, decode_row
from podpair.gateway.core.records import InvalidRecord, Kind, event_of_record, is_json, request_of_record
from podpair.gateway.core.request import InferenceRequest, decode_request, encode_request, shorthand_of
from podpair.gateway.core.row_codec import RowEncoder
from podpair.gateway.core.shorthand import collapse, expand
from podpair.gateway.core.sse import EventParser
from podpair.gateway.core.wires import EventStreamWire, JsonWire, RawWire
from podpair.gateway.upstream import grpc_messages

METADATA = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[-1,2]}],"outputs":[{"name":"y","datatype":"FP32","shape":[-1]}]}'
MODEL = model_of("fake", METADATA, None)


def ask(request: InferenceRequest) -> None:
    """All that a question goes through on its way to a model."""
    RowEncoder(MODEL).encode(request)
    for read in (
        lambda: generate_body(request, MODEL),
        lambda: expand(shorthand_of(request), MODEL.only_input()),
        lambda: grpc_messages.request_of_inputs("fake", request.inputs, request.parameters, request.id),
        lambda: chat_body(request) if is_chat(request) else b"",
    ):
        with contextlib.suppress(Fault):
            read()
    with contextlib.suppress(Fault):
        again = decode_request(encode_request(request), request.id, request.model, request.deadline)
        assert again.inputs == request.inputs
        # A list of numbers is read on its way: it says the same, be it in other letters.
        assert again.row is not None or shorthand_of(again) == shorthand_of(request)
        assert again.row is None or again.row == msgspec.json.decode(shorthand_of(request))


@examples(0.15)
@given(payloads)
def test_frames(payload: bytes) -> None:
    frame: str | bytes = payload
    with contextlib.suppress(UnicodeDecodeError):
        frame = payload.decode()
    row = decode_row(frame, {"fake"})
    if row is not None:
        ask(InferenceRequest(row.id, row.model, row=row.data))
    for read in (decode, decode_infer):
        try:
            message = read(frame)  # type: ignore[arg-type]
        except InvalidFrame as error:
            said = error.id
        else:
            said = message.id if isinstance(message, Infer) else None
            if isinstance(message, Infer):
                ask(
                    InferenceRequest(
                        message.id, message.model, bytes(message.inputs), bytes(message.data), bytes(message.parameters)
                    )
                )
        assert said is None or 0 < len(said) <= 128


@examples(0.15)
@given(st.lists(records, min_size=1, max_size=3))
def test_records(found: list[tuple[bytes | None, list[tuple[str, bytes | None]]]]) -> None:
    wires = (JsonWire(b"e.0."), EventStreamWire(b"e.0."), RawWire())
    events = [event_of_record(value, headers, n, b"e.0.") for n, (value, headers) in enumerate(found)]
    for event in merge_adjacent(events):
        read = json.loads(event.payload)
        assert (read["type"], read.get("id")) == (event.name, event.id)
        assert read["position"] == f"e.0.{event.offset}"
        assert (event.kind in (Kind.TERMINAL, Kind.UNREADABLE)) == (event.name in ("result", "error"))
    for wire in wires:
        wire.encode([wire.event(value, headers, n) for n, (value, headers) in enumerate(found)])
    for value, headers in found:
        parse_dead_letter(value, headers)
        with contextlib.suppress(InvalidRecord):
            request = request_of_record(value, headers)
            if hasattr(request, "body"):
                with contextlib.suppress(Fault):
                    ask(decode_request(request.body, request.id, request.model, request.deadline))


@examples(0.05)
@given(texts | st.builds("{}.{}.{}".format, texts, st.integers(), st.integers()))
def test_positions(text: str) -> None:
    try:
        position = Position.parse(text)
    except InvalidPosition:
        return
    assert Position.parse(str(position)) == position


@examples(0.1)
@given(st.lists(payloads | st.sampled_from([b"data: ", b"\r\n", b"\n\n", b"[DONE]"]), max_size=8))
def test_streams_of_a_model(chunks: list[bytes]) -> None:
    events, completion = EventParser(), CompletionAssembler(1000)
    for chunk in chunks:
        for event in [*events.feed(chunk), chunk]:
            with contextlib.suppress(ValueError, StreamFailed):
                chunk_of_event(event)
            with contextlib.suppress(ValueError, StreamFailed):
                assert all(map(is_json, completion.feed(event)))
        with contextlib.suppress(Fault):
            collapse(chunk, single=True)
        for read in (grpc_messages.outputs_of, grpc_messages.part_of_stream):
            with contextlib.suppress(Failed):
                read(chunk)
        with contextlib.suppress(ValueError):
            model_of("m", chunk, chunk)
    whole = completion.result()
    assert whole is None or is_json(whole)


@examples(0.05)
@given(st.lists(intact | damaged(intact), max_size=5))
def test_what_a_client_reads(payloads: list[bytes]) -> None:
    state = SessionState()
    state.submit(Request("a", {"model": "m"}))
    for payload in payloads:
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            event = msgspec.json.decode(payload)
            if isinstance(event, dict):
                state.receive(event)
        state.next_frame(0.0)
