"""Deliveries of one gateway: its subscriptions, their worker, and the thread that reads for both.

Every gateway reads all subscriptions; the group shares the deliveries out.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError

from podpair.common.faults import FaultsError
from podpair.common.gateway_config.deliveries import WebPush
from podpair.common.gateway_config.model import Config
from podpair.gateway.core.deliveries.addresses import networks_of
from podpair.gateway.core.deliveries.destinations import Terms, subscription_of
from podpair.gateway.core.deliveries.receipts import RECEIPT, Receipt, encode_receipt
from podpair.gateway.core.deliveries.subscriptions import Subscription, Target, Wanted, encode_subscription
from podpair.gateway.core.deliveries.table import SubscriptionTable
from podpair.gateway.core.deliveries.urls import UrlRules
from podpair.gateway.core.deliveries.web_push import VapidKey, load_vapid_key
from podpair.gateway.core.offsets import Commit, Committed, incarnation_tag
from podpair.gateway.deliveries.consumer import DeliveryConsumer, Partition, Record, Wishes
from podpair.gateway.deliveries.courier import Courier, Tools
from podpair.gateway.deliveries.lanes import Lanes
from podpair.gateway.deliveries.sender import Sender
from podpair.gateway.deliveries.subscription_log import SubscriptionRecord
from podpair.gateway.deliveries.worker import DeliveryWorker, WorkerHooks
from podpair.gateway.kafka.producer import RecordMetadata, RecordProducer
from podpair.gateway.kafka.supervisor import Supervisor
from podpair.gateway.kafka.topic_watch import TopicWatch
from podpair.gateway.metrics import Metrics
from podpair.gateway.tasks import Tasks

_log = logging.getLogger(__name__)
_SWEEP = 60.0  # seconds between two looks for subscriptions that have ended
_RECEIPTS = 0.5  # seconds between two looks at what clients have received
_READ = 5.0  # seconds in which what was written is read here again, usually


@dataclass(frozen=True, slots=True)
class DeliveryContext:
    """What deliveries need of the gateway."""

    config: Config
    name: str
    producer: RecordProducer
    supervisor: Supervisor
    topic_watch: TopicWatch
    metrics: Metrics
    received: Callable[[str], tuple[int, int, int] | None]
    """Returns what the client of a session that is held here has received: a partition, and the offsets after and up to which;
    None: nothing that is known."""


def url_rules(config: Config) -> UrlRules:
    """Return which URLs may be subscribed."""
    deliveries = config.deliveries
    networks = networks_of(deliveries.allowed_networks)
    return UrlRules(deliveries.allow_http, deliveries.ports, networks, deliveries.slack_hosts)


def read_vapid_key(config: WebPush) -> VapidKey | None:
    """Return the key of Web Push; None: there is none. Raises FaultsError."""
    if config.private_key_file is None or config.contact is None:
        return None
    where = f"deliveries.web_push.private_key_file: {config.private_key_file}"
    try:
        return load_vapid_key(config.private_key_file.read_bytes(), config.contact)
    except OSError as error:
        raise FaultsError([f"{where}: {error.strerror}"]) from None
    except ValueError as error:
        raise FaultsError([f"{where}: {error}"]) from None


class DeliveryService:
    """Subscribes, and delivers. Starts at once. Raises FaultsError."""

    def __init__(self, context: DeliveryContext) -> None:
        self._context = context
        self._config = config = context.config
        self._rules = url_rules(config)
        self._table = SubscriptionTable()
        vapid = read_vapid_key(config.deliveries.web_push)
        self.web_push_key = vapid.public if vapid is not None else None
        """What browsers subscribe with (`applicationServerKey`); None: there is no Web Push."""
        self._sender = Sender(config.deliveries, vapid)
        self._sender.check_files()
        lanes = Lanes(config.deliveries, self._rules)
        courier = Courier(
            config.deliveries,
            Tools(self._table, lanes, self._sender, context.producer, self._end),
            context.metrics,
            context.name,
        )
        self._wishes = Wishes()
        hooks = WorkerHooks(self._incarnation, self._retry_partitions, self._on_subscriptions, self._died)
        self._worker = DeliveryWorker(config, self._table, courier, self._wishes, hooks)
        self._reached: dict[int, int] = {}  # by partition of the subscriptions' topic: up to where it is read
        self._awaited: list[tuple[RecordMetadata, asyncio.Future[None]]] = []
        self._tasks = Tasks()
        self._client = context.supervisor.watch("deliveries", self._replace)
        self._listener, self._consumer = self._begin()
        self._tasks.spawn(self._sweep())
        self._written: dict[str, Receipt] = {}  # the last of each session
        self._tasks.spawn(self._write_receipts())
        metrics = context.metrics
        metrics.deliveries_waiting.set_function(lambda: self._worker.waiting)
        metrics.deliveries_oldest.set_function(lambda: self._worker.oldest)
        metrics.subscriptions.set_function(lambda: len(self._table))
        metrics.circuits.source = lanes.open_circuits

    def _begin(self) -> "tuple[_Listener, DeliveryConsumer]":
        listener = _Listener(self._worker, self._client.works)
        calls = self._client.calls()
        consumer = DeliveryConsumer(self._config, listener, self._wishes, calls, self._incarnation)
        consumer.start()
        return listener, consumer

    def _replace(self) -> None:
        """Go on with another consumer: this one is dead, stuck, or of a topic that was made again."""
        self._listener.live = False
        self._consumer.stop()
        self._worker.forget_all()
        self._listener, self._consumer = self._begin()

    def _died(self, error: KafkaError) -> None:
        self._client.died(error)

    def topic_replaced(self, topic: str) -> None:
        """Begin anew with a topic that was deleted and made again, if deliveries are read from it."""
        deliveries = self._config.deliveries
        own = (deliveries.retry_topic, deliveries.ordered_topic, deliveries.subscriptions_topic)
        if topic == self._config.results.topic or topic in own:
            self._replace()

    def _incarnation(self, topic: str) -> str:
        state = self._context.topic_watch.state.get(topic)
        return incarnation_tag(state.topic_id) if state is not None else ""

    def _retry_partitions(self) -> int:
        state = self._context.topic_watch.state.get(self._config.deliveries.retry_topic)
        return state.partitions if state is not None else 1

    def _on_subscriptions(self, records: list[SubscriptionRecord], anew: bool) -> None:
        if anew:
            self._table.clear()
            self._reached.clear()
        for key, value, (partition, offset) in records:
            if not self._table.apply(key, value):
                _log.warning("a subscription can't be read", extra={"partition": partition, "offset": offset})
            self._reached[partition] = offset + 1
        for place, read in self._awaited:
            if not read.done() and self._reached.get(place.partition, 0) > place.offset:
                read.set_result(None)
        self._awaited = [(place, read) for place, read in self._awaited if not read.done()]

    def owned_by(self, owner: str) -> list[Subscription]:
        """Return what a subject has subscribed."""
        return self._table.owned_by(owner, int(time.time() * 1000))

    async def subscribe(self, wanted: Wanted, target: Target, mailbox: str | None) -> Subscription:
        """Make a subscription; events that come after this returns are delivered. Raises InvalidSubscription, DeliveryError.

        mailbox: the address that the subscriber has proved to be its own.
        """
        deliveries = self._config.deliveries
        terms = Terms(
            self._rules, deliveries.max_ttl_seconds, time.time(), email=deliveries.email.host is not None,
            web_push=self.web_push_key is not None, mailbox=mailbox,
        )  # fmt: skip
        made = subscription_of(wanted, target, terms)
        await self._write(made.id, encode_subscription(made))
        return made

    async def unsubscribe(self, subscription_id: str) -> None:
        """Remove a subscription, with what still waits for it. Raises DeliveryError."""
        await self._write(subscription_id, None)

    async def _write(self, subscription_id: str, value: bytes | None) -> None:
        place = await self._context.producer.write(
            self._config.deliveries.subscriptions_topic, value, key=subscription_id.encode(), headers=[]
        )
        read: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._reached.get(place.partition, 0) <= place.offset:
            self._awaited.append((place, read))
            await asyncio.wait((read,), timeout=_READ)  # so that whoever lists them here next finds it

    async def _sweep(self) -> None:
        """Remove subscriptions that have ended. All gateways do: the record says the same whoever writes it."""
        while True:
            await asyncio.sleep(_SWEEP)
            for name in list(self._table.expired(int(time.time() * 1000))):
                self._end(name)
            away = self._table.away
            self._written = {session: receipt for session, receipt in self._written.items() if session in away}
            for session in self._table.receipts.sessions():
                if session not in away:
                    self._end(RECEIPT.decode() + session)

    async def _write_receipts(self) -> None:
        """Write what the clients of this gateway have received, of sessions that have a subscription for when they are away."""
        while True:
            await asyncio.sleep(_RECEIPTS)
            incarnation = self._incarnation(self._config.results.topic)
            for session in self._table.away:
                found = self._context.received(session)
                receipt = Receipt(incarnation, *found) if found is not None else None
                if receipt is None or receipt.end <= receipt.begin or receipt == self._written.get(session):
                    continue
                self._written[session] = receipt
                self._context.producer.send(
                    self._config.deliveries.subscriptions_topic, encode_receipt(receipt), key=RECEIPT + session.encode(),
                    headers=[], callback=_ignore,
                )  # fmt: skip

    def _end(self, subscription_id: str) -> None:
        """Remove a subscription that is of no more use; where that fails, whoever finds it next does it."""
        self._context.producer.send(
            self._config.deliveries.subscriptions_topic,
            None,
            key=subscription_id.encode(),
            headers=[],
            callback=_ignore,
        )

    async def close(self, seconds: float) -> None:
        """End what has begun, commit it, and leave the group. What takes longer is delivered again by another gateway."""
        self._client.close()
        await self._tasks.cancel()
        closing = self._tasks.spawn(self._consumer.close())
        await asyncio.wait((closing,), timeout=max(1.0, seconds))
        self._listener.live = False
        self._worker.forget_all()
        await self._sender.close()


def _ignore(_: object) -> None:
    """Take the outcome of a record that is written again where it matters."""


class _Listener:
    """Passes the calls of one consumer on to the worker until it is replaced."""

    def __init__(self, worker: DeliveryWorker, works: Any) -> None:
        self.live = True
        self._worker = worker
        self._works = works

    def assigned(self, partitions: dict[Partition, Committed]) -> None:
        if self.live:
            self._worker.assigned(partitions)

    def subscriptions_read(self, records: list[SubscriptionRecord], *, anew: bool) -> None:
        if self.live:
            self._worker.subscriptions_read(records, anew=anew)
            self._works()

    def received(self, records: list[Record]) -> None:
        if self.live:
            self._worker.received(records)

    def collect_commits(self) -> None:
        if self.live:
            self._worker.collect_commits()

    def waiting_in_kafka(self, records: int) -> None:
        if self.live:
            self._worker.waiting_in_kafka(records)

    async def revoked(self, partitions: list[Partition], *, lost: bool) -> dict[Partition, Commit]:
        return await self._worker.revoked(partitions, lost=lost) if self.live else {}

    def died(self, error: KafkaError) -> None:
        if self.live:
            self._worker.died(error)
