"""`podpair-gateway config`: check, schema, doc, show."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import click
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from podpair.common.faults import FaultsError
from podpair.common.gateway_config.model import Config
from podpair.common.redaction import MASK, is_secret, redact
from podpair.gateway.auth.resume import ResumeTokens
from podpair.gateway.auth.tokens import TokenVerifier
from podpair.gateway.config.load import load
from podpair.gateway.http.tls import certificate_of
from podpair.gateway.kafka.clients import check_files, check_properties, client_secrets

_PAGE = """\
# Configuring the gateway

You want to change something about a gateway. Every setting has one name, in the YAML file (`--config`) and in the environment,
which comes over the file: `http.port` is `PODPAIR_HTTP__PORT`. `podpair-gateway config check` tells every fault at once,
`config show` what is in force (secrets hidden), `config schema` is the JSON schema for an editor. This page is `config doc`.

In the environment a list is JSON or has commas: `PODPAIR_HTTP__ORIGINS='["https://a.example", "https://b.example"]'` and
`PODPAIR_HTTP__ORIGINS=https://a.example,https://b.example` say the same. A list of rules, a mapping or a whole section is JSON:
`PODPAIR_ADMISSION__RULES='[{"claim": "tenant", "sessions": 5}]'`, `PODPAIR_LIMITS='{"max_direct_in_flight": 8}'`; a variable
for one setting comes over one for its section. A list replaces that of the file, a mapping is laid over it.
"""
_path = click.option("--config", "path", type=click.Path(path_type=Path), help="YAML file with the configuration.")


@click.group("config")
def config_group() -> None:
    """Inspect the configuration."""


@config_group.command()
@_path
def check(path: Path | None) -> None:
    """Check the configuration, and the keys and secrets that it names; reports every fault and exits with 2."""
    config = load(path)
    faults = []
    for read in (
        lambda: TokenVerifier(config.auth),
        lambda: ResumeTokens(config.sessions),
        lambda: client_secrets(config.kafka),
        lambda: check_files(config.kafka),
        lambda: certificate_of(config.http),
        lambda: _check_amqp(config),
        lambda: _check_deliveries(config),
    ):
        try:
            read()
        except FaultsError as error:
            faults += error.faults
    if faults:
        raise FaultsError(faults)
    check_properties(config.kafka)  # once all files are readable
    click.echo("the configuration is good")


def _check_amqp(config: Config) -> None:
    """Read the files that the section amqp names, if it counts. Raises FaultsError."""
    if config.requests.source == "kafka":
        return
    from podpair.gateway.amqp.connection import BrokerUnusable, read_secrets

    try:
        read_secrets(config.amqp)
    except BrokerUnusable as error:
        raise FaultsError([str(error)]) from None


def _check_deliveries(config: Config) -> None:
    """Read the files that the section deliveries names, if it counts. Raises FaultsError."""
    if not config.deliveries.enabled:
        return
    from podpair.gateway.deliveries.mail_sender import MailSender
    from podpair.gateway.deliveries.service import read_vapid_key

    read_vapid_key(config.deliveries.web_push)
    MailSender(config.deliveries).check_files()


@config_group.command()
def schema() -> None:
    """Print the configuration's JSON schema: every setting, its default and its meaning."""
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
        for setting, details in _settings(name, section):
            click.echo(f"| `{setting}` | {_default(details)} | {_describe(details)} |")
        for setting, details in section.model_fields.items():
            item = next((kind for kind in get_args(details.annotation) if _is_section(kind)), None)
            if item is not None:
                click.echo(f"\nEach of `{name}.{setting}`: {item.__doc__}\n\n| | default | |\n| --- | --- | --- |")
                for key, description in item.model_fields.items():
                    click.echo(f"| `{key}` | {_default(description)} | {_describe(description)} |")


def _settings(name: str, section: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    """Yield the settings of a section and of those within it, by their whole names."""
    for setting, details in section.model_fields.items():
        if isinstance(details.annotation, type) and issubclass(details.annotation, BaseModel):
            yield from _settings(f"{name}.{setting}", details.annotation)
        else:
            yield f"{name}.{setting}", details


def _is_section(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _row(name: str, field: FieldInfo) -> str:
    return f"| setting | default | |\n| --- | --- | --- |\n| `{name}` | {_default(field)} | {_describe(field)} |"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return "" if value in (None, (), {}) else f"`{json.dumps(value)}`"


def _describe(field: FieldInfo) -> str:
    return " ".join((field.description or "").split()).replace("|", "\\|")


@config_group.command()
@_path
def show(path: Path | None) -> None:
    """Print the effective configuration, without its secrets."""
    values = load(path).model_dump(mode="json")
    _hide(values)
    click.echo(yaml.safe_dump(values, sort_keys=False), nl=False)


def _hide(values: dict[str, object]) -> None:
    """Hide secrets among librdkafka's properties, and in URLs; pydantic hides only its own."""
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
    return redact(value) if isinstance(value, str) else value
