"""A load client: many WebSockets, each with so many requests open all the time. A process of its own; one line of JSON.

Every answer is checked: it must be for a request that is open, come once, and hold what the model says to that row asked
alone. Frames are made beforehand and only their ids are written in; the mask is zero (RFC 6455 lets a client choose it),
and picows reads: so that the client is not what is measured. Its own CPU time is in the line.
"""

import argparse
import asyncio
import json
import random
import resource
import ssl
import time
from array import array
from dataclasses import dataclass, field

import jwt
import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

_ROWS = 16  # different rows
_DIGITS = 9  # of an id
_ID = b"0" * _DIGITS


def rows() -> list[list[float]]:
    """What is asked: rows of 64 floats with four decimals."""
    draw = random.Random(5)
    return [[round(draw.random(), 4) for _ in range(64)] for _ in range(_ROWS)]


def frames(model: str, route: str) -> list[tuple[bytes, bytes]]:
    """For each row what stands before and behind the id, as a masked text frame whose mask is zero."""
    made = []
    for row in rows():
        text = json.dumps({"type": "infer", "id": _ID.decode(), "model": model, "data": row, "route": route})
        payload = text.replace(" ", "").encode()
        before, _, after = payload.partition(_ID)
        made.append((b"\x81\xfe" + len(payload).to_bytes(2, "big") + bytes(4) + before, after))
    return made


@dataclass
class Count:
    """What has happened in the phase that is on."""

    running: bool = False
    answered: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    strays: int = 0  # answers to what was not open
    wrong: int = 0  # answers that are not the row's
    open: int = 0
    latencies: array = field(default_factory=lambda: array("q"))  # ns
    idle: asyncio.Event = field(default_factory=asyncio.Event)


class Asker(WSListener):
    """One connection."""

    def __init__(
        self, options: argparse.Namespace, made: list[tuple[bytes, bytes]], expected: list[list[float]]
    ) -> None:
        self.depth = options.open
        self.made = made
        self.expected = expected
        self.count = Count()
        self.next = 0
        self.sent: dict[int, int] = {}  # ns, by id
        self.due = 0  # requests to send when everything that has arrived is read
        self.welcomed = asyncio.get_running_loop().create_future()
        self.loop = asyncio.get_running_loop()

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport

    def begin(self, count: Count) -> None:
        self.count = count
        self.ask(self.depth)

    def ask(self, many: int) -> None:
        now = time.perf_counter_ns()
        parts = []
        for _ in range(many):
            number = self.next
            self.next = number + 1
            self.sent[number] = now
            before, after = self.made[number % _ROWS]
            parts += (before, b"%09d" % number, after)
        self.count.open += many
        self.transport.underlying_transport.write(b"".join(parts))

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.TEXT:
            self.text(frame.get_payload_as_bytes())
        elif frame.msg_type == WSMsgType.PING:
            transport.send_pong(frame.get_payload_as_bytes())
        elif frame.msg_type == WSMsgType.CLOSE:
            print(json.dumps({"closed": frame.get_close_code()}), flush=True)

    def text(self, payload: bytes) -> None:
        if payload.startswith(b'{"type":"accepted"'):
            return
        if not self.welcomed.done():
            self.welcomed.set_result(None)
            return
        count = self.count
        at = payload.rfind(b'"id":"')
        number = int(payload[at + 6 : at + 6 + _DIGITS]) if at >= 0 else -1
        sent = self.sent.pop(number, 0)
        if not sent:
            count.strays += 1
            return
        count.open -= 1
        if b'"type":"result"' in payload[-110:]:
            count.answered += 1
            count.latencies.append(time.perf_counter_ns() - sent)
            if number % 61 == 0:
                self.check(number, payload)
        else:
            code = str(json.loads(payload).get("code"))
            count.errors[code] = count.errors.get(code, 0) + 1
        if count.running:
            if not self.due:
                self.loop.call_soon(self.go_on)
            self.due += 1
        elif not count.open:
            count.idle.set()

    def go_on(self) -> None:
        many, self.due = self.due, 0
        self.ask(many)

    def check(self, number: int, payload: bytes) -> None:
        (got,) = json.loads(payload)["data"].values()
        want = self.expected[number % _ROWS]
        if len(got) != len(want) or any(abs(a - b) > 1e-4 for a, b in zip(got, want, strict=True)):
            self.count.wrong += 1


async def phase(askers: list[Asker], seconds: float, patience: float) -> dict[str, object]:
    """Ask for so long, then wait for what is open; the figures are of the time in which was asked."""
    count = Count()
    before = resource.getrusage(resource.RUSAGE_SELF)
    began = time.perf_counter()
    count.running = True
    for asker in askers:
        asker.begin(count)
    await asyncio.sleep(seconds)
    answered, took = count.answered, time.perf_counter() - began
    count.running = False
    async with asyncio.timeout(patience):
        await count.idle.wait()
    after = resource.getrusage(resource.RUSAGE_SELF)
    order = sorted(count.latencies)
    return {
        "requests_per_s": round(answered / took),
        "answered": count.answered,
        "errors": count.errors,
        "strays": count.strays,
        "wrong": count.wrong,
        "p50_ms": round(order[len(order) // 2] / 1e6, 3) if order else None,
        "p99_ms": round(order[len(order) * 99 // 100] / 1e6, 3) if order else None,
        "client_cpu_us": round(
            (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1e6 / max(count.answered, 1), 2
        ),
    }


async def run(options: argparse.Namespace) -> None:
    made = frames(options.model, options.route)
    expected = json.loads(options.expected)
    context = None if options.ca is None else ssl.create_default_context(cafile=options.ca)

    async def connect(index: int) -> Asker:
        claims = {"sub": f"u{index}", "exp": int(time.time()) + 3600}
        headers = {"Authorization": f"Bearer {jwt.encode(claims, options.secret, algorithm='HS256')}"}
        _, listener = await ws_connect(
            lambda: Asker(options, made, expected), options.url, ssl_context=context, extra_headers=headers
        )
        await listener.welcomed
        return listener

    askers = [await connect(i) for i in range(options.connections)]
    print(json.dumps({"connected": len(askers)}), flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, input):
        try:
            found = await phase(askers, float(line), options.patience)
        except TimeoutError:
            raise SystemExit(f"what was open at the end was not answered in {options.patience:.0f} s") from None
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--secret", required=True)
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--open", type=int, required=True, help="requests that each connection has open")
    parser.add_argument("--model", default="mlp")
    parser.add_argument("--route", default="direct")
    parser.add_argument("--ca", help="whose certificates are believed, in PEM, for a wss:// URL")
    parser.add_argument("--patience", type=float, default=30, help="seconds that what is open at the end may take")
    parser.add_argument("--expected", required=True, help="JSON: the answers to the rows")
    uvloop.run(run(parser.parse_args()))
