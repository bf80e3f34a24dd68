"""`podpair plan`: the objects that a resource becomes, without a cluster."""

import importlib.metadata
import re
import secrets
from pathlib import Path

import click
import yaml

from podpair.operator.cli.files import file_argument, read_file
from podpair.operator.core.desired import Surroundings, desired


@click.command()
@file_argument
@click.option("--gateway-image", help="The gateway's image where the resource names none.  [default: podpair's own]")
@click.option("--pod-monitor", is_flag=True, help="The cluster knows Prometheus Operator's PodMonitor.")
@click.option("--namespace", "-n", help="The namespace, where the resource names none.  [default: default]")
def plan(file: Path, gateway_image: str | None, pod_monitor: bool, namespace: str | None) -> None:
    """Print the exact objects that the resources in FILE (- is standard input) become, as YAML.

    Only the key that signs resume tokens is new each time; the operator makes it once, and keeps it.
    """
    image = gateway_image or f"podpair-gateway:{importlib.metadata.version('podpair-operator')}"
    objects = []
    for resource in read_file(file, namespace):
        objects += desired(resource, Surroundings(image, secrets.token_urlsafe(32), pod_monitors=pod_monitor))
    click.echo(yaml.dump_all(objects, Dumper=_Plain, sort_keys=False, width=120, allow_unicode=True), nl=False)


class _Plain(yaml.SafeDumper):
    """Writes shared parts in full, and texts of several lines as blocks, as people do."""

    def ignore_aliases(self, data: object) -> bool:
        return True


# kubectl's YAML takes more for numbers and booleans than PyYAML does: 1e3, 0o17, y.
_AMBIGUOUS = re.compile(r"[-+.]?[0-9]|[yYnN]$")


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    style = "|" if "\n" in value else '"' if _AMBIGUOUS.match(value) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Plain.add_representer(str, _text)
