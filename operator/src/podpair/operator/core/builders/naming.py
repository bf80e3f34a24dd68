"""Names, labels and owners of the objects: what ties them to their resource."""

from collections.abc import Mapping
from typing import Any

from podpair.operator.core.api.igw import API_VERSION, KIND, InferenceGateway
from podpair.operator.core.builders.propagation import propagated_annotations, propagated_labels

Manifest = dict[str, Any]
"""An object of the Kubernetes API."""
GATEWAY_LABEL = "podpair.dev/gateway"
"""Names the resource: on pods, and in the selectors of external metrics."""


def selector(gateway: InferenceGateway) -> dict[str, str]:
    """Return the labels that select the pods. They never change, since a Deployment's selector can't."""
    return {"app.kubernetes.io/name": "podpair", GATEWAY_LABEL: gateway.metadata.name}


def labels(gateway: InferenceGateway) -> dict[str, str]:
    """Return the labels of every object."""
    return {
        **selector(gateway),
        "app.kubernetes.io/instance": gateway.metadata.name,
        "app.kubernetes.io/managed-by": "podpair-operator",
    }


def metadata(
    gateway: InferenceGateway,
    suffix: str = "",
    *,
    annotations: Mapping[str, str] | None = None,
    more_labels: Mapping[str, str] | None = None,
    annotated: bool = True,
) -> dict[str, Any]:
    """Return an object's metadata: its name, labels and annotations, and the resource as its owner if that is in a cluster.

    `annotations` and `more_labels` override the resource's, podpair's own labels override all; the resource's annotations are
    left out unless `annotated`.
    """
    made: dict[str, Any] = {
        "name": gateway.metadata.name + suffix,
        "namespace": gateway.metadata.namespace,
        "labels": {**propagated_labels(gateway), **(more_labels or {}), **labels(gateway)},
    }
    if all_annotations := {**(propagated_annotations(gateway) if annotated else {}), **(annotations or {})}:
        made["annotations"] = all_annotations
    if gateway.metadata.uid is not None:
        made["ownerReferences"] = [
            {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "name": gateway.metadata.name,
                "uid": gateway.metadata.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ]
    return made


def requests_topic(gateway: InferenceGateway) -> str:
    """Return the requests topic. Its default name contains the namespace: one broker often serves several."""
    return gateway.spec.kafka.requests.name or f"{gateway.metadata.namespace}.{gateway.metadata.name}.requests"


def amqp_queue(gateway: InferenceGateway) -> str:
    """Return the queue of RabbitMQ that requests are taken from, if there is one."""
    named = gateway.spec.amqp.queue if gateway.spec.amqp is not None else None
    return named or f"{gateway.metadata.namespace}.{gateway.metadata.name}.requests"


def results_topic(gateway: InferenceGateway) -> str:
    """Return the results topic."""
    return gateway.spec.kafka.results.name or f"{gateway.metadata.namespace}.{gateway.metadata.name}.results"


def dead_letters_topic(gateway: InferenceGateway) -> str:
    """Return the topic of requests that failed every attempt, by the name that the gateway gives it."""
    return f"{requests_topic(gateway)}.dlq"


def cache_topic(gateway: InferenceGateway) -> str:
    """Return the topic of records that remove cached answers."""
    return f"{requests_topic(gateway)}.cache"


def workflows_topic(gateway: InferenceGateway) -> str:
    """Return the topic with the state of workflows."""
    return f"{requests_topic(gateway)}.workflows"


def presence_topic(gateway: InferenceGateway) -> str:
    """Return the topic that says which sessions are connected."""
    return f"{requests_topic(gateway)}.presence"


def deliveries_topic(gateway: InferenceGateway) -> str:
    """Return what the names of the topics of deliveries begin with."""
    named = gateway.spec.deliveries.topic if gateway.spec.deliveries is not None else None
    return named or f"{gateway.metadata.namespace}.{gateway.metadata.name}.deliveries"


def consumer_group(gateway: InferenceGateway) -> str:
    """Return the consumer group."""
    return gateway.spec.kafka.consumer_group.id or f"{gateway.metadata.namespace}.{gateway.metadata.name}"


def brokers_from_elsewhere(gateway: InferenceGateway) -> str:
    """Return the broker's addresses as seen from other namespaces: to the pods a name without a dot is a Service of theirs."""

    def whole(server: str) -> str:
        host, _, port = server.rpartition(":")
        return (
            server
            if "." in host or host == "localhost" or host.startswith("[")
            else f"{host}.{gateway.metadata.namespace}.svc:{port}"
        )

    return ",".join(map(whole, gateway.spec.kafka.bootstrap_servers.split(",")))
