"""This gateway's membership in the consumer group: a requests consumer, which is replaced when it is dead, stuck or outdated.

Invariant: an abandoned consumer no longer reaches the worker, and its partitions are lost to the worker before the next consumer
joins the group; the member that gets them processes unfinished requests again.

**Protocols.** A fleet changes from one group protocol to the other gateway by gateway. The broker does not mix the two if classic
members use the cooperative-sticky assignor, as podpair's do: so a gateway that the group rejects for its protocol joins with the
group's. Members that wait to change to `consumer` say so in their client.id; when all members of a classic group do, each leaves
it, and the first that finds it empty makes it a `consumer` group.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message
from confluent_kafka.admin import AdminClient

from podpair.common.gateway_config.model import Config
from podpair.gateway.core.offsets import Commit, Committed
from podpair.gateway.kafka.clients import gateway_name, properties
from podpair.gateway.kafka.requests import Gate, GroupProtocol, MemberOptions, RequestsConsumer, Worker, membership
from podpair.gateway.kafka.supervisor import SupervisedClient, Supervisor, cause

_log = logging.getLogger(__name__)
_LOOK = 2.0  # seconds between checks whether all members want to change
_ASK = 5.0  # seconds for a query about the group
_PATIENCE = 30.0  # seconds, beyond the session timeout, in which a group that all members leave becomes empty
_UNRELEASED = 2.0  # seconds at most before joining again with an instance id that another member had
_WANTS_CONSUMER = "+consumer"  # suffix of the client.id of a member that waits to change
_OTHER: dict[int, GroupProtocol] = {
    KafkaError.GROUP_ID_NOT_FOUND: "classic",  # the group is classic, and can't be converted with its members
    KafkaError.INCONSISTENT_GROUP_PROTOCOL: "consumer",
}


class _Live:
    """Passes the calls of one consumer on to the worker, until the consumer is abandoned."""

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

    def revoking(self, partitions: list[int]) -> None:
        if self.live:
            self._worker.revoking(partitions)

    async def revoked(self, partitions: list[int], *, lost: bool) -> dict[int, Commit]:
        return await self._worker.revoked(partitions, lost=lost) if self.live else {}


class GroupMember:
    """Keeps a member of the group alive. `give_room`, `set_paused` and `commit` of `gate` are called by the worker.

    owned: returns the partitions that the worker has now. incarnation: returns the identity of the present topic.
    """

    def __init__(
        self,
        config: Config,
        worker: Worker,
        gate: Gate,
        owned: Callable[[], frozenset[int]],
        supervisor: Supervisor,
        incarnation: Callable[[], str] = str,
    ) -> None:
        self._config = config
        self._worker = worker
        self._owned = owned
        self.incarnation = incarnation
        self._gate = gate
        self._loop = asyncio.get_running_loop()
        self._client: SupervisedClient = supervisor.watch("requests", self._replace)
        self._protocol: GroupProtocol = config.requests.group_protocol
        self._deadline = 0.0  # until when the member does not return to the group's old protocol
        self._fenced = False  # another member has taken our instance id
        self._admin: AdminClient | None = None
        self._rebuilding: asyncio.Task[None] | None = None
        self._changing: asyncio.Task[None] | None = None
        self._closed = False
        self._consumer, self._live = self._make()

    def _make(self) -> tuple[RequestsConsumer, _Live]:
        own = membership(self._config, self._protocol)
        if self._protocol == "classic" and self._config.requests.group_protocol == "consumer":
            client_id = self._config.kafka.client.get("client.id", f"podpair-gateway@{gateway_name()}")
            config = self._with_client_id(f"{client_id}{_WANTS_CONSUMER}")
        else:
            config = self._config
        live = _Live(self._worker, self._gate, self._client.works)
        options = MemberOptions(own, self._client.calls(), self.incarnation, self._died)
        consumer = RequestsConsumer(config, live, self._gate, options)
        return consumer, live

    def _with_client_id(self, client_id: str) -> Config:
        kafka = self._config.kafka.model_copy(update={"client": {**self._config.kafka.client, "client.id": client_id}})
        return self._config.model_copy(update={"kafka": kafka})

    @property
    def membership(self) -> Any:
        """Identifies this member in its present generation."""
        return self._consumer.membership

    def start(self) -> None:
        """Join the group."""
        self._consumer.start()

    def _died(self, error: KafkaError) -> None:
        code, wanted = cause(error), self._config.requests.group_protocol
        other = _OTHER.get(code)
        if other is not None and other != self._protocol and time.monotonic() >= self._deadline:
            _log.warning("the group %s is %s: joining as that (requests.group_protocol: %s)",
                         self._config.requests.group, other, wanted)  # fmt: skip
            self._protocol = other
        self._fenced = code == KafkaError.FENCED_INSTANCE_ID
        longest = _UNRELEASED if code == KafkaError.UNRELEASED_INSTANCE_ID or other is not None else 30.0
        self._client.died(error, longest=longest)

    def stalled(self, text: str) -> None:
        """Replace the consumer, which reads nothing although there are requests."""
        self._client.stalled(text)

    def restart(self) -> None:
        """Start over: the topic was replaced."""
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
        self._worker.revoking(owned)
        await self._worker.revoked(owned, lost=True)
        with self._gate.changed:
            self._gate.to_commit.clear()
        if self._closed:
            return
        if self._fenced and (holder := await self._loop.run_in_executor(None, self._instance_holder)) is not None:
            # To join would take the partitions from that member, as it took them from us, and so on forever.
            self._client.retry_later(
                "FENCED_INSTANCE_ID", f"requests.group_instance_id is used by another member: {holder}"
            )
            return
        try:
            self._consumer, self._live = self._make()
            self._consumer.start()
        except KafkaException as error:
            self._client.retry_later("replacing", error.args[0].str())
            return
        self._loop.call_later(_PATIENCE / 3, self._seems_well, self._live)
        if self._protocol != self._config.requests.group_protocol and self._changing is None:
            self._changing = self._loop.create_task(self._change_over())

    def _seems_well(self, live: _Live) -> None:
        """Count a member without a partition, to which the group reports nothing, as working after a while without error."""
        if live is self._live and live.live:
            self._client.works()

    def _members(self) -> list[tuple[str, str | None]]:
        """Return (client.id, group.instance.id) of the members of a classic group. Raises KafkaException. Blocks."""
        group = self._config.requests.group
        if self._admin is None:
            self._admin = AdminClient(properties(self._config))
        found = self._admin.describe_consumer_groups([group], request_timeout=_ASK)[group].result(2 * _ASK)
        return [(member.client_id, member.group_instance_id) for member in found.members]

    def _instance_holder(self) -> str | None:
        """Return the client.id of the member that has our instance id; None: none, or unknown."""
        try:
            members = self._members()
        except (KafkaException, TimeoutError):
            return None
        return next((who for who, instance in members if instance == self._config.requests.group_instance_id), None)

    async def _change_over(self) -> None:
        """Leave a classic group as soon as all its members want to, and join with the configured protocol."""
        if self._config.requests.group_protocol != "consumer":
            return  # the members of a consumer group can not be listed in this way
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
        # A static member that has left remains a member until its session times out.
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
