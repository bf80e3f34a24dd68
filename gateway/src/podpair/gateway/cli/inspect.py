"""`podpair-gateway inspect`: where a result is, what Kafka has of a request or a session, and what to do about it."""

import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import click
from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, TopicPartition

from podpair.common.gateway_config.model import Config
from podpair.gateway.config.load import load
from podpair.gateway.core.cloud_events import in_binary_mode_if_any
from podpair.gateway.core.offsets import decode_finished
from podpair.gateway.core.partitioners import Cause, MisplacedKeys, cause_of
from podpair.gateway.core.partitions import home_of_key, home_partition
from podpair.gateway.core.records import CANCEL, TAKEOVER
from podpair.gateway.core.timeline import (
    Log,
    PartitionProgress,
    TimelineRecord,
    misplaced_report,
    records_about,
    request_timeline,
    session_timeline,
)
from podpair.gateway.core.workflows.report import workflow_report
from podpair.gateway.kafka.clients import properties
from podpair.gateway.kafka.headers import headers_of

_TIMEOUT = 10.0  # seconds for a query of the broker


@click.command()
@click.option("--config", "path", type=click.Path(path_type=Path), help="The gateway's YAML file.")
@click.option("--kafka", help="The broker, host:port (kafka.bootstrap_servers).")
@click.option("--since", default=3600.0, show_default=True, help="Seconds: how far back to search.")
@click.argument("name", metavar="SESSION|REQUEST")
def inspect(path: Path | None, kafka: str | None, since: float, name: str) -> None:
    """Show where a request is, or what a session has open: home partition, offsets, owner, outcome, and misplaced records.

    Reads the topics as they are now, joins no group and changes nothing.
    """
    config = load(path, {"kafka": {"bootstrap_servers": kafka}} if kafka else None)
    consumer = Consumer(
        properties(
            config,
            group_id=config.requests.group,  # only to query its offsets
            enable_auto_commit=False,
            enable_partition_eof=True,
            isolation_level="read_committed",
            partition_assignment_strategy="cooperative-sticky",
        )
    )
    try:
        lines = _report(config, consumer, name, time.time() - since) + _workflows(config, consumer, name)
    except KafkaException as error:
        raise click.ClickException(error.args[0].str()) from None
    finally:
        consumer.close()
    if not lines:
        raise click.ClickException(
            f"nothing about {name!r} in the last {since:g} seconds (--since goes further back):"
            " a direct request is in no topic while its client is connected"
        )
    for line in lines:
        click.echo(line)


def _report(config: Config, consumer: Consumer, name: str, since: float) -> list[str]:
    width = len(_partitions(consumer, config.results.topic))
    ordered = len(_partitions(consumer, config.requests.topic)) if config.requests.ordering == "session" else None
    astray = MisplacedKeys()  # of all sessions: the more keys, the surer is the cause
    seen = records_about(name, _placed(_read(consumer, "requests", config.requests.topic, since), ordered, astray))
    if config.requests.dead_letter_topic is not None:
        seen += records_about(name, _read(consumer, "dead", config.requests.dead_letter_topic, since))
    seen += records_about(name, _placed(_read(consumer, "results", config.results.topic, since), width, astray))
    shares = _shares(config, consumer)
    sessions = dict.fromkeys(record.session for record in seen if record.request == name)
    if sessions:
        lines = []
        for session in sessions:
            lines += request_timeline(name, session, seen, shares, home_partition(session, width))
    elif seen:
        home = home_partition(name, width)
        place = TopicPartition(config.results.topic, home)
        low, high = consumer.get_watermark_offsets(place, timeout=_TIMEOUT) or (0, 0)
        where = f"home partition {home}: {config.results.topic}[{home}] has offsets {low} to {high - 1}"
        lines = session_timeline(name, seen, shares, where)
    else:
        return []
    everybodys = astray.cause()

    def cause(record: TimelineRecord) -> Cause:
        wide = width if record.log == "results" else ordered or width
        return everybodys if everybodys.explained else cause_of(record.key or b"", record.partition, wide)

    return lines + misplaced_report(seen, cause)


def _workflows(config: Config, consumer: Consumer, name: str) -> list[str]:
    """Describe workflows that run or wait, however long ago they began."""
    topic = config.workflows_topic or f"{config.requests.topic}.workflows"
    if consumer.list_topics(topic, timeout=_TIMEOUT).topics[topic].error is not None:
        return []  # there are none
    found = {record.key or b"": record.value for record in _read(consumer, "workflows", topic, 0.0)}
    return workflow_report(name, {key: value for key, value in found.items() if value}, time.time())


def _placed(records: Iterator[TimelineRecord], width: int | None, astray: MisplacedKeys) -> Iterator[TimelineRecord]:
    """Yield the records, misplaced ones with their home. width: of the topic; None: keys have no home."""
    home_of = lru_cache(10_000)(home_of_key)
    for record in records:
        if width is None or record.key is None or record.headers.get("ce_type") in (CANCEL, TAKEOVER):
            yield record
            continue
        home = home_of(record.key, width)
        if home == record.partition:
            yield record
        else:
            astray.add(record.key, record.partition, width)
            yield record._replace(home=home)


def _partitions(consumer: Consumer, topic: str) -> list[int]:
    """Return the partitions of a topic. Raises KafkaException if it does not exist."""
    found = consumer.list_topics(topic, timeout=_TIMEOUT).topics[topic]
    if found.error is not None:
        raise KafkaException(KafkaError(found.error.code(), f"topic {topic}: {found.error.str()}"))
    return sorted(found.partitions)


def _read(consumer: Consumer, log: Log, topic: str, since: float) -> Iterator[TimelineRecord]:
    """Yield the records that are on the topic when it is looked at, from a time on (Unix seconds). Raises KafkaException."""
    places = [TopicPartition(topic, partition, int(since * 1000)) for partition in _partitions(consumer, topic)]
    starts = consumer.offsets_for_times(places, timeout=_TIMEOUT)
    unread = [place for place in starts if place.offset != OFFSET_END and place.offset >= 0]
    ends = {place.partition: (consumer.get_watermark_offsets(place, timeout=_TIMEOUT) or (0, 0))[1] for place in unread}
    consumer.assign(unread)
    left = set(ends)
    while left:
        first = consumer.poll(_TIMEOUT)
        if first is None:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"no records of {topic} in {_TIMEOUT:.0f} s"))
        messages = (first, *consumer.consume(10_000, 0))
        for message, written in zip(messages, headers_of(messages), strict=True):
            error = message.error()
            if error is None:
                value, found = in_binary_mode_if_any(message.value(), written)
                headers = {name: text for name, text in found or () if text is not None}
                partition, offset = message.partition() or 0, message.offset() or 0
                yield TimelineRecord(
                    log, topic, partition, offset, message.timestamp()[1] / 1000, message.key(), headers, value or b""
                )
                if offset + 1 >= ends[partition]:  # others may write faster than this one reads
                    left.discard(partition)
            elif error.code() == KafkaError._PARTITION_EOF:
                left.discard(message.partition() or 0)
            else:
                raise KafkaException(error)
    consumer.unassign()


def _shares(config: Config, consumer: Consumer) -> dict[int, PartitionProgress]:
    """Return the group's progress and owner of each request partition."""
    topic = config.requests.topic
    places = [TopicPartition(topic, partition) for partition in _partitions(consumer, topic)]
    owners = _owners(config)
    shares = {}
    for place in consumer.committed(places, timeout=_TIMEOUT):
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, place.partition), timeout=_TIMEOUT) or (0, 0)
        committed = max(place.offset, low)
        finished = decode_finished(place.metadata, place.offset) if place.offset >= 0 else frozenset()
        shares[place.partition] = PartitionProgress(committed, finished, high, owners.get(place.partition))
    return shares


def _owners(config: Config) -> dict[int, str]:
    """Return the owners of request partitions, as the group's coordinator reports them."""
    from confluent_kafka.admin import AdminClient

    group = config.requests.group
    admin = AdminClient(properties(config))  # a reference is kept until it has answered
    found = admin.describe_consumer_groups([group], request_timeout=_TIMEOUT)[group].result()
    owners = {}
    for member in found.members:
        name = member.client_id.partition("@")[2] or member.group_instance_id or member.member_id
        for place in member.assignment.topic_partitions if member.assignment else ():
            if place.topic == config.requests.topic:
                owners[place.partition] = f"{name} ({member.host.lstrip('/')})"
    return owners
