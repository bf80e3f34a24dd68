"""Reads the files that commands are given; the faults of a file are printed in full, and end the command."""

import sys
from collections.abc import Iterator
from pathlib import Path

import click
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from podpair.operator.config.settings import FieldPath
from podpair.operator.core.api.igw import InferenceGateway
from podpair.operator.core.builders.network import network_faults
from podpair.operator.core.config_faults import config_faults
from podpair.operator.core.manifest_loader import load_manifests
from podpair.operator.core.policy import Policy, policy_faults
from podpair.operator.kafka.properties import property_faults
from podpair.operator.kube.pod_schema import Place, pod_faults

file_argument = click.argument("file", type=click.Path(path_type=Path, allow_dash=True))


def offline_faults(gateway: InferenceGateway) -> Iterator[tuple[Place, str]]:
    """Yield the faults that can be found without a cluster, of a resource whose fields are valid."""
    yield from pod_faults(gateway)
    yield from network_faults(gateway)
    yield from property_faults(gateway)
    yield from config_faults(gateway)


def read_policy(file: Path) -> Policy:
    """Return the policy in a file with values of the chart podpair-operator. Raises click.BadParameter."""
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
        return _PolicyValues.model_validate(values if values is not None else {}).policy
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError) as error:
        raise click.BadParameter(f"{file} holds no values of the chart podpair-operator: {error}") from None


class _Values(BaseModel):
    # A chart's values hold much more, which the chart's own schema checks.
    model_config = ConfigDict(extra="ignore", strict=True)


class _Brokers(_Values):
    allow_readable_credentials: bool = Field(default=False, alias="allowReadableCredentials")
    secrets: list[str] = []


class _PodTemplate(_Values):
    forbidden: list[FieldPath] = []


class _PolicyValues(_Values):
    brokers: _Brokers = _Brokers()
    pod_template: _PodTemplate = Field(default=_PodTemplate(), alias="podTemplate")

    @property
    def policy(self) -> Policy:
        brokers = self.brokers
        return Policy(brokers.allow_readable_credentials, tuple(brokers.secrets), tuple(self.pod_template.forbidden))


def read_file(file: Path, namespace: str | None = None, policy: Policy | None = None) -> list[InferenceGateway]:
    """Return the resources in a file (`-` is standard input), in `namespace` if they name none.

    `policy` is the installation's; None: not known, and not checked.

    If there are faults, prints all of them and exits with 2.
    """
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        click.echo(f"podpair: {file}: {reason}", err=True)
        sys.exit(2)

    def faults(gateway: InferenceGateway) -> Iterator[tuple[Place, str]]:
        yield from offline_faults(gateway)
        if policy is not None:
            yield from policy_faults(gateway, policy)

    contents = load_manifests(text, namespace, faults)
    if contents.faults:
        count = "1 fault" if len(contents.faults) == 1 else f"{len(contents.faults)} faults"
        click.echo(f"podpair: {count} in {file}", err=True)
        for fault in contents.faults:
            click.echo(f"  {fault}", err=True)
        sys.exit(2)
    return contents.resources
