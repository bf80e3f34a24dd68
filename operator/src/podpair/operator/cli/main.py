"""`podpair`: what a resource means, before a cluster sees it."""

import sys
from pathlib import Path

import click
import yaml

from podpair.operator.core.crd import crd as make_crd
from podpair.operator.core.reading import read
from podpair.operator.core.resource.igw import InferenceGateway
from podpair.operator.core.resource_doc import document

_file = click.argument("file", type=click.Path(path_type=Path, allow_dash=True))


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="podpair-operator")
def cli() -> None:
    """Looks at InferenceGateway resources: what is wrong with one, and what it would become."""


@cli.command()
@click.option("--format", "form", type=click.Choice(["yaml", "doc"]), default="yaml", help="The CRD, or a page on it.")
def crd(form: str) -> None:
    """Print the CustomResourceDefinition (charts/podpair-crds holds it), or every field as a page (docs/resource.md)."""
    if form == "doc":
        click.echo(document(make_crd()), nl=False)
    else:
        click.echo(yaml.safe_dump(make_crd(), sort_keys=False, width=120, allow_unicode=True), nl=False)


@cli.command()
@_file
def validate(file: Path) -> None:
    """Check the resources in FILE (- is standard input) as the API server would; exits with 2 if one has a fault."""
    resources = read_file(file)
    names = ", ".join(resource.metadata.name for resource in resources)
    click.echo(f"{file}: {names} {'is' if len(resources) == 1 else 'are'} good")


def read_file(file: Path) -> list[InferenceGateway]:
    """The resources in a file; where there are faults, tells all of them and exits with 2."""
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        click.echo(f"podpair: {file}: {reason}", err=True)
        sys.exit(2)
    contents = read(text)
    if contents.faults:
        count = "1 fault" if len(contents.faults) == 1 else f"{len(contents.faults)} faults"
        click.echo(f"podpair: {count} in {file}", err=True)
        for fault in contents.faults:
            click.echo(f"  {fault}", err=True)
        sys.exit(2)
    return contents.resources


def main() -> None:
    """The entry point."""
    cli()
