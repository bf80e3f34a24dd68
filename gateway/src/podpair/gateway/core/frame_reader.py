"""Reads the frames that a WebSocket client sends (RFC 6455, 5), one at a time, so that the caller decides how many a turn.

Invariant: what breaks a MUST of the RFC is refused with the close code that it names, and no more than `limit` bytes of a
message, beside what one read brought, are ever held. What can't become a text any more is refused at once (RFC 6455, 8.1).
"""

import codecs
import struct
from collections.abc import Callable

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

Unmask = Callable[[bytes, bytearray], object]
"""Applies a mask (4 bytes) to a payload, in place."""

_head = struct.Struct(">HH4s").unpack_from  # a frame's first bytes, if its length is one of two bytes: and its mask
_PROTOCOL_ERROR, _INVALID_TEXT, _TOO_LARGE = 1002, 1007, 1009
_NO_TEXT = "a text message is not UTF-8"
_CODES = frozenset(
    (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014)
)  # of IANA's registry, to send


class FrameError(Exception):
    """A frame breaks the protocol, or is too large; `code` is the close code for it."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def unmask(mask: bytes, payload: bytearray) -> None:
    """Apply `mask` to `payload` in place, in pure Python."""
    size = len(payload)
    repeated = (mask * (size // 4 + 1))[:size]
    payload[:] = (int.from_bytes(payload, "little") ^ int.from_bytes(repeated, "little")).to_bytes(size, "little")


class FrameReader:
    """The frames of one client. `limit`: bytes of a message, however many frames it comes in.

    `more` says whether bytes are left behind the frame that was taken last.
    """

    __slots__ = ("_at", "_checked", "_data", "_decoder", "_limit", "_message", "_opcode", "_unmask", "more")

    def __init__(self, limit: int, unmask: Unmask = unmask) -> None:
        self._limit = limit
        self._unmask = unmask
        self._data: bytes | bytearray = b""  # what was read, from `_at` on
        self._at = 0
        self._opcode = TEXT  # of the message that has begun
        self._message: bytearray | None = None  # its frames so far
        self._decoder: codecs.IncrementalDecoder | None = None  # has seen what came of a text that isn't whole
        self._checked = 0  # bytes of the frame at `_at` among that
        self.more = False

    @property
    def pending(self) -> int:
        """Bytes that were read and not yet taken."""
        return len(self._data) - self._at

    def feed(self, data: bytes) -> None:
        """Add what was read."""
        if not self.more:
            self._data, self._at = data, 0
        else:
            if self._at or not isinstance(self._data, bytearray):
                self._data, self._at = bytearray(memoryview(self._data)[self._at :]), 0
            self._data += data
        self.more = True

    def whole_text(self, data: bytes) -> str | None:
        """Return the message if nothing is pending and `data` is one frame that holds it, as nearly always; else None.

        What `next` would do with it, in a third of the time. Raises FrameError.
        """
        if len(data) < 8 or self.more or self._message is not None:
            return None
        head, length, mask = _head(data)
        if head == 0x81FE and length > 125:  # final, no reserved bit, text, masked
            start = 8
        elif 0x8180 <= head < 0x81FE:
            start, length, mask = 6, head - 0x8180, data[2:6]
        else:
            return None
        if start + length != len(data) or length > self._limit:
            return None
        payload = bytearray(data[start:])
        self._unmask(mask, payload)
        try:
            return payload.decode()
        except UnicodeDecodeError:
            return _text(payload)  # which says why not

    def texts(self, most: int, size: int) -> list[str]:
        """Take the next messages that are single, complete text frames: at most `most` of them, some `size` bytes.

        What `next` would do with them, in a part of the time. All else, and what is wrong, is left to it.
        """
        found: list[str] = []
        if self._message is not None:
            return found
        data, at, unmask, limit = self._data, self._at, self._unmask, self._limit
        last = len(data) - 8
        end = at + size
        while at <= last and at <= end and len(found) < most:
            head, length, mask = _head(data, at)
            if head == 0x81FE and length > 125:
                start = at + 8
            elif 0x8180 <= head < 0x81FE:
                start, length, mask = at + 6, head - 0x8180, bytes(data[at + 2 : at + 6])
            else:
                break
            stop = start + length
            if stop > last + 8 or length > limit:
                break
            payload = bytearray(data[start:stop])
            unmask(mask, payload)
            try:
                found.append(payload.decode())
            except UnicodeDecodeError:
                break
            at = stop
        if found:
            self._checked, self._decoder = 0, None  # the first may have been there in part before
            self._taken(at)
        return found

    def next(self) -> tuple[int, str | bytes] | None:
        """Return the opcode and the message or payload of the next frame; None until more is fed.

        A message is returned with its last frame, by the opcode of its first; each frame before as CONTINUATION, empty.
        Raises FrameError; then nothing more can be read.
        """
        data, at = self._data, self._at
        start, end = at + 2, len(data)
        if end < start:
            return self._wait()
        first, second = data[at], data[at + 1]
        opcode, length = first & 0x0F, second & 0x7F
        if first & 0x70:
            raise FrameError(_PROTOCOL_ERROR, "a reserved bit is set, and no extension was agreed on")
        if not second & 0x80:
            raise FrameError(_PROTOCOL_ERROR, "a client's frame must be masked")
        if opcode >= CLOSE:
            _check_control(opcode, first, length)
        else:
            self._check_place(opcode)
            if length > 125:
                size = 2 if length == 126 else 8
                start += size
                if end < start:
                    return self._wait()
                length = int.from_bytes(data[start - size : start], "big")
                if length < (126 if size == 2 else 0x10000) or length >> 63:
                    raise FrameError(_PROTOCOL_ERROR, "a frame's length is not written as it must be")
            if length + (len(self._message) if self._message is not None else 0) > self._limit:
                raise FrameError(_TOO_LARGE, f"a message is larger than {self._limit} bytes")
        start += 4
        stop = start + length
        if end < stop:
            if opcode < CLOSE and (opcode or self._opcode) == TEXT:
                self._check_part(start, end)
            return self._wait()
        payload = bytearray(data[start:stop])
        self._unmask(bytes(data[start - 4 : start]), payload)
        self._taken(stop)
        if opcode >= CLOSE:
            return opcode, bytes(payload)
        return self._joined(opcode, payload, last=first >= 0x80)

    def _check_part(self, start: int, end: int) -> None:
        """Check that the first bytes of a frame's payload are a text so far, so that other data is refused at once."""
        begin = start + self._checked
        if end <= begin:
            return
        mask, turn = bytes(self._data[start - 4 : start]), self._checked % 4
        part = bytearray(self._data[begin:end])
        self._unmask(mask[turn:] + mask[:turn], part)
        self._decode(part)
        self._checked = end - start

    def _decode(self, part: bytes | bytearray) -> None:
        """Check whether a text may go on like this. Raises FrameError."""
        if self._decoder is None:
            self._decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            self._decoder.decode(part)
        except UnicodeDecodeError:
            raise FrameError(_INVALID_TEXT, _NO_TEXT) from None

    def _check_place(self, opcode: int) -> None:
        """Raise FrameError if such a data frame is not allowed here."""
        if opcode > BINARY:
            raise FrameError(_PROTOCOL_ERROR, f"opcode {opcode} is reserved")
        if (opcode == CONTINUATION) is (self._message is None):
            wrong = "another message begins in" if opcode else "a continuation without"
            raise FrameError(_PROTOCOL_ERROR, f"{wrong} a fragmented message")

    def _taken(self, stop: int) -> None:
        """Mark everything before `stop` as consumed."""
        if stop < len(self._data):
            self._at = stop
        else:
            self._data, self._at, self.more = b"", 0, False

    def _wait(self) -> tuple[int, str | bytes] | None:
        """Keep only unconsumed bytes, because no frame is complete."""
        if self._at:
            self._data, self._at = bytearray(memoryview(self._data)[self._at :]), 0
        return None

    def _joined(self, opcode: int, payload: bytearray, *, last: bool) -> tuple[int, str | bytes]:
        """Add a data frame, and return the message if the frame is its last."""
        checked, self._checked = self._checked, 0
        if last:
            self._decoder = None
        elif (opcode or self._opcode) == TEXT:
            self._decode(payload[checked:])
        if opcode == CONTINUATION or not last:
            if self._message is None:
                self._opcode, self._message = opcode, payload
            else:
                self._message += payload
            if not last:
                return CONTINUATION, b""
            opcode, payload, self._message = self._opcode, self._message, None
        if opcode == BINARY:
            return BINARY, bytes(payload)
        return TEXT, _text(payload)


def _text(payload: bytearray) -> str:
    try:
        return payload.decode()
    except UnicodeDecodeError:
        raise FrameError(_INVALID_TEXT, _NO_TEXT) from None


def _check_control(opcode: int, first: int, length: int) -> None:
    if opcode > PONG:
        raise FrameError(_PROTOCOL_ERROR, f"opcode {opcode} is reserved")
    if first < 0x80:
        raise FrameError(_PROTOCOL_ERROR, "a control frame must not be fragmented")
    if length > 125:
        raise FrameError(_PROTOCOL_ERROR, "a control frame holds at most 125 bytes")


def close_code(payload: bytes) -> int | None:
    """Return the code in a close frame's payload, or None if it has none. Raises FrameError."""
    if not payload:
        return None
    code = int.from_bytes(payload[:2], "big")
    if len(payload) == 1 or not (code in _CODES or 3000 <= code <= 4999):
        raise FrameError(_PROTOCOL_ERROR, "a close frame's code is none that may be sent")
    try:
        payload[2:].decode()
    except UnicodeDecodeError:
        raise FrameError(_INVALID_TEXT, "a close frame's reason is not UTF-8") from None
    return code
