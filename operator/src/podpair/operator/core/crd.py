"""The CustomResourceDefinition, made from the resource's models: the only place where the two meet."""

from typing import Any

from podpair.operator.core.api.igw import GROUP, KIND, NAME_RULE, PLURAL, VERSION, InferenceGateway, Spec
from podpair.operator.core.api.status import Status
from podpair.operator.core.schema import structural

NAME = f"{PLURAL}.{GROUP}"
_COLUMNS = (
    ("Ready", "string", '.status.conditions[?(@.type=="Ready")].status', "Whether clients are served."),
    ("Replicas", "string", ".status.ready", "Ready pods of wanted ones."),
    ("Sessions", "integer", ".status.sessions", "Sessions with a client connected."),
    ("Lag", "integer", ".status.lag", "Queued requests that wait."),
    ("Version", "string", ".status.version", "Version of the model that most requests get."),
    ("Age", "date", ".metadata.creationTimestamp", "When it was made."),
)


def crd() -> dict[str, Any]:
    """Return the CRD as an object to apply."""
    schema = {
        "type": "object",
        "description": " ".join((InferenceGateway.__doc__ or "").split()),
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": structural(Spec),
            # Until the operator has reconciled it, tools must not take it for done (kstatus).
            "status": {**structural(Status), "default": {"observedGeneration": -1}},
        },
        "required": ["spec"],
        "x-kubernetes-validations": [NAME_RULE.validation()],
    }
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": [
            {"name": name, "type": kind, "jsonPath": path, "description": description}
            for name, kind, path, description in _COLUMNS
        ],
        "schema": {"openAPIV3Schema": schema},
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.replicas",
                "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector",
            },
        },
    }
    names = {"kind": KIND, "listKind": f"{KIND}List", "plural": PLURAL, "singular": KIND.lower(), "shortNames": ["igw"]}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        # Helm leaves it when its chart is uninstalled: with the CRD would go every resource.
        "metadata": {"name": NAME, "annotations": {"helm.sh/resource-policy": "keep"}},
        "spec": {"group": GROUP, "names": names, "scope": "Namespaced", "versions": [version]},
    }
