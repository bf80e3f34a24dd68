"""This gateway's place in the group of workers: a requests consumer, and another one whenever it is dead, stuck or out of date.

Invariant: of a consumer that is given up nothing reaches the worker any more, and the partitions that it had are lost to the
worker before the next one joins the group; what it had in hand is worked on again by whoever gets them.

**Protocols.** A fleet changes over from one protocol to the other gateway by gateway. The broker does not mix the two where
classic members share partitions out as podpair's do (cooperative-sticky): so a gateway that the group refuses for its protocol
joins with the group's. Those that wait to change to `consumer` say so in their client.id; when all members of a classic group do,
each leaves it, and the first that finds it empty makes it a `consumer` group.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message
from confluent_kafka.admin import AdminClient

from podpair.gateway.config.model import Config
from podpair.gateway.core.offsets import Commit, Committed
from podpair.gateway.kafka.clients import gateway_name, properties
from podpair.gateway.kafka.requests import Gate, GroupProtocol, RequestsConsumer, Worker, membership
from podpair.gateway.kafka.supervisor import Client, Supervisor, cause

_log = logging.getLogger(__name__)
_LOOK = 2.0  # seconds between looks at whether all members want to change over
_ASK = 5.0  # seconds for a question about the group
_PATIENCE = 30.0  # seconds, beyond a session's, in which a group that everybody leaves is to become empty
_UNRELEASED = 2.0  # seconds at most before a name that another member had is asked for again
_WANTS_CONSUMER = "+consumer"  # at the end of the client.id of a member that is to change over
_OTHER: dict[int, GroupProtocol] = {
    KafkaError.GROUP_ID_NOT_FOUND: "classic",  # the group is, and its members can't be taken over
    KafkaError.INCONSISTENT_GROUP_PROTOCOL: "consumer",
}


class _Live:
    """The worker, as one consumer sees it: it hears nothing more of a consumer that was given up."""

    def __init__(self, worker: Worker, gate: Gate, works: Callable[[], object]) -> None:
        self.live = True
        self._worker = worker
        self._gate = gate
        self._works = works

    def assigned(self, partitions: dict[int, Committed]) -> None:
        if self.live:
            self._worker.assigned(partitions)
            self._works()

    def received(self, records: list[Message]) -> None:
        if self.live:
            self._worker.received(records)
        else:
            self._gate.give_room(len(records))

    def taken(self, partitions: list[int]) -> None:
        if self.live:
            self._worker.taken(partitions)

    async def revoked(self, partitions: list[int], *, lost: bool) -> dict[int, Commit]:
        return await self._worker.revoked(partitions, lost=lost) if self.live else {}


class GroupMember:
    """`give_room`, `set_paused` and `commit` of `gate` are the worker's. `owned`: the partitions that the worker has now.

    incarnation: names the topic that there is now.
    """

    def __init__(
        self,
        config: Config,
        worker: Worker,
        owned: Callable[[], frozenset[int]],
        supervisor: Supervisor,
        incarnation: Callable[[], str] = str,
    ) -> None:
        self._config = config
        self._worker = worker
        self._owned = owned
        self.incarnation = incarnation
        self.gate = Gate(config.requests.in_flight)
        self._loop = asyncio.get_running_loop()
        self._client: Client = supervisor.watch("requests", self._replace)
        self._protocol: GroupProtocol = config.requests.protocol
        self._deadline = 0.0  # until when it does not go back to the group's old protocol
        self._fenced = False  # another member took our name
        self._admin: AdminClient | None = None
        self._rebuilding: asyncio.Task[None] | None = None
        self._changing: asyncio.Task[None] | None = None
        self._closed = False
        self._consumer, self._live = self._made()

    def _made(self) -> tuple[RequestsConsumer, _Live]:
        own = membership(self._config, self._protocol)
        if self._protocol == "classic" and self._config.requests.protocol == "consumer":
            mine = self._config.kafka.client.get("client.id", f"podpair-gateway@{gateway_name()}")
            config = self._with_client_id(f"{mine}{_WANTS_CONSUMER}")
        else:
            config = self._config
        live = _Live(self._worker, self.gate, self._client.works)
        consumer = RequestsConsumer(
            config, live, self.gate, calls=self._client.calls(), own=own, incarnation=self.incarnation, died=self._died
        )
        return consumer, live

    def _with_client_id(self, client_id: str) -> Config:
        kafka = self._config.kafka.model_copy(update={"client": {**self._config.kafka.client, "client.id": client_id}})
        return self._config.model_copy(update={"kafka": kafka})

    @property
    def membership(self) -> Any:
        """Names this member in its present generation."""
        return self._consumer.membership

    def start(self) -> None:
        """Join the group."""
        self._consumer.start()

    def _died(self, error: KafkaError) -> None:
        code, wanted = cause(error), self._config.requests.protocol
        other = _OTHER.get(code)
        if other is not None and other != self._protocol and time.monotonic() >= self._deadline:
            _log.warning("the group %s is %s: joining as that (requests.protocol: %s)",
                         self._config.requests.group, other, wanted)  # fmt: skip
            self._protocol = other
        self._fenced = code == KafkaError.FENCED_INSTANCE_ID
        longest = _UNRELEASED if code == KafkaError.UNRELEASED_INSTANCE_ID or other is not None else 30.0
        self._client.died(error, longest=longest)

    def stalled(self, text: str) -> None:
        """It reads nothing, although there are requests: go on with another consumer."""
        self._client.stalled(text)

    def restart(self) -> None:
        """Begin anew, for the topic is another one."""
        if not self._closed:
            self._replace()

    def _replace(self) -> None:
        before = self._rebuilding
        self._rebuilding = self._loop.create_task(self._rebuild(before))

    async def _rebuild(self, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait((before,))
        self._live.live = False
        self._consumer.stop()
        owned = sorted(self._owned())
        self._worker.taken(owned)
        await self._worker.revoked(owned, lost=True)
        with self.gate.changed:
            self.gate.to_commit.clear()
        if self._closed:
            return
        if self._fenced and (holder := await self._loop.run_in_executor(None, self._holder)) is not None:
            # To join would take its partitions away from it, as it did from us, and so on for ever.
            self._client.held_up("FENCED_INSTANCE_ID", f"requests.instance is another member's: {holder}")
            return
        try:
            self._consumer, self._live = self._made()
            self._consumer.start()
        except KafkaException as error:
            self._client.held_up("replacing", error.args[0].str())
            return
        self._loop.call_later(_PATIENCE / 3, self._seems_well, self._live)
        if self._protocol != self._config.requests.protocol and self._changing is None:
            self._changing = self._loop.create_task(self._change_over())

    def _seems_well(self, live: _Live) -> None:
        """A member without a partition hears nothing of the group: after a while without an error it counts as one."""
        if live is self._live and live.live:
            self._client.works()

    def _members(self) -> list[tuple[str, str | None]]:
        """(client.id, group.instance.id) of the members of a classic group. Raises KafkaException. Blocks."""
        group = self._config.requests.group
        if self._admin is None:
            self._admin = AdminClient(properties(self._config))
        found = self._admin.describe_consumer_groups([group], request_timeout=_ASK)[group].result(2 * _ASK)
        return [(member.client_id, member.group_instance_id) for member in found.members]

    def _holder(self) -> str | None:
        """Whose our name is now; None: nobody's, as far as can be told."""
        try:
            members = self._members()
        except (KafkaException, TimeoutError):
            return None
        return next((who for who, instance in members if instance == self._config.requests.instance), None)

    async def _change_over(self) -> None:
        """Leave a classic group as soon as all its members want to, and join it as what is configured."""
        if self._config.requests.protocol != "consumer":
            return  # the broker does not tell of the members of the other kind of group
        while True:
            await asyncio.sleep(_LOOK)
            try:
                members = await self._loop.run_in_executor(None, self._members)
            except (KafkaException, TimeoutError):
                continue
            if all(who.endswith(_WANTS_CONSUMER) for who, _ in members):
                break
        self._changing = None
        _log.info("all members of group %s are to change to protocol consumer", self._config.requests.group)
        # A static member that has left is a member still, until its session ends.
        self._deadline = time.monotonic() + self._config.requests.session_timeout_seconds + _PATIENCE
        self._protocol = "consumer"
        self._replace()

    async def close(self) -> None:
        """Commit what is finished and leave the group."""
        self._closed = True
        self._client.close()
        for task in (self._changing, self._rebuilding):
            if task is not None:
                task.cancel()
        await self._consumer.close()
