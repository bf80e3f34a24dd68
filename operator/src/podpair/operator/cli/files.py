"""Reads the files that commands are given; what is wrong in one is told in full, and ends the command."""

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from podpair.operator.core.objects.network import network_faults
from podpair.operator.core.reading import read
from podpair.operator.core.resource.igw import InferenceGateway
from podpair.operator.kafka.properties import property_faults
from podpair.operator.kube.pod_schema import Place, pod_faults

file_argument = click.argument("file", type=click.Path(path_type=Path, allow_dash=True))


def faults_offline(gateway: InferenceGateway) -> Iterator[tuple[Place, str]]:
    """What can be told without a cluster of a resource whose fields are good."""
    yield from pod_faults(gateway)
    yield from network_faults(gateway)
    yield from property_faults(gateway)


def read_file(file: Path, namespace: str | None = None) -> list[InferenceGateway]:
    """The resources in a file (`-` is standard input), in `namespace` where they name none.

    Where there are faults, tells all of them and exits with 2.
    """
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        click.echo(f"podpair: {file}: {reason}", err=True)
        sys.exit(2)
    contents = read(text, namespace, faults_offline)
    if contents.faults:
        count = "1 fault" if len(contents.faults) == 1 else f"{len(contents.faults)} faults"
        click.echo(f"podpair: {count} in {file}", err=True)
        for fault in contents.faults:
            click.echo(f"  {fault}", err=True)
        sys.exit(2)
    return contents.resources
