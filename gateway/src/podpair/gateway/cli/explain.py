"""`podpair-gateway explain`: where is my result? What Kafka knows of a request or a session, and what to do about it."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import click
from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, TopicPartition

from podpair.gateway.config.load import load
from podpair.gateway.config.model import Config
from podpair.gateway.core.explaining import Log, Seen, Share, about, explain_request, explain_session
from podpair.gateway.core.offsets import decoded
from podpair.gateway.core.partitions import home_partition
from podpair.gateway.kafka.clients import properties

_TIMEOUT = 10.0  # seconds for an answer of the broker


@click.command()
@click.option("--config", "path", type=click.Path(path_type=Path), help="The gateway's YAML file.")
@click.option("--kafka", help="The broker, host:port (kafka.bootstrap_servers).")
@click.option("--since", default=3600.0, show_default=True, help="Seconds: how far back to look.")
@click.argument("what", metavar="SESSION|REQUEST")
def explain(path: Path | None, kafka: str | None, since: float, what: str) -> None:
    """Tell where a request is, or what a session has open: its home partition, offsets, who has it, how it ended.

    Reads the topics as they are now, joins no group and changes nothing.
    """
    config = load(path, {"kafka": {"bootstrap_servers": kafka}} if kafka else None)
    consumer = Consumer(
        properties(
            config,
            group_id=config.requests.group,  # only to ask for its offsets
            enable_auto_commit=False,
            enable_partition_eof=True,
            isolation_level="read_committed",
            partition_assignment_strategy="cooperative-sticky",
        )
    )
    try:
        lines = _explained(config, consumer, what, time.time() - since)
    except KafkaException as error:
        raise click.ClickException(error.args[0].str()) from None
    finally:
        consumer.close()
    if not lines:
        raise click.ClickException(
            f"nothing about {what!r} in the last {since:g} seconds (--since looks further back):"
            " a direct request is in no topic while its client is connected"
        )
    for line in lines:
        click.echo(line)


def _explained(config: Config, consumer: Consumer, what: str, since: float) -> list[str]:
    partitions = _partitions(consumer, config.results.topic)
    home = home_partition(what, len(partitions))
    seen = about(what, list(_read(consumer, "requests", config.requests.topic, None, since)))
    if config.requests.dead_letter_topic is not None:
        seen += about(what, list(_read(consumer, "dead", config.requests.dead_letter_topic, None, since)))
    # Its results are at the home of its session: that of the requests, or, if it is a session, its own.
    homes = {home_partition(record.session, len(partitions)) for record in seen} | {home}
    seen += about(what, list(_read(consumer, "results", config.results.topic, homes, since)))
    if not seen:  # a direct request, say, whose client was gone: its session is not known
        seen = about(what, list(_read(consumer, "results", config.results.topic, None, since)))
    shares = _shares(config, consumer)
    sessions = dict.fromkeys(record.session for record in seen if record.request == what)
    if sessions:
        told = []
        for session in sessions:
            told += explain_request(what, session, seen, shares, home_partition(session, len(partitions)))
        return told
    low, high = consumer.get_watermark_offsets(TopicPartition(config.results.topic, home), timeout=_TIMEOUT) or (0, 0)
    where = f"home partition {home}: {config.results.topic}[{home}] has offsets {low} to {high - 1}"
    return explain_session(what, seen, shares, where) if seen else []


def _partitions(consumer: Consumer, topic: str) -> list[int]:
    """The partitions of a topic. Raises KafkaException where there is none."""
    found = consumer.list_topics(topic, timeout=_TIMEOUT).topics[topic]
    if found.error is not None:
        raise KafkaException(KafkaError(found.error.code(), f"topic {topic}: {found.error.str()}"))
    return sorted(found.partitions)


def _read(consumer: Consumer, log: Log, topic: str, only: set[int] | None, since: float) -> Iterator[Seen]:
    """The records that are on the topic now, from a time on (Unix seconds). Raises KafkaException."""
    places = [
        TopicPartition(topic, p, int(since * 1000)) for p in _partitions(consumer, topic) if only is None or p in only
    ]
    starts = consumer.offsets_for_times(places, timeout=_TIMEOUT)
    unread = [place for place in starts if place.offset != OFFSET_END and place.offset >= 0]
    consumer.assign(unread)
    left = {place.partition for place in unread}
    while left:
        first = consumer.poll(_TIMEOUT)
        if first is None:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"no records of {topic} in {_TIMEOUT:.0f} s"))
        for message in (first, *consumer.consume(10_000, 0)):
            error = message.error()
            if error is None:
                headers = {name: value for name, value in cast("Any", message.headers() or ()) if value is not None}
                yield Seen(
                    log, topic, message.partition() or 0, message.offset() or 0, message.timestamp()[1] / 1000,
                    message.key(), headers, message.value() or b"",
                )  # fmt: skip
            elif error.code() == KafkaError._PARTITION_EOF:
                left.discard(message.partition() or 0)
            else:
                raise KafkaException(error)
    consumer.unassign()


def _shares(config: Config, consumer: Consumer) -> dict[int, Share]:
    """How the group stands to each request partition."""
    topic = config.requests.topic
    places = [TopicPartition(topic, partition) for partition in _partitions(consumer, topic)]
    owners = _owners(config)
    shares = {}
    for place in consumer.committed(places, timeout=_TIMEOUT):
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, place.partition), timeout=_TIMEOUT) or (0, 0)
        committed = max(place.offset, low)
        finished = decoded(place.metadata, place.offset) if place.offset >= 0 else frozenset()
        shares[place.partition] = Share(committed, finished, high, owners.get(place.partition))
    return shares


def _owners(config: Config) -> dict[int, str]:
    """Which gateway has which request partition, as the group's coordinator tells it."""
    from confluent_kafka.admin import AdminClient

    group = config.requests.group
    admin = AdminClient(properties(config))  # kept until it has answered
    told = admin.describe_consumer_groups([group], request_timeout=_TIMEOUT)[group].result()
    owners = {}
    for member in told.members:
        name = member.client_id.partition("@")[2] or member.group_instance_id or member.member_id
        for place in member.assignment.topic_partitions if member.assignment else ():
            if place.topic == config.requests.topic:
                owners[place.partition] = f"{name} ({member.host.lstrip('/')})"
    return owners
