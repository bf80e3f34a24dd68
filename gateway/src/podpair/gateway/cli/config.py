"""`podpair-gateway config`: check, schema, show."""

import json
from pathlib import Path

import click
import yaml
from pydantic import SecretStr

from podpair.gateway.config.load import load
from podpair.gateway.config.model import Config

_path = click.option("--config", "path", type=click.Path(path_type=Path), help="YAML file with the configuration.")


@click.group("config")
def config_group() -> None:
    """Look at the configuration."""


@config_group.command()
@_path
def check(path: Path | None) -> None:
    """Read the configuration; exits with 2 and tells every fault, if there is one."""
    load(path)
    click.echo("the configuration is good")


@config_group.command()
def schema() -> None:
    """Print the configuration's JSON schema: every setting, its default and what it means."""
    click.echo(json.dumps(Config.model_json_schema(), indent=2))


@config_group.command()
@_path
def show(path: Path | None) -> None:
    """Print the configuration as it is in force, without its secrets."""
    values = load(path).model_dump(mode="json")
    _hide(values)
    click.echo(yaml.safe_dump(values, sort_keys=False), nl=False)


def _hide(values: dict[str, object]) -> None:
    """Secrets among librdkafka's properties are plain values; pydantic hides only its own."""
    kafka = values["kafka"]
    client = kafka["client"] if isinstance(kafka, dict) else {}
    for name in client:
        if any(part in name for part in ("password", "secret", "key", "pem", "jaas", "token", "oauthbearer.config")):
            client[name] = str(SecretStr("hidden"))
