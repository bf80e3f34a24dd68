"""`podpair-gateway push`: write something to a session from any shell, as any producer could."""

import json
import sys
from pathlib import Path

import click


@click.command()
@click.option(
    "--config", "path", type=click.Path(path_type=Path), help="A gateway's YAML file, which says all of this."
)
@click.option("--kafka", envvar="PODPAIR_KAFKA__BOOTSTRAP_SERVERS", help="The broker, host:port.")
@click.option("--topic", envvar="PODPAIR_RESULTS__TOPIC", help="podpair.results, unless --config says otherwise.")
@click.option("--session", required=True, help="The session's id; with --user what its token's claim says.")
@click.option("--user", help="The session is one that tokens of this user (claim sub) name (auth.session_claim).")
@click.argument("data")
def push(path: Path | None, kafka: str | None, topic: str | None, session: str, user: str | None, data: str) -> None:
    """Send DATA (JSON; `-` reads standard input) to a session's client, wherever it is connected."""
    from confluent_kafka import KafkaException, Producer

    from podpair.gateway.config.load import load
    from podpair.gateway.core.session_ids import claimed_session_id
    from podpair.gateway.kafka.clients import properties

    if path is not None:
        config = load(path, {"kafka": {"bootstrap_servers": kafka}} if kafka else None)
        broker, topic = properties(config), topic or config.results.topic
    elif kafka is not None:
        broker, topic = {"bootstrap.servers": kafka}, topic or "podpair.results"
    else:
        raise click.UsageError("which broker? Give --kafka host:port, or a gateway's --config")

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
    own = {"partitioner": "murmur2_random", "allow.auto.create.topics": False}
    producer = Producer({"delivery.timeout.ms": 10_000, "log_level": 0} | broker | own)
    try:
        key = session if user is None else claimed_session_id(user, session)
        producer.produce(topic, key=key, value=value, on_delivery=delivered)
    except KafkaException as error:
        raise click.ClickException(error.args[0].str()) from None
    if producer.flush(12) or failures:
        raise click.ClickException(failures[0] if failures else f"no broker answers at {broker['bootstrap.servers']}")
