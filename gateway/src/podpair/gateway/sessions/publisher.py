"""Publishes to channels, for clients (`channels.enabled`); any other producer writes such records, too.

Invariant: a publication that was acknowledged is in Kafka. One whose acknowledgement is not known may be there: who publishes it
again may have it twice.
"""

import time
import uuid

from podpair.common.gateway_config.model import Config
from podpair.gateway.core.channels import ChannelAccess, InvalidChannel, channel_key
from podpair.gateway.core.partitions import HomePartitions
from podpair.gateway.core.positions import Position
from podpair.gateway.core.protocol import Code, Fault
from podpair.gateway.core.quotas import Bucket
from podpair.gateway.core.record_headers import answer_headers
from podpair.gateway.core.records import PUSH
from podpair.gateway.kafka.producer import DeliveryError, RecordProducer
from podpair.gateway.metrics import Metrics

_BURST = 4.0  # seconds' worth of publications at once
_BUCKETS = 10_000  # publishers above which those that have rested are forgotten


class Publisher:
    """Writes publications to the results topic. source: this gateway's name."""

    def __init__(
        self, config: Config, producer: RecordProducer, homes: HomePartitions, source: str, metrics: Metrics
    ) -> None:
        self._topic = config.results.topic
        self._rate = config.channels.publishes_per_second
        self._homes = homes
        self._producer = producer
        self._source = source
        self._published = metrics.publishes
        self._buckets: dict[str, Bucket] = {}

    async def publish(self, who: str, access: ChannelAccess | None, channel: str, data: bytes) -> Position:
        """Write a publication (JSON) and return its position once the broker has it. who: the session or subject.

        Raises Fault: what is invalid, forbidden, too much, or was not written.
        """
        try:
            place = await self._write(who, access, channel, data)
        except Fault as fault:
            self._published.labels(str(fault.code)).inc()
            raise
        self._published.labels("written").inc()
        return place

    async def _write(self, who: str, access: ChannelAccess | None, channel: str, data: bytes) -> Position:
        key = key_of(channel)
        if access is None or not access.may_publish(channel):
            raise Fault(Code.FORBIDDEN, f"this token may not publish to channel {channel} (channels.rules)")
        if wait := self._bucket(who).acquire(time.monotonic()):
            message = f"more than {self._rate:g} publications a second (channels.publishes_per_second)"
            raise Fault(Code.OVERLOADED, message, retry_after_ms=max(1, round(wait * 1000)))
        headers = answer_headers(
            PUSH, request_id=uuid.uuid4().hex, session=key.encode(), source=self._source, now=time.time()
        )
        epoch, partition = self._homes.epoch, self._homes.of(key)
        try:
            written = await self._producer.write(
                self._topic, data, key=key.encode(), headers=headers, partition=partition
            )
        except DeliveryError as error:
            code = Code.INVALID if error.too_large else Code.OVERLOADED
            retry = None if error.too_large else 1000
            message = f"the publication was not written: {error.client_message}"
            raise Fault(code, message, retry_after_ms=retry) from None
        return Position(epoch, written.partition, written.offset)

    def _bucket(self, who: str) -> Bucket:
        now = time.monotonic()
        found = self._buckets.get(who)
        if found is None:
            if len(self._buckets) >= _BUCKETS:
                self._buckets = {name: kept for name, kept in self._buckets.items() if not kept.full(now)}
            found = self._buckets[who] = Bucket(self._rate, max(1.0, _BURST * self._rate), now)
        return found


def key_of(channel: str) -> str:
    """Return the key of a channel's records. Raises Fault(invalid)."""
    try:
        return channel_key(channel)
    except InvalidChannel as error:
        raise Fault(Code.INVALID, str(error)) from None
