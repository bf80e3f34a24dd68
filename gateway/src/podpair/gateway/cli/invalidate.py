"""`podpair-gateway invalidate`: remove cached answers at all gateways, and return once none of them gives one any more."""

import time
from pathlib import Path

import click


@click.command()
@click.option(
    "--config", "path", type=click.Path(path_type=Path), help="A gateway's YAML file, which has the other options."
)
@click.option("--kafka", envvar="PODPAIR_KAFKA__BOOTSTRAP_SERVERS", help="The broker, host:port.")
@click.option("--topic", envvar="PODPAIR_CACHE__TOPIC", help="The invalidation topic (cache.topic).")
@click.option(
    "--lease", type=click.FloatRange(min=0), help="Seconds, the gateways' cache.lease_seconds: 2, or --config's."
)
@click.option("--model", required=True, help="The model whose answers count no more; `*`: all models.")
@click.option("--subject", help="A user (claim sub): only this one's answers.")
def invalidate(
    path: Path | None, kafka: str | None, topic: str | None, lease: float | None, model: str, subject: str | None
) -> None:
    """Remove cached answers. Once this returns with status 0 no gateway gives one that was made before."""
    from podpair.gateway.cli.record import write_record
    from podpair.gateway.config.load import load
    from podpair.gateway.core.invalidations import Invalidation, encode_invalidation
    from podpair.gateway.kafka.clients import properties

    if path is not None:
        config = load(path, {"kafka": {"bootstrap_servers": kafka}} if kafka else None)
        broker, topic = properties(config), topic or config.cache.topic
        lease = config.cache.lease_seconds if lease is None else lease
    elif kafka is not None:
        broker = {"bootstrap.servers": kafka}
    else:
        raise click.UsageError("missing broker: give --kafka host:port, or a gateway's --config")
    if topic is None:
        raise click.UsageError("missing topic: give --topic, or the --config of a gateway that has cache.topic")
    if subject == "" or model == "":
        raise click.UsageError("--model and --subject may not be empty")
    value = encode_invalidation(Invalidation(None if model == "*" else model, subject))
    write_record(broker, {"acks": "all", "enable.idempotence": True}, topic, value)
    time.sleep(2.0 if lease is None else lease)  # until then a gateway may not have heard of it
