"""`podpair-gateway replay`: look at dead letters, and put them back on the requests topic."""

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import click
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from podpair.gateway.config.load import load
from podpair.gateway.core.dead_letters import dead_letter_of, revived
from podpair.gateway.core.records import Headers
from podpair.gateway.kafka.clients import properties

_TIMEOUT = 10.0  # seconds for an answer of the broker


@click.command()
@click.option("--config", "path", type=click.Path(path_type=Path), help="The gateway's YAML file.")
@click.option("--kafka", help="The broker, host:port (kafka.bootstrap_servers).")
@click.option("--id", "request_id", help="Only this request.")
@click.option("--session", help="Only requests of this session.")
@click.option("--list", "only_list", is_flag=True, help="Print the dead letters, and put none back.")
@click.option("--all", "again", is_flag=True, help="Those, too, that were put back before.")
def replay(
    path: Path | None, kafka: str | None, request_id: str | None, session: str | None, only_list: bool, again: bool
) -> None:
    """Put dead letters back on the requests topic, as they were, without their deadline.

    Without --id or --session these are all that have come since the last replay.
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
    try:
        found = 0
        for record in _read(consumer, topic, from_start=only_list or again or chosen):
            letter = dead_letter_of(cast("Headers | None", record.headers()))
            if (request_id and letter.id != request_id) or (session and letter.session != session):
                continue
            found += 1
            click.echo(
                f"{record.offset()}  {letter.time}  request {letter.id}  session {letter.session}  model {letter.model}"
                f"  from {letter.origin}  after {letter.attempts} attempts: {letter.reason}"
            )
            if not only_list:
                _put_back(producer, config.requests.topic, record)
        if found and not only_list and not chosen:
            consumer.commit(asynchronous=False)
    except KafkaException as error:
        raise click.ClickException(error.args[0].str()) from None
    finally:
        consumer.close()
    click.echo(f"{found} {'dead letter' if found == 1 else 'dead letters'}{'' if only_list else ' put back'}", err=True)


def _read(consumer: Consumer, topic: str, *, from_start: bool) -> Iterator[Message]:
    """The records that are on the topic now. Raises KafkaException."""
    topics = consumer.list_topics(topic, timeout=_TIMEOUT).topics
    places = [TopicPartition(topic, partition) for partition in topics[topic].partitions]
    committed = consumer.committed(places, timeout=_TIMEOUT)
    for place in committed:
        low, _ = consumer.get_watermark_offsets(place, timeout=_TIMEOUT) or (0, 0)
        place.offset = low if from_start or place.offset < low else place.offset
    consumer.assign(committed)
    unread = {place.partition for place in committed}
    while unread:
        message = consumer.poll(_TIMEOUT)
        if message is None:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"no records of {topic} in {_TIMEOUT:.0f} s"))
        error = message.error()
        if error is None:
            yield message
        elif error.code() == KafkaError._PARTITION_EOF:
            unread.discard(message.partition() or 0)
        else:
            raise KafkaException(error)


def _put_back(producer: Producer, topic: str, record: Message) -> None:
    """Write it, and wait: what is not acknowledged is not put back. Raises KafkaException."""
    failures: list[KafkaError] = []
    producer.produce(
        topic,
        value=record.value(),
        key=record.key(),
        headers=list[tuple[str, str | bytes | None]](revived(cast("Headers | None", record.headers()))),
        on_delivery=lambda error, _: failures.append(error) if error is not None else None,
    )
    if producer.flush(12) or failures:
        raise KafkaException(failures[0] if failures else KafkaError(KafkaError._TIMED_OUT, "no acknowledgement"))
