"""A load client: holds many sessions and checks what they receive. A process of its own, driven by lines of JSON.

In: {"expect": N, "patience": seconds} once a phase's records are on their way. Out: {"connected": …}, then a report a phase,
when all have come or none has for `patience` seconds. It takes picows for the sockets, so that it is not what is measured.
"""

import argparse
import asyncio
import json
import resource
import sys
import time
from array import array

import jwt
import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect


class Phase:
    """What was received since the phase began."""

    def __init__(self, sessions: int) -> None:
        self.next = array("q", [-1]) * sessions  # the last sequence number of each session
        self.received = self.duplicates = self.out_of_order = 0
        self.latencies = array("q")  # ns
        self.last = 0.0
        spent = resource.getrusage(resource.RUSAGE_SELF)
        self.cpu = spent.ru_utime + spent.ru_stime


class Listeners:
    """All sessions, and the phase that is on."""

    def __init__(self, sessions: int, apart: int, deaf: bool) -> None:
        self.sessions = sessions
        self.apart = apart  # the first so many are not counted
        self.deaf = deaf  # and read nothing after their welcome
        self.phase = Phase(sessions)
        self.welcomed = 0
        self.expected = 0
        self.reached = asyncio.Event()

    def record(self, index: int, payload: bytes) -> None:
        now = time.time_ns()
        at = payload.find(b'"n":')
        number, _, rest = payload[at + 4 : at + 40].partition(b',"t":')
        sequence, sent = int(number), int(rest[: rest.find(b"}")])
        phase = self.phase
        last = phase.next[index]
        if sequence == last + 1:
            phase.next[index] = sequence
        elif sequence <= last:
            phase.duplicates += 1
        else:
            phase.out_of_order += 1
            phase.next[index] = sequence
        phase.received += 1
        phase.latencies.append(now - sent)
        phase.last = now / 1e9
        if phase.received == self.expected:
            self.reached.set()

    async def all_expected(self, expected: int, patience: float) -> None:
        """Until all that is expected has come, or nothing has for `patience` seconds."""
        self.expected, before = expected, -1
        while self.phase.received < expected and self.phase.received != before:
            before = self.phase.received
            try:
                async with asyncio.timeout(patience):
                    await self.reached.wait()
            except TimeoutError:
                continue


class Listener(WSListener):
    def __init__(self, index: int, listeners: Listeners, dialect: str) -> None:
        self.index = index
        self.listeners = listeners
        self.dialect = dialect

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.TEXT:
            payload = frame.get_payload_as_bytes()
            if b'"n":' in payload:
                if self.index < self.listeners.apart:
                    return
                self.listeners.record(self.index, payload)
            elif self.dialect == "socketio":
                self._socketio(transport, payload)
            elif payload.startswith(b'{"type":"welcome"'):
                self.listeners.welcomed += 1
                if self.listeners.deaf and self.index < self.listeners.apart:
                    transport.underlying_transport.pause_reading()
        elif frame.msg_type == WSMsgType.PING:
            transport.send_pong(frame.get_payload_as_bytes())
        elif frame.msg_type == WSMsgType.CLOSE:
            print(json.dumps({"closed": self.index, "code": frame.get_close_code()}), file=sys.stderr, flush=True)

    def _socketio(self, transport: WSTransport, payload: bytes) -> None:
        """Engine.IO 4: open → connect to the default namespace → connected; ping → pong."""
        if payload.startswith(b"0"):
            transport.send(WSMsgType.TEXT, b"40")
        elif payload.startswith(b"40"):
            self.listeners.welcomed += 1
        elif payload == b"2":
            transport.send(WSMsgType.TEXT, b"3")


def report(phase: Phase, expected: int) -> dict[str, object]:
    order = sorted(phase.latencies)
    spent = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "received": phase.received,
        "missing": expected - phase.received + phase.duplicates,
        "duplicates": phase.duplicates,
        "out_of_order": phase.out_of_order,
        "p50_ms": round(order[len(order) // 2] / 1e6, 3) if order else None,
        "p99_ms": round(order[len(order) * 99 // 100] / 1e6, 3) if order else None,
        "last": phase.last,
        "client_cpu_s": round(spent.ru_utime + spent.ru_stime - phase.cpu, 2),
    }


async def run(url: str, sessions: int, secret: str, dialect: str, apart: int, deaf: bool) -> None:
    listeners = Listeners(sessions, apart, deaf)
    room = asyncio.Semaphore(100)

    async def connect(index: int) -> object:
        claims = {"sub": f"u{index}", "sid": f"b-{index:06d}", "exp": int(time.time()) + 3600}
        headers = {"Authorization": f"Bearer {jwt.encode(claims, secret, algorithm='HS256')}"}
        async with room:
            return await ws_connect(lambda: Listener(index, listeners, dialect), url, extra_headers=headers)

    started = time.time()
    connections = await asyncio.gather(*(connect(i) for i in range(sessions)))
    while listeners.welcomed < sessions:
        await asyncio.sleep(0.01)
    print(json.dumps({"connected": len(connections), "seconds": round(time.time() - started, 2)}), flush=True)
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        command = json.loads(line)
        await listeners.all_expected(command["expect"], command["patience"])
        print(json.dumps(report(listeners.phase, command["expect"])), flush=True)
        listeners.phase = Phase(sessions)
        listeners.expected = 0
        listeners.reached.clear()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--sessions", type=int, required=True)
    parser.add_argument("--secret", required=True)
    parser.add_argument("--dialect", choices=["podpair", "native", "socketio"], required=True)
    parser.add_argument("--apart", type=int, default=0, help="how many sessions, the first, are not counted")
    parser.add_argument("--deaf", action="store_true", help="these read nothing after their welcome")
    options = parser.parse_args()
    uvloop.run(run(options.url, options.sessions, options.secret, options.dialect, options.apart, options.deaf))
