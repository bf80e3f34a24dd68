"""Asks the cluster what would change if the operator kept a resource as a file has it. Nothing is written."""

import sys
from collections.abc import Iterator

import click

from podpair.operator.cli.cluster import Cluster, NotThere
from podpair.operator.cli.printing import to_yaml
from podpair.operator.core.desired import (
    OPERATOR_NAMESPACE,
    PLACEHOLDER_KEY,
    Surroundings,
    checksum_of,
    desired,
)
from podpair.operator.core.differing import differing
from podpair.operator.core.drift import stamped
from podpair.operator.core.objects import references
from podpair.operator.core.objects.naming import GATEWAY_LABEL, Manifest
from podpair.operator.core.objects.network import operator_namespace_of
from podpair.operator.core.objects.settings import resume_files
from podpair.operator.core.resource.igw import InferenceGateway
from podpair.operator.kube.kinds import (
    CONFIG_MAP,
    DEPLOYMENT,
    GATEWAY,
    NETWORK_POLICY,
    POD_MONITOR,
    SECRET,
    WATCHED,
    resource_of,
)
from podpair.operator.kube.references import contents
from podpair.operator.reconciling.surroundings import read_resume_key

_KINDS = {"Secret": SECRET, "ConfigMap": CONFIG_MAP}


def differences(
    cluster: Cluster, gateway: InferenceGateway, image: str, operator_namespace: str | None, *, chosen: bool
) -> str:
    """What would change, as unified diffs; empty: nothing. `image` is the gateway's where the resource names none and, unless
    it is `chosen`, none runs yet. `operator_namespace` None: the one that the live NetworkPolicy lets in. What the API server
    refuses ends the command with 2.
    """
    namespace = gateway.metadata.namespace
    stored = _tried(cluster, gateway)
    if stored is not None:
        metadata = gateway.metadata.model_copy(update={"uid": stored["metadata"]["uid"]})
        gateway = gateway.model_copy(update={"metadata": metadata})
    live_image = None if chosen else _live_image(cluster, gateway)
    where = operator_namespace or _live_operator_namespace(cluster, gateway) or OPERATOR_NAMESPACE
    wanted = desired(gateway, _surroundings(cluster, gateway, live_image or image, where))
    found = []
    for manifest in wanted:
        path = resource_of(manifest).path(namespace, manifest["metadata"]["name"])
        live = cluster.find(path)
        try:
            planned = cluster.dry_run(path, stamped(manifest))
        except NotThere as error:
            click.echo(f"podpair: {manifest['kind']} {namespace}/{manifest['metadata']['name']}: {error}", err=True)
            sys.exit(2)
        found.append(differing(live, planned, _written))
    places = {(one["kind"], one["metadata"]["name"]) for one in wanted}
    if stored is not None:
        found += [differing(one, None, _written) for one in _unwanted(cluster, gateway, places)]
    return "".join(found)


def _written(one: Manifest) -> str:
    return to_yaml([one])


def _tried(cluster: Cluster, gateway: InferenceGateway) -> Manifest | None:
    """The resource as it is stored; None: it would be new. The API server is asked whether it takes it as the file has it."""
    collection = GATEWAY.path(gateway.metadata.namespace)
    stored = cluster.find(f"{collection}/{gateway.metadata.name}")
    asked = gateway.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude={"status", "metadata"})
    metadata = gateway.metadata.model_dump(mode="json", include={"name", "namespace", "labels", "annotations"})
    asked["metadata"] = metadata if stored is None else stored["metadata"]
    try:
        cluster.try_to_store(collection, asked)
    except NotThere as error:
        click.echo(
            f"podpair: the cluster doesn't take {gateway.metadata.namespace}/{gateway.metadata.name} ({error}):"
            " install podpair-crds, and make the namespace",
            err=True,
        )
        sys.exit(2)
    return stored


def _live_image(cluster: Cluster, gateway: InferenceGateway) -> str | None:
    """The operator's own default is in the operator's settings; what it has become runs."""
    live = cluster.find(DEPLOYMENT.path(gateway.metadata.namespace, gateway.metadata.name))
    containers = live["spec"]["template"]["spec"]["containers"] if live is not None else []
    return next((str(one["image"]) for one in containers if one["name"] == "gateway"), None)


def _live_operator_namespace(cluster: Cluster, gateway: InferenceGateway) -> str | None:
    """Likewise: the operator has let its own namespace in."""
    live = cluster.find(NETWORK_POLICY.path(gateway.metadata.namespace, gateway.metadata.name))
    return operator_namespace_of(live) if live is not None else None


def _surroundings(cluster: Cluster, gateway: InferenceGateway, image: str, operator_namespace: str) -> Surroundings:
    namespace = gateway.metadata.namespace
    held = {}
    for one in references.named(gateway):
        found = cluster.find(_KINDS[one.kind].path(namespace, one.name))
        if found is not None:
            held[one.kind, one.name] = checksum_of(contents(found))
    key_secret = cluster.find(SECRET.path(namespace, resume_files(gateway).secret))
    key = read_resume_key(key_secret) if key_secret is not None else None
    return Surroundings(
        gateway_image=image,
        resume_key=key or PLACEHOLDER_KEY,
        secrets={name: digest for (kind, name), digest in held.items() if kind == "Secret"},
        config_maps={name: digest for (kind, name), digest in held.items() if kind == "ConfigMap"},
        pod_monitors=cluster.find(f"/apis/{POD_MONITOR.api_version}") is not None,
        operator_namespace=operator_namespace,
    )


def _unwanted(cluster: Cluster, gateway: InferenceGateway, places: set[tuple[str, str]]) -> Iterator[Manifest]:
    """What the operator made before, and would take away."""
    selector = f"{GATEWAY_LABEL}={gateway.metadata.name}"
    for resource in WATCHED:
        found = (
            cluster.find(resource.path(gateway.metadata.namespace), labelSelector=selector) if resource.owned else None
        )
        for one in found["items"] if found is not None else ():
            owners = one["metadata"].get("ownerReferences") or []
            owned = any(owner.get("controller") and owner["uid"] == gateway.metadata.uid for owner in owners)
            if owned and (resource.kind, one["metadata"]["name"]) not in places:
                yield {"apiVersion": resource.api_version, "kind": resource.kind, **one}
