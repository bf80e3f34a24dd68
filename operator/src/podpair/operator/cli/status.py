"""`podpair status`: how a resource is, and what it waits for."""

import json
import sys

import click
from pydantic import ValidationError

from podpair.operator.cli.cluster import Cluster
from podpair.operator.core.api.igw import API_VERSION, KIND, PLURAL, InferenceGateway
from podpair.operator.core.builders.naming import selector
from podpair.operator.core.summary import summarize, text


@click.command()
@click.argument("name")
@click.option("--namespace", "-n", help="The namespace.  [default: the kubeconfig's]")
@click.option(
    "--output", "-o", type=click.Choice(["text", "json"]), default="text", help="For people, or for programs."
)
def status(name: str, namespace: str | None, output: str) -> None:
    """Tell how the InferenceGateway NAME is: conditions, pods, sessions, lag, topics, and what it waits for.

    Reads the cluster that the kubeconfig leads to.
    """
    cluster = Cluster()
    namespace = namespace or cluster.namespace
    found = cluster.find(f"/apis/{API_VERSION}/namespaces/{namespace}/{PLURAL}/{name}")
    if found is None:
        served = cluster.find(f"/apis/{API_VERSION}") is not None
        lacks = (
            f"there is no {KIND} {namespace}/{name}" if served else f"the cluster knows no {KIND}: install podpair-crds"
        )
        click.echo(f"podpair: {lacks}", err=True)
        sys.exit(1)
    try:
        gateway = InferenceGateway.model_validate(found)
    except ValidationError as error:
        click.echo(f"podpair: {namespace}/{name} is not as this version of podpair knows it: {error}", err=True)
        sys.exit(2)
    labels = ",".join(f"{label}={value}" for label, value in selector(gateway).items())
    pods = cluster.get(f"/api/v1/namespaces/{namespace}/pods", labelSelector=labels)["items"]
    summary = summarize(gateway, pods)
    output_text = text(summary) if output == "text" else json.dumps(summary.json(), indent=2) + "\n"
    click.echo(output_text, nl=False)
