"""`podpair plan`: the objects that a resource becomes, without a cluster; with --diff, what would change in one."""

import importlib.metadata
import sys
from pathlib import Path

import click

from podpair.operator.cli.files import file_argument, read_file
from podpair.operator.cli.yaml_output import to_yaml
from podpair.operator.core.desired import OPERATOR_NAMESPACE, PLACEHOLDER_KEY, Dependencies, desired


@click.command()
@file_argument
@click.option(
    "--gateway-image",
    help="The gateway's image if the resource names none.  [default: podpair's own; with --diff, the one that runs]",
)
@click.option(
    "--pod-monitor", is_flag=True, help="The cluster knows Prometheus Operator's PodMonitor (--diff sees it)."
)
@click.option(
    "--prometheus-rule", is_flag=True, help="The cluster knows Prometheus Operator's PrometheusRule (--diff sees it)."
)
@click.option(
    "--namespace",
    "-n",
    help="The namespace, if the resource names none.  [default: default; --diff: the kubeconfig's]",
)
@click.option(
    "--operator-namespace",
    help=f"The operator's namespace, which may ask the pods for their load.  [default: {OPERATOR_NAMESPACE}; --diff: as it is]",
)
@click.option("--diff", is_flag=True, help="Ask the cluster what would change; exits with 1 if something would.")
def plan(
    file: Path,
    gateway_image: str | None,
    pod_monitor: bool,
    prometheus_rule: bool,
    namespace: str | None,
    operator_namespace: str | None,
    diff: bool,
) -> None:
    """Print the exact objects that the resources in FILE (- is standard input) become, as YAML.

    The same file gives the same objects each time. The key that signs resume tokens is a placeholder, which no gateway
    takes: the operator makes the key once, and keeps it. Who applies a plan by hand puts a key of 32 bytes there.

    With --diff, the cluster that the kubeconfig leads to tries the objects (nothing is written), and what would change is
    printed as a unified diff; values of Secrets aren't shown. Exits with 0 if nothing would change, 1 if something
    would, 2 if that can't be determined.
    """
    image = gateway_image or f"podpair-gateway:{importlib.metadata.version('podpair-operator')}"
    if diff:
        from podpair.operator.cli.cluster import Cluster  # needless without a cluster
        from podpair.operator.cli.diff import differences

        cluster = Cluster()
        resources = read_file(file, namespace or cluster.namespace)
        chosen = gateway_image is not None
        found = "".join(differences(cluster, one, image, operator_namespace, chosen=chosen) for one in resources)
        click.echo(found, nl=False)
        sys.exit(1 if found else 0)
    where = operator_namespace or OPERATOR_NAMESPACE
    around = Dependencies(
        image,
        PLACEHOLDER_KEY,
        pod_monitors=pod_monitor,
        prometheus_rules=prometheus_rule,
        operator_namespace=where,
    )
    objects = [one for resource in read_file(file, namespace) for one in desired(resource, around)]
    click.echo(to_yaml(objects), nl=False)
