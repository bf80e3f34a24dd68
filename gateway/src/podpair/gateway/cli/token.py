"""`podpair-gateway token`: a development token."""

import json
from pathlib import Path
from typing import Any

import click

from podpair.gateway.auth.issue import CannotIssue, development_token
from podpair.gateway.config.load import load


def _claims(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> dict[str, Any]:
    claims = {}
    for value in values:
        name, separator, text = value.partition("=")
        if not separator or not name:
            raise click.BadParameter(f"{value!r} is not NAME=VALUE")
        try:
            claims[name] = json.loads(text)
        except json.JSONDecodeError:
            claims[name] = text
    return claims


@click.command()
@click.option("--config", "path", type=click.Path(path_type=Path), help="The gateway's YAML file.")
@click.option("--sub", "subject", default="developer", show_default=True, help="The user (claim sub).")
@click.option("--session", help="The session (claim auth.session_claim).")
@click.option("--ttl", "seconds", default=3600.0, show_default=True, help="Seconds until it expires.")
@click.option("--claim", "claims", multiple=True, callback=_claims, help="A further claim, NAME=VALUE (JSON, or text).")
def token(path: Path | None, subject: str, session: str | None, seconds: float, claims: dict[str, Any]) -> None:
    """Mint a development token, with the secret of the gateway's configuration."""
    try:
        click.echo(development_token(load(path).auth, subject=subject, session=session, seconds=seconds, claims=claims))
    except CannotIssue as error:
        raise click.ClickException(str(error)) from None
