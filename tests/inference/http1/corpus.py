"""The cases of corpus.yaml, a client that holds them against a server, and llhttp's own verdict on them."""

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httptools
import yaml

_BODY = b'{"inputs":[{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1]}]}'
_TRAP = b"POST /v2/models/trap/infer HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b" % (len(_BODY), _BODY)
_POST = b"POST /v2/models/plus/infer HTTP/1.1\r\nHost: h\r\n"
_PARTS = {
    "POST": _POST,
    "CHUNKED": _POST + b"Transfer-Encoding: chunked\r\n\r\n",
    "SIZE": b"%d" % len(_BODY),
    "CL": b"Content-Length: %d\r\n" % len(_BODY),
    "BODY": _BODY,
    "CHUNKS": b"%x\r\n%b\r\n0\r\n\r\n" % (len(_BODY), _BODY),
    "EACH": b"".join(b"1\r\n%c\r\n" % byte for byte in _BODY),
    "LIVE": b"GET /v2/health/live HTTP/1.1\r\nHost: h\r\n\r\n",
    "TRAP": _TRAP,
    "TRAP-CL": b"Content-Length: %d\r\n" % len(_TRAP),
    "TRAP-CHUNK": b"%x\r\n%b\r\n" % (len(_TRAP), _TRAP),
}
# The request behind each case, and what its answer holds.
NEXT = b"GET /v2/health/ready HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
READY = b'{"ready":true}'

Verdict = tuple[int, str]


class Case(NamedTuple):
    """A case. `others` are the verdicts that differ, by who gives them."""

    name: str
    pieces: list[bytes | int]
    answers: list[int]
    taken: int
    next: str
    others: dict[str, Verdict]
    own: bool

    @property
    def bodiless(self) -> bool:
        """Whether the first answer is one to HEAD."""
        return isinstance(self.pieces[0], bytes) and self.pieces[0].startswith(b"HEAD ")

    @property
    def data(self) -> bytes:
        """All its bytes."""
        return b"".join(piece for piece in self.pieces if isinstance(piece, bytes))


def cases() -> list[Case]:
    """All of them, as the file has them."""
    sections = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text("utf-8"))
    return [_case(section, **given) for section, found in sections.items() for given in found]


def _case(
    section: str, name: str, rfc: str, send: Any, answers: list[int], next: str,  # noqa: A002
    size: int = 0, taken: int | None = None, own: str = "", because: str = "", **others: list[Any],
) -> Case:  # fmt: skip
    pieces: list[bytes | int] = []
    for piece in [send] if isinstance(send, str) else send:
        data = piece if isinstance(piece, int) else _bytes(piece)
        if size and isinstance(data, bytes):
            pieces += [data[i : i + size] for i in range(0, len(data), size)]
        else:
            pieces.append(data)
    assert next in ("answered", "closed")
    assert set(others) <= {"llhttp", "h11", "httptools"}, others
    assert bool(others) == bool(because), f"{name}: a difference and its reason belong together"
    if taken is None:
        taken = sum(status in (200, 404, 405) for status in answers)
    verdicts = {who: (int(verdict[0]), str(verdict[1])) for who, verdict in others.items()}
    return Case(f"{section}: {name} ({rfc})", pieces, answers, taken, next, verdicts, bool(own))


def _bytes(text: str) -> bytes:
    data = text.encode("latin-1")
    data = re.sub(rb"<(\d+)\*(.+?)>", lambda found: found[2] * int(found[1]), data, flags=re.DOTALL)
    return re.sub(rb"<([A-Z-]+)>", lambda found: _PARTS[found[1].decode()], data)


class Answer(NamedTuple):
    """One answer; interim ones have neither headers nor a body that count."""

    status: int
    headers: dict[str, str]
    body: bytes


def converse(address: tuple[str, int], case: Case, *, strict: bool = True) -> tuple[list[Answer], str]:
    """Hold a case against a server: its answers before that to the next request, and what came of that.

    Raises ConnectionError where the server resets the connection, TimeoutError where it says nothing, ValueError where what it
    says is no answer; unless `strict` a reset is taken for the end.
    """
    answers: list[Answer] = []
    with socket.create_connection(address, 20) as wire, wire.makefile("rb") as file:
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for piece in [*case.pieces, NEXT]:
                if isinstance(piece, bytes):
                    wire.sendall(piece)
                else:
                    _read(file, answers, case, piece)
            _read(file, answers, case)
        except ConnectionError:
            if strict:
                raise
    if answers and answers[-1].body == READY:
        return answers[:-1], "answered"
    return answers, "closed"


def _read(file: Any, answers: list[Answer], case: Case, status: int = 0) -> None:
    """Read until an answer of this status, or to the end."""
    for answer in _answers(file, not answers and case.bodiless):
        answers.append(answer)
        if answer.status == status:
            return


def _answers(file: Any, bodiless: bool) -> Iterator[Answer]:
    while line := file.readline():
        found = re.fullmatch(rb"HTTP/1\.1 (\d{3}) [^\r\n]*\r\n", line)
        if found is None:
            raise ValueError(f"{line!r} is no status line")
        headers = {}
        while (line := file.readline()) != b"\r\n":
            if not line:
                raise ValueError("the answer has no end")
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        status = int(found[1])
        yield Answer(status, headers, b"" if bodiless or status < 200 else _body(file, headers))
        bodiless = bodiless and status < 200


def _body(file: Any, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding") != "chunked":
        return bytes(file.read(int(headers.get("content-length", -1))))
    content = b""
    while size := int(file.readline(), 16):
        content += file.read(size + 2)[:-2]
    file.readline()
    return content


class Llhttp:
    """What llhttp understands, strict as it is unless told otherwise."""

    def __init__(self) -> None:
        self.targets: list[bytes] = []
        self._target = b""

    def on_message_begin(self) -> None:
        self._target = b""

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_message_complete(self) -> None:
        self.targets.append(self._target)

    def verdict(self, case: Case) -> Verdict:
        """How many requests it finds before the next one, and whether it finds that."""
        parser = httptools.HttpRequestParser(self)
        try:
            parser.feed_data(case.data)
            parser.feed_data(NEXT)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            pass
        found = len(self.targets)
        if self.targets[-1:] == [b"/v2/health/ready"]:
            return found - 1, "answered"
        return found, "closed"
