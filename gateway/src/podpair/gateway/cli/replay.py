"""`podpair-gateway replay`: list dead letters, and put them back on the requests topic."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import click
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from podpair.gateway.config.load import load
from podpair.gateway.core.dead_letters import RequeuedOffsets, from_dead_letter, parse_dead_letter
from podpair.gateway.core.records import Headers
from podpair.gateway.kafka.clients import properties
from podpair.gateway.kafka.headers import headers_of

_TIMEOUT = 10.0  # seconds for a query of the broker


@click.command()
@click.option("--config", "path", type=click.Path(path_type=Path), help="The gateway's YAML file.")
@click.option("--kafka", help="The broker, host:port (kafka.bootstrap_servers).")
@click.option("--id", "request_id", help="Only this request.")
@click.option("--session", help="Only requests of this session.")
@click.option("--list", "only_list", is_flag=True, help="Print the dead letters, and put none back.")
@click.option("--all", "again", is_flag=True, help="Include those that were put back before.")
def replay(
    path: Path | None, kafka: str | None, request_id: str | None, session: str | None, only_list: bool, again: bool
) -> None:
    """Put dead letters back on the requests topic, as they were, without their deadline.

    Without --id or --session: all that no replay has put back yet.
    """
    config = load(path, {"kafka": {"bootstrap_servers": kafka}} if kafka else None)
    topic = config.requests.dead_letter_topic
    if topic is None:
        raise click.ClickException("requests.dead_letters is false: there is no such topic")
    chosen = request_id is not None or session is not None
    consumer = Consumer(
        properties(
            config, group_id=f"{config.requests.group}.replay", enable_auto_commit=False, enable_partition_eof=True
        )
    )
    producer = Producer(properties(config, acks="all", enable_idempotence=True, delivery_timeout_ms=10_000))
    found = back = 0
    try:
        before = _put_back_before(consumer, topic)
        try:
            for record in _read(consumer, topic, before, from_start=only_list or again or chosen):
                (headers,) = headers_of((record,))
                if headers is None:
                    click.echo(f"{record.offset()}  left alone: it has no headers that can be read", err=True)
                    continue
                letter = parse_dead_letter(record.value(), headers)
                if (request_id and letter.id != request_id) or (session and letter.session != session):
                    continue
                done, offset = before[record.partition() or 0], record.offset() or 0
                if offset in done and not (only_list or again or chosen):
                    continue
                found += 1
                back += offset in done
                click.echo(
                    f"{offset}  {letter.time}  {'put back' if offset in done else 'waiting'}  request {letter.id}"
                    f"  session {letter.session}  model {letter.model}  from {letter.origin}"
                    f"  after {letter.attempts} attempts: {letter.reason}"
                )
                if not only_list:
                    _put_back(producer, config.requests.topic, record, headers)
                    if chosen:
                        done.add(offset)
                    else:
                        done.add_all(offset + 1)  # there are transaction markers between dead letters
        finally:
            if found and not only_list:  # also those that were put back before a failure
                _remember(consumer, topic, before)
    except KafkaException as error:
        raise click.ClickException(error.args[0].str()) from None
    finally:
        consumer.close()
    total = f"{found} {'dead letter' if found == 1 else 'dead letters'}"
    listed = f"{total}, {back} of them put back" if found else total
    click.echo(listed if only_list else f"{total} put back", err=True)


def _put_back_before(consumer: Consumer, topic: str) -> dict[int, RequeuedOffsets]:
    """Return what earlier replays have put back, by partition. Raises KafkaException."""
    topics = consumer.list_topics(topic, timeout=_TIMEOUT).topics
    places = [TopicPartition(topic, partition) for partition in topics[topic].partitions]
    found = {}
    for place in consumer.committed(places, timeout=_TIMEOUT):
        low, high = consumer.get_watermark_offsets(place, timeout=_TIMEOUT) or (0, 0)
        found[place.partition] = RequeuedOffsets(place.offset, place.metadata, low, high)
    return found


def _remember(consumer: Consumer, topic: str, back: dict[int, RequeuedOffsets]) -> None:
    """Commit what was put back. Raises KafkaException."""
    commits = {partition: letters.commit for partition, letters in back.items()}
    consumer.commit(
        offsets=[TopicPartition(topic, p, commit.offset, metadata=commit.metadata) for p, commit in commits.items()],
        asynchronous=False,
    )


def _read(
    consumer: Consumer, topic: str, back: Mapping[int, RequeuedOffsets], *, from_start: bool
) -> Iterator[Message]:
    """Yield the records that were on the topic when it was looked at, or those of them behind what was put back. A request that
    fails again at once comes back as another record while this one reads: that is for the next replay. Raises KafkaException.
    """
    starts = {
        partition: OFFSET_BEGINNING if from_start else letters.commit.offset for partition, letters in back.items()
    }
    consumer.assign([TopicPartition(topic, partition, start) for partition, start in starts.items()])
    unread = set(starts)
    while unread:
        message = consumer.poll(_TIMEOUT)
        if message is None:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"no records of {topic} in {_TIMEOUT:.0f} s"))
        error = message.error()
        if error is None:
            partition, offset = message.partition() or 0, message.offset() or 0
            if partition in unread and offset < back[partition].end:
                yield message
            if offset + 1 >= back[partition].end:
                unread.discard(partition)
        elif error.code() == KafkaError._PARTITION_EOF:
            unread.discard(message.partition() or 0)
        else:
            raise KafkaException(error)


def _put_back(producer: Producer, topic: str, record: Message, letter_headers: Headers) -> None:
    """Write a dead letter to the requests topic, and wait for the acknowledgement. Raises KafkaException."""
    failures: list[KafkaError] = []
    value, headers = from_dead_letter(record.value(), letter_headers)
    producer.produce(
        topic,
        value=value,
        key=record.key(),
        headers=list[tuple[str, str | bytes | None]](headers),
        on_delivery=lambda error, _: failures.append(error) if error is not None else None,
    )
    if producer.flush(12) or failures:
        raise KafkaException(failures[0] if failures else KafkaError(KafkaError._TIMED_OUT, "no acknowledgement"))
