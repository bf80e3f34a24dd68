"""`podpair`: what a resource means, before a cluster sees it and after."""

import json
from pathlib import Path

import click
import yaml

from podpair.operator.cli.files import file_argument, read_file, read_policy
from podpair.operator.cli.plan import plan
from podpair.operator.cli.status import status
from podpair.operator.core.crd import crd as make_crd
from podpair.operator.core.json_schema import json_schema
from podpair.operator.core.resource_doc import document


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="podpair-operator")
def cli() -> None:
    """Looks at InferenceGateway resources: what is wrong with one, and what it becomes."""


@cli.command()
@click.option(
    "--format", "form", type=click.Choice(["yaml", "doc", "json-schema"]), default="yaml", help="What to print."
)
def crd(form: str) -> None:
    """Print the CustomResourceDefinition (charts/podpair-crds holds it), every field as a page (docs/resource.md), or the
    JSON Schema of a resource, by which an editor completes and checks one."""
    if form == "doc":
        click.echo(document(make_crd()), nl=False)
    elif form == "json-schema":
        click.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))
    else:
        click.echo(yaml.safe_dump(make_crd(), sort_keys=False, width=120, allow_unicode=True), nl=False)


@cli.command()
@file_argument
@click.option(
    "--policy",
    type=click.Path(path_type=Path),
    help="Values of the installation's chart podpair-operator: what its `brokers` and `podTemplate` forbid is a fault.",
)
def validate(file: Path, policy: Path | None) -> None:
    """Check the resources in FILE (- is standard input) as the API server would, and the pods that they become by Kubernetes'
    own schema; exits with 2 if one has a fault."""
    resources = read_file(file, policy=read_policy(policy) if policy is not None else None)
    names = ", ".join(resource.metadata.name for resource in resources)
    click.echo(f"{file}: {names} {'is' if len(resources) == 1 else 'are'} good")


cli.add_command(plan)
cli.add_command(status)


def main() -> None:
    """Run the command line."""
    cli()
