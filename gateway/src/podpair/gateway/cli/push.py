"""`podpair-gateway push`: write something to a session from any shell, as any producer could."""

import json
import sys

import click


@click.command()
@click.option("--kafka", required=True, envvar="PODPAIR_KAFKA__BOOTSTRAP_SERVERS", help="The broker, host:port.")
@click.option("--topic", default="podpair.results", envvar="PODPAIR_RESULTS__TOPIC", show_default=True)
@click.option("--session", required=True, help="The session's id.")
@click.argument("data")
def push(kafka: str, topic: str, session: str, data: str) -> None:
    """Send DATA (JSON; `-` reads standard input) to a session's client, wherever it is connected."""
    from confluent_kafka import KafkaException, Producer

    value = sys.stdin.read() if data == "-" else data
    try:
        json.loads(value)
    except json.JSONDecodeError as error:
        raise click.ClickException(f"DATA is not JSON: {error}") from None
    failures: list[str] = []

    def delivered(error: object, message: object) -> None:
        if error is not None:
            failures.append(str(error))

    # murmur2_random: what finds a session's home partition from any librdkafka client.
    producer = Producer(
        {"bootstrap.servers": kafka, "partitioner": "murmur2_random", "delivery.timeout.ms": 10_000, "log_level": 0}
    )
    try:
        producer.produce(topic, key=session, value=value, on_delivery=delivered)
    except KafkaException as error:
        raise click.ClickException(error.args[0].str()) from None
    if producer.flush(12) or failures:
        raise click.ClickException(failures[0] if failures else f"no broker answers at {kafka}")
