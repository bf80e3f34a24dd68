"""`podpair-gateway push`: write a record to a session, a user or a channel, as any producer could."""

import json
import sys
from pathlib import Path

import click


@click.command()
@click.option("--config", "path", type=click.Path(path_type=Path), help="A gateway's YAML file, which has all of this.")
@click.option("--kafka", envvar="PODPAIR_KAFKA__BOOTSTRAP_SERVERS", help="The broker, host:port.")
@click.option("--topic", envvar="PODPAIR_RESULTS__TOPIC", help="podpair.results, unless --config says otherwise.")
@click.option("--session", help="The session's id; with --user the value of its token's claim (auth.session_claim).")
@click.option("--user", help="A user (claim sub): without --session all sessions of the user, if results.users is set.")
@click.option("--channel", help="A channel: all sessions that subscribe to it, if channels.enabled is set.")
@click.argument("data")
def push(
    path: Path | None,
    kafka: str | None,
    topic: str | None,
    session: str | None,
    user: str | None,
    channel: str | None,
    data: str,
) -> None:
    """Send DATA (JSON; `-` reads standard input) to a session's client, all of a user's, or all that subscribe to a channel,
    wherever they are connected."""
    from podpair.gateway.cli.record import write_record
    from podpair.gateway.config.load import load
    from podpair.gateway.core.channels import InvalidChannel, channel_key
    from podpair.gateway.core.session_ids import claimed_session_id, user_key
    from podpair.gateway.kafka.clients import properties

    if channel is not None:
        if user is not None or session is not None:
            raise click.UsageError("give --channel, or --session and --user")
        try:
            key = channel_key(channel)
        except InvalidChannel as error:
            raise click.UsageError(str(error)) from None
    elif user is not None:
        key = user_key(user) if session is None else claimed_session_id(user, session)
    elif session is not None:
        key = session
    else:
        raise click.UsageError("missing recipient: give --session, --user or --channel")
    if path is not None:
        config = load(path, {"kafka": {"bootstrap_servers": kafka}} if kafka else None)
        broker, topic = properties(config), topic or config.results.topic
    elif kafka is not None:
        broker, topic = {"bootstrap.servers": kafka}, topic or "podpair.results"
    else:
        raise click.UsageError("missing broker: give --kafka host:port, or a gateway's --config")

    value = sys.stdin.read() if data == "-" else data
    try:
        json.loads(value)
    except json.JSONDecodeError as error:
        raise click.ClickException(f"DATA is not JSON: {error}") from None
    # murmur2_random: with it any librdkafka client finds a session's home partition.
    write_record(broker, {"partitioner": "murmur2_random"}, topic, value, key)
