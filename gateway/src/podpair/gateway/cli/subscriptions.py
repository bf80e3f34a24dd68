"""`podpair-gateway subscriptions`: make, list and remove subscriptions to deliveries, as an operator."""

import json
import time
from pathlib import Path
from typing import TextIO, get_args

import click

from podpair.common.gateway_config.model import Config
from podpair.gateway.core.deliveries.destinations import Terms, subscription_of
from podpair.gateway.core.deliveries.subscriptions import (
    EventName,
    InvalidSubscription,
    Kind,
    Subscription,
    Target,
    Wanted,
    encode_subscription,
)

_TEN_YEARS = 3.2e8  # seconds
# A browser subscribes itself: its keys never leave it by other ways.
_KINDS = tuple(kind for kind in get_args(Kind) if kind != "web_push")
_path = click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path),
    required=True,
    help="A gateway's YAML file, which names the broker.",
)


@click.group()
def subscriptions() -> None:
    """Subscriptions to deliveries (docs/deliveries.md), whoever made them."""


@subscriptions.command()
@_path
@click.option("--session", help="The session's id; with --user the value of its token's claim (auth.session_claim).")
@click.option(
    "--user", help="A user (claim sub): without --session what comes for the user, and for sessions of theirs."
)
@click.option("--kind", type=click.Choice(_KINDS), default="webhook", show_default=True)
@click.option(
    "--url-file",
    type=click.File(),
    required=True,
    help="File with the URL, mailto:… for e-mail; `-` reads standard input.",
)
@click.option("--secret-file", type=click.File(), help="File with the secret that signs webhooks, whsec_…")
@click.option(
    "--event", "events", multiple=True, type=click.Choice(get_args(EventName)), help="Events; all of them if left out."
)
@click.option("--model", "models", multiple=True, help="Models whose results are delivered; all of them if left out.")
@click.option("--ordered", is_flag=True, help="Each session's events one after the other.")
@click.option("--ttl", type=float, help="Seconds that it lasts; ten years if left out.")
def add(
    path: Path, session: str | None, user: str | None, kind: Kind, url_file: TextIO,
    secret_file: TextIO | None, events: tuple[EventName, ...], models: tuple[str, ...],
    ordered: bool, ttl: float | None,
) -> None:  # fmt: skip
    """Make a subscription, and print it without its secrets."""
    from podpair.gateway.deliveries.service import url_rules

    config = _load(path)
    wanted = Wanted(
        url=url_file.read().strip(), kind=kind, models=models, ordered=ordered, ttl_seconds=ttl,
        secret=secret_file.read().strip() if secret_file is not None else "",
        events=events or get_args(EventName),
    )  # fmt: skip
    email = config.deliveries.email.host is not None
    terms = Terms(url_rules(config), _TEN_YEARS, time.time(), email=email, any_mailbox=True)
    try:
        made = subscription_of(wanted, _target(session, user), terms)
    except InvalidSubscription as error:
        raise click.ClickException(str(error)) from None
    _write(config, made.id, encode_subscription(made))
    click.echo(json.dumps(_told(made)))


@subscriptions.command(name="list")
@_path
def list_(path: Path) -> None:
    """Print all subscriptions, one JSON object a line, without their secrets."""
    from confluent_kafka import KafkaException

    from podpair.gateway.core.deliveries.table import SubscriptionTable
    from podpair.gateway.deliveries.subscription_log import SubscriptionLog

    log, table = SubscriptionLog(_load(path)), SubscriptionTable()
    try:
        for key, value, _ in log.read_all():
            table.apply(key, value)
    except KafkaException as error:
        raise click.ClickException(error.args[0].str()) from None
    finally:
        log.close()
    for found in table:
        click.echo(json.dumps(_told(found)))


@subscriptions.command()
@_path
@click.argument("subscription")
def remove(path: Path, subscription: str) -> None:
    """Remove a subscription, with what still waits for it."""
    _write(_load(path), subscription, None)


def _load(path: Path) -> Config:
    from podpair.gateway.config.load import load

    return load(path)


def _target(session: str | None, user: str | None) -> Target:
    from podpair.gateway.core.session_ids import claimed_session_id

    if user is not None and session is None:
        return Target("subject", user, "")
    if session is None:
        raise click.UsageError("missing whose events: give --session or --user")
    return Target("session", session if user is None else claimed_session_id(user, session), "")


def _write(config: Config, name: str, value: bytes | None) -> None:
    from podpair.gateway.cli.record import write_record
    from podpair.gateway.kafka.clients import properties

    own: dict[str, object] = {"acks": "all", "partitioner": "murmur2_random"}
    write_record(properties(config), own, config.deliveries.subscriptions_topic, value, name)


def _told(subscription: Subscription) -> dict[str, object]:
    return subscription.shown() | {"target": subscription.target, "owner": subscription.owner}
