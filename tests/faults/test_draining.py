"""A gateway that is asked to leave sends its clients to another, in turn; they miss nothing, and it exits with 0."""

import asyncio
import json
import signal
from typing import Any

from confluent_kafka import Producer

import podpair.client
from harness.checking import OrderChecker, TerminalChecker
from harness.pair import Gateway, token

_CLIENTS, _PUSHES, _REQUESTS = 100, 50, 20


class Client:
    """Listens and asks until it has everything; `drained` once a gateway has asked it to leave."""

    def __init__(self, name: str, pushes: OrderChecker, answers: TerminalChecker) -> None:
        self.name = name
        self.began, self.moved, self.may_end = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.drained = False
        self.gateways: list[str] = []  # the first that it was at, and the last
        self._pushes = pushes
        self._answers = answers

    def _on_event(self, event: dict[str, Any]) -> None:
        if event["type"] == "accepted":
            self._answers.accepted(self.name, event["id"])
        self.drained |= event["type"] == "drain"
        if event["type"] == "welcome":
            self.gateways[1:] = [event["gateway"]]
            if not self.gateways:
                self.gateways = [event["gateway"]]
            elif self.gateways[0] != event["gateway"]:
                self.moved.set()

    async def run(self, urls: list[str]) -> None:
        jwt = token(self.name, sid=self.name)
        async with podpair.client.connect(urls, token=jwt, on_event=self._on_event, open_timeout=60) as session:
            self.began.set()
            # It may have everything before it has found its way to the other gateway.
            await asyncio.gather(self._listen(session), self._ask(session), self.moved.wait(), self.may_end.wait())

    async def _listen(self, session: podpair.client.Session) -> None:
        seen = 0
        async for push in session.pushes():
            self._pushes.saw(self.name, push.data)
            seen += 1
            if seen == _PUSHES:
                return

    async def _ask(self, session: podpair.client.Session) -> None:
        for index in range(_REQUESTS):
            self._answers.asked(self.name, f"r-{index}")
            result = await session.infer("digits", [0.0] * 64, id=f"r-{index}")
            self._answers.ended(self.name, f"r-{index}", "result" if result.data["label"] else "empty")


async def test_every_client_moves_and_misses_nothing(
    two_pairs: list[Gateway], names: dict[str, Any], producer: Producer
) -> None:
    leaving, staying = two_pairs
    pushes = OrderChecker({f"d-{n}": _PUSHES for n in range(_CLIENTS)})
    answers = TerminalChecker()
    clients = [Client(f"d-{n}", pushes, answers) for n in range(_CLIENTS)]
    async with asyncio.timeout(150), asyncio.TaskGroup() as tasks:
        for client in clients:
            tasks.create_task(client.run([leaving.ws, staying.ws]))
        for client in clients:
            await client.began.wait()
        for number in range(_PUSHES):
            for client in clients:
                producer.produce(
                    names["results"]["topic"], key=f"{client.name}/{client.name}", value=json.dumps(number)
                )
            producer.poll(0)
            if number == 5:
                leaving.process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.02)  # they flow while the clients move
        assert await asyncio.to_thread(leaving.process.wait, 60) == 0
        for client in clients:
            client.may_end.set()
    assert pushes.faults() == []
    assert answers.faults() == []
    assert answers.outcomes == {"result": _CLIENTS * _REQUESTS}
    here, there = (gateway.wait_for_message("ready")["gateway"] for gateway in two_pairs)
    assert [(client.gateways, client.drained) for client in clients] == [([here, there], True)] * _CLIENTS
    assert [record["message"] for record in leaving.log if record["level"] in ("ERROR", "CRITICAL")] == []
