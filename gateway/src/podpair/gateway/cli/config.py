"""`podpair-gateway config`: check, schema, doc, show."""

import json
from pathlib import Path
from typing import get_args

import click
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from podpair.gateway.auth.resume import ResumeTokens
from podpair.gateway.auth.tokens import TokenVerifier
from podpair.gateway.config.load import ConfigError, load
from podpair.gateway.config.model import Config
from podpair.gateway.core.masking import MASK, is_secret, masked
from podpair.gateway.http.tls import certificate_of
from podpair.gateway.kafka.clients import check_files, check_properties, client_secrets

_PAGE = """\
# Configuring the gateway

You want to change something about a gateway. Every setting has one name, in the YAML file (`--config`) and in the environment,
which comes over the file: `http.port` is `PODPAIR_HTTP__PORT`. `podpair-gateway config check` tells every fault at once,
`config show` what is in force (secrets hidden), `config schema` is the JSON schema for an editor. This page is `config doc`.
"""
_path = click.option("--config", "path", type=click.Path(path_type=Path), help="YAML file with the configuration.")


@click.group("config")
def config_group() -> None:
    """Look at the configuration."""


@config_group.command()
@_path
def check(path: Path | None) -> None:
    """Read the configuration, and the keys and secrets that it names; exits with 2 and tells every fault."""
    config = load(path)
    faults = []
    for read in (
        lambda: TokenVerifier(config.auth),
        lambda: ResumeTokens(config.sessions),
        lambda: client_secrets(config.kafka),
        lambda: check_files(config.kafka),
        lambda: certificate_of(config.http),
    ):
        try:
            read()
        except ConfigError as error:
            faults += error.faults
    if faults:
        raise ConfigError(faults)
    check_properties(config.kafka)  # with all files that it needs
    click.echo("the configuration is good")


@config_group.command()
def schema() -> None:
    """Print the configuration's JSON schema: every setting, its default and what it means."""
    click.echo(json.dumps(Config.model_json_schema(), indent=2))


@config_group.command()
def doc() -> None:
    """Print every setting as a page in Markdown (docs/configuration.md is this)."""
    click.echo(_PAGE, nl=False)
    for name, field in Config.model_fields.items():
        section = field.annotation
        if not isinstance(section, type) or not issubclass(section, BaseModel):
            click.echo(f"\n## {name}\n\n{_row(name, field)}")
            continue
        click.echo(f"\n## {name}\n\n{section.__doc__}\n\n| setting | default | |\n| --- | --- | --- |")
        for setting, details in section.model_fields.items():
            click.echo(f"| `{name}.{setting}` | {_default(details)} | {_describe(details)} |")
        for setting, details in section.model_fields.items():
            item = next((part for part in get_args(details.annotation) if _is_section(part)), None)
            if item is not None:
                click.echo(f"\nEach of `{name}.{setting}`: {item.__doc__}\n\n| | default | |\n| --- | --- | --- |")
                for part, told in item.model_fields.items():
                    click.echo(f"| `{part}` | {_default(told)} | {_describe(told)} |")


def _is_section(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _row(name: str, field: FieldInfo) -> str:
    return f"| setting | default | |\n| --- | --- | --- |\n| `{name}` | {_default(field)} | {_describe(field)} |"


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    return "" if value in (None, (), {}) else f"`{json.dumps(value)}`"


def _describe(field: FieldInfo) -> str:
    return " ".join((field.description or "").split()).replace("|", "\\|")


@config_group.command()
@_path
def show(path: Path | None) -> None:
    """Print the configuration as it is in force, without its secrets."""
    values = load(path).model_dump(mode="json")
    _hide(values)
    click.echo(yaml.safe_dump(values, sort_keys=False), nl=False)


def _hide(values: dict[str, object]) -> None:
    """Secrets among librdkafka's properties, and in URLs, are plain values; pydantic hides only its own."""
    kafka = values["kafka"]
    client = kafka["client"] if isinstance(kafka, dict) else {}
    for name in client:
        if is_secret(name):
            client[name] = MASK
    for name, value in values.items():
        values[name] = _without_passwords(value)


def _without_passwords(value: object) -> object:
    if isinstance(value, dict):
        return {name: _without_passwords(below) for name, below in value.items()}
    if isinstance(value, list):
        return [_without_passwords(below) for below in value]
    return masked(value) if isinstance(value, str) else value
