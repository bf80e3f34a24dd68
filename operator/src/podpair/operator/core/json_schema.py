"""The resource's schema as JSON Schema (draft 7), for what reads files rather than asks a cluster: editors, and Helm.

It is the CRD's schema, except that it refuses unknown fields: the API server only drops them.
The rules between fields (CEL) are the API server's alone, and `podpair validate`'s.
"""

from typing import Any

from podpair.operator.core.api.igw import API_VERSION, KIND
from podpair.operator.core.crd import crd


def json_schema() -> dict[str, Any]:
    """Return the schema of a whole resource."""
    properties = {"apiVersion": {"const": API_VERSION}, "kind": {"const": KIND}, "metadata": {"type": "object"}}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": KIND,
        "type": "object",
        "additionalProperties": False,
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "properties": properties | {"spec": spec_schema(), "status": {"type": "object"}},
    }


def spec_schema() -> dict[str, Any]:
    """Return the schema of `spec`."""
    (version,) = crd()["spec"]["versions"]
    plain: dict[str, Any] = _plain(version["schema"]["openAPIV3Schema"]["properties"]["spec"])
    return plain


def _plain(schema: Any) -> Any:
    """Drop Kubernetes' own keywords. `properties` holds names, not keywords, and `default` holds values."""
    if isinstance(schema, list):
        return [_plain(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {
        key: {name: _plain(one) for name, one in value.items()}
        if key == "properties"
        else value
        if key == "default"
        else _plain(value)
        for key, value in schema.items()
        if not key.startswith("x-kubernetes-")
    }
    if "properties" in plain and not schema.get("x-kubernetes-preserve-unknown-fields"):
        plain["additionalProperties"] = False
    return plain
