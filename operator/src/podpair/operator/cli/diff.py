"""Asks the cluster what would change if the operator applied a resource from a file. Nothing is written."""

import sys
from collections.abc import Iterator

import click

from podpair.operator.cli.cluster import Cluster, NotThere
from podpair.operator.cli.yaml_output import to_yaml
from podpair.operator.controller.dependencies import read_resume_key
from podpair.operator.core.api.igw import InferenceGateway
from podpair.operator.core.builders import references
from podpair.operator.core.builders.naming import GATEWAY_LABEL, Manifest
from podpair.operator.core.builders.network import operator_namespace_of
from podpair.operator.core.builders.settings import resume_files
from podpair.operator.core.desired import (
    OPERATOR_NAMESPACE,
    PLACEHOLDER_KEY,
    Dependencies,
    checksum_of,
    desired,
)
from podpair.operator.core.diff import object_diff
from podpair.operator.core.drift import with_hash
from podpair.operator.kube.kinds import (
    CONFIG_MAP,
    DEPLOYMENT,
    GATEWAY,
    NETWORK_POLICY,
    POD_MONITOR,
    PROMETHEUS_RULE,
    SECRET,
    WATCHED,
    Resource,
    resource_of,
)
from podpair.operator.kube.reference_informers import contents

_KINDS = {"Secret": SECRET, "ConfigMap": CONFIG_MAP}


def differences(
    cluster: Cluster, gateway: InferenceGateway, image: str, operator_namespace: str | None, *, chosen: bool
) -> str:
    """Return what would change, as unified diffs; empty: nothing.

    `image` is the gateway's if the resource names none and, unless `chosen`, none runs yet. `operator_namespace` None: the one
    that the live NetworkPolicy admits. A refusal of the API server ends the command with 2.
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
            planned = cluster.dry_run(path, with_hash(manifest))
        except NotThere as error:
            click.echo(f"podpair: {manifest['kind']} {namespace}/{manifest['metadata']['name']}: {error}", err=True)
            sys.exit(2)
        found.append(object_diff(live, planned, _written))
    places = {(one["kind"], one["metadata"]["name"]) for one in wanted}
    if stored is not None:
        found += [object_diff(one, None, _written) for one in _unwanted(cluster, gateway, places)]
    return "".join(found)


def _written(one: Manifest) -> str:
    return to_yaml([one])


def _tried(cluster: Cluster, gateway: InferenceGateway) -> Manifest | None:
    """Return the resource as stored; None: it would be new. A dry run checks that the API server accepts the file's."""
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
    """Return the image that runs: the operator's own default is known only from the operator's settings."""
    live = cluster.find(DEPLOYMENT.path(gateway.metadata.namespace, gateway.metadata.name))
    containers = live["spec"]["template"]["spec"]["containers"] if live is not None else []
    return next((str(one["image"]) for one in containers if one["name"] == "gateway"), None)


def _live_operator_namespace(cluster: Cluster, gateway: InferenceGateway) -> str | None:
    """Likewise: the operator has let its own namespace in."""
    live = cluster.find(NETWORK_POLICY.path(gateway.metadata.namespace, gateway.metadata.name))
    return operator_namespace_of(live) if live is not None else None


def _surroundings(cluster: Cluster, gateway: InferenceGateway, image: str, operator_namespace: str) -> Dependencies:
    namespace = gateway.metadata.namespace
    held = {}
    for one in references.references_of(gateway):
        found = cluster.find(_KINDS[one.kind].path(namespace, one.name))
        if found is not None:
            held[one.kind, one.name] = checksum_of(contents(found))
    key_secret = cluster.find(SECRET.path(namespace, resume_files(gateway).secret))
    key = read_resume_key(key_secret) if key_secret is not None else None
    return Dependencies(
        gateway_image=image,
        resume_key=key or PLACEHOLDER_KEY,
        secrets={name: digest for (kind, name), digest in held.items() if kind == "Secret"},
        config_maps={name: digest for (kind, name), digest in held.items() if kind == "ConfigMap"},
        pod_monitors=_serves(cluster, POD_MONITOR),
        prometheus_rules=_serves(cluster, PROMETHEUS_RULE),
        operator_namespace=operator_namespace,
    )


def _serves(cluster: Cluster, resource: Resource) -> bool:
    """Tell whether the cluster knows a kind: one CRD of a group may be there without another."""
    found = cluster.find(f"/apis/{resource.api_version}")
    return found is not None and any(one["name"] == resource.plural for one in found["resources"])


def _unwanted(cluster: Cluster, gateway: InferenceGateway, places: set[tuple[str, str]]) -> Iterator[Manifest]:
    """Yield the objects that the operator made before and would delete."""
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
