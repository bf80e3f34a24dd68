"""What goes between the server and a worker process: whole, in any pieces, and nothing that isn't data."""

import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from podpair.inference.core.errors import InferenceError, InvalidRequestError, ModelError, OverloadedError
from podpair.inference.core.restarts import RestartBackoff
from podpair.inference.core.tensors import DATATYPES
from podpair.inference.core.worker_messages import (
    PREFIX,
    VERSION,
    Answer,
    Begin,
    End,
    Failure,
    MessageError,
    Run,
    decode,
    encode,
    lengths,
)
from podpair.inference.runtime.user_code import UserCodeError
from podpair.inference.runtime.worker.channel import Channel
from podpair.inference.runtime.worker.failures import error_of, failure_of


def there(message: Any, *arrays: Any) -> tuple[Any, list[Any]]:
    """A message as the other side reads it."""
    frame = b"".join(bytes(memoryview(buffer)) for buffer in encode(message, arrays))
    head, body = lengths(frame[: PREFIX.size])
    assert len(frame) == PREFIX.size + head + body
    return decode(frame[PREFIX.size :][:head], np.frombuffer(bytearray(frame), np.uint8)[PREFIX.size + head :])


def texts(*items: bytes) -> Any:
    array = np.empty(len(items), object)
    array[:] = items
    return array


@pytest.mark.parametrize("datatype", [name for name in DATATYPES if name != "BYTES"])
@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (5, 3)])
def test_a_tensor_arrives_as_it_is(datatype: str, shape: tuple[int, ...]) -> None:
    size = int(np.prod(shape)) * DATATYPES[datatype].itemsize
    array = (np.arange(size) % 2).astype(np.uint8).view(DATATYPES[datatype]).reshape(shape)
    _, (found, after) = there(Run(), array, texts(b"after"))
    assert (found.dtype, found.shape, found.tobytes()) == (array.dtype, shape, array.tobytes())
    assert after.tolist() == [b"after"]


def test_what_lies_otherwise_in_memory_arrives_row_by_row_and_little_endian() -> None:
    array = np.arange(12, dtype=">i4").reshape(3, 4)
    _, (turned, every) = there(Answer(), array.T, array[:, ::2])
    assert turned.dtype == np.dtype("<i4")
    assert turned.tolist() == array.T.tolist()
    assert every.tolist() == array[:, ::2].tolist()


def test_bytes_of_any_kind_arrive() -> None:
    items = [b"", b"\xff\0", "é".encode(), b"x" * 100_000]
    grid = texts(*items).reshape(2, 2)
    _, (found, none) = there(Run(), grid, texts())
    assert (found.shape, found.ravel().tolist(), none.shape) == ((2, 2), items, (0,))


@pytest.mark.parametrize("message", [Run, lambda given: Begin(1, 8, given[0])], ids=["run", "stream"])
def test_parameters_arrive_whatever_json_can_say(message: Any) -> None:
    given = [{"a": 2**70, "b": [-(2**65), True, None, 1.5, "é"], "c": {"d": 2**63}, "e": 2**64 - 1}]
    found, _ = there(message(given))
    assert (found.parameters if isinstance(found, Begin) else found.parameters[0]) == given[0]


def test_failures_keep_what_clients_are_told_by() -> None:
    class Mine(InvalidRequestError):
        pass

    def sent(error: BaseException) -> Exception:
        end, _ = there(End(3, failure_of(error)))
        return error_of(end.failure)

    for error, kind in (
        (Mine("no"), InvalidRequestError),
        (ModelError("m"), ModelError),
        (InferenceError("i"), InferenceError),
    ):
        found = sent(error)
        assert (type(found), str(found)) == (kind, str(error))
    overloaded = sent(OverloadedError("full", 7.5))
    assert isinstance(overloaded, OverloadedError)
    assert overloaded.retry_after == 7.5
    try:
        raise UserCodeError("KeyError: 'x' (model.py:7, in predict)")
    except UserCodeError as error:
        user = sent(error)
    assert (type(user), str(user)) == (UserCodeError, "KeyError: 'x' (model.py:7, in predict)")
    assert "test_worker_messages.py" in str(user.__cause__)
    assert str(sent(SystemExit(3))) == "SystemExit: 3"


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\xc1",
        b"\x92\x91\xa3run\x90\x00",
        b"\x92\x91\xa5other\x90",
        b"\x92\x92\xa3run\x90\x91\x94\xa4FP32\x91\x02\xa0\x04",
    ],
)
def test_what_is_no_message_is_told(head: bytes) -> None:
    with pytest.raises(MessageError):
        decode(head, np.empty(16, np.uint8))


def test_another_version_s_frame_is_told() -> None:
    with pytest.raises(MessageError, match=f"version {VERSION + 1}, this is {VERSION}"):
        lengths(PREFIX.pack(VERSION + 1, 0, 1, 0))


@pytest.fixture
def pair() -> Iterator[tuple[Channel, socket.socket, Channel]]:
    ours, theirs = socket.socketpair()
    yield Channel(ours), theirs, Channel(theirs)
    ours.close()
    theirs.close()


def test_messages_arrive_in_any_pieces(pair: tuple[Channel, socket.socket, Channel]) -> None:
    channel, theirs, _ = pair
    array = np.arange(1000, dtype=np.int64)
    frame = b"".join(bytes(memoryview(buffer)) for buffer in encode(Answer(), [array, texts(b"a", b"b")]))
    stream = frame * 3

    def send() -> None:
        for start in range(0, len(stream), 777):
            theirs.sendall(stream[start : start + 777])

    sender = threading.Thread(target=send)
    sender.start()
    for _ in range(3):
        message, (numbers, words) = channel.receive()
        assert isinstance(message, Answer)
        assert np.array_equal(numbers, array)
        assert words.tolist() == [b"a", b"b"]
    sender.join()


def test_more_than_the_socket_holds_goes_both_ways_and_may_be_written_to(
    pair: tuple[Channel, socket.socket, Channel],
) -> None:
    channel, _, other = pair
    array = np.arange(1 << 20, dtype=np.float64)

    def echo() -> None:
        _, arrays = other.receive()
        arrays[0] += 1
        other.send(Answer(), arrays)

    echoing = threading.Thread(target=echo)
    echoing.start()
    channel.send(Run(), [array])
    _, (found,) = channel.receive()
    echoing.join()
    assert np.array_equal(found, array + 1)


def test_an_end_and_a_time_out_are_told_apart(pair: tuple[Channel, socket.socket, Channel]) -> None:
    channel, theirs, other = pair
    channel.set_timeout(0.01)
    with pytest.raises(TimeoutError):
        channel.receive()
    channel.set_timeout(None)
    theirs.sendall(struct.pack("<H", VERSION))
    other.shut()
    with pytest.raises(EOFError):
        channel.receive()


def test_a_process_is_started_again_at_once_then_less_and_less_often() -> None:
    backoff = RestartBackoff()
    waits = [backoff.next_wait(0) for _ in range(40)]
    assert waits[:5] == [0, 0.5, 1, 2, 4]
    assert waits == sorted(waits)
    assert waits[-1] == 60
    # It was up for long: what happens then has nothing to do with what was.
    assert backoff.next_wait(3600) == 0
    assert backoff.next_wait(1) == 0.5


def test_a_failure_without_a_traceback_is_one_line() -> None:
    assert str(error_of(Failure("NoSuchError", "what"))) == "what"
