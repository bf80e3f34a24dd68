"""The one record that a command writes."""

import click
from confluent_kafka import KafkaException, Producer


def write_record(
    broker: dict[str, object], own: dict[str, object], topic: str, value: str | bytes | None, key: str | None = None
) -> None:
    """Write a record; return once the broker has acknowledged it. Raises ClickException.

    broker, own: librdkafka's properties, of which the command's own count for more.
    """
    failures: list[str] = []

    def delivered(error: object, message: object) -> None:
        if error is not None:
            failures.append(str(error))

    common = {"delivery.timeout.ms": 10_000, "log_level": 0}
    producer = Producer(common | broker | own | {"allow.auto.create.topics": False})
    try:
        producer.produce(topic, key=key, value=value, on_delivery=delivered)
    except KafkaException as error:
        raise click.ClickException(error.args[0].str()) from None
    if producer.flush(12) or failures:
        raise click.ClickException(failures[0] if failures else f"no broker answers at {broker['bootstrap.servers']}")
