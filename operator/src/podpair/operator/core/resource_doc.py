"""The page on the resource (docs/resource.md), made from the CRD: every field, its default and what it means."""

import json
from collections.abc import Iterator
from typing import Any

_PAGE = """\
# InferenceGateway: every field

For authors of a resource. `podpair validate FILE` reports all its faults without a cluster,
`podpair plan FILE` shows the objects that it becomes, `kubectl explain igw.spec.scaling` prints what is written here. This
page is `podpair crd --format doc`.

Ten lines are enough: [examples/digits/inferencegateway.yaml](../examples/digits/inferencegateway.yaml). A name in **bold** is
required. Durations are `50ms`, `20s`, `5m`, `1h30m`: each unit once, the largest first. Quantities are those of Kubernetes
(`500m`, `1.5Gi`, `1e9`), none negative, and in quotes if they have a fraction. A `null` is a missing field.

The operator creates the topics, and gateways wait for them. If `kafka.createTopics` is false, somebody else has to. It
alters and deletes only topics that the resource created or adopted: [whose topics are](topics.md). The annotation
`podpair.dev/paused: "true"` stops the operator from writing to a resource's objects.

## Labels and annotations

What the resource has in `metadata.labels` and `metadata.annotations`, the objects that the operator makes for it have, too, but
for its Secrets, which have the labels only. What a section says (`network.service.annotations`, `network.ingress.annotations`,
`monitoring.labels`) overrides that, podpair's own labels override all. Three things are left out:

- Names by which tools recognize what they applied, since an object that has one, too, would be pruned: those whose domain is
  `kubernetes.io` or `k8s.io` (but `app.kubernetes.io/part-of` and `component`), `argoproj.io`, `cattle.io`, `crossplane.io`,
  `fluxcd.io`, `gke.io`, `helm.sh`, `k14s.io`, `k8s-agent.gitlab.com`, `kopf.dev`, `kopf.zalando.org`, `operatorframework.io`,
  `operators.coreos.com`, `pulumi.com`, `skaffold.dev`, `tanka.dev`, `werf.io`, `podpair.dev`, or ends in one of them.
- Pods: they would be replaced, and every client would move. `inference.podTemplate.metadata` is for
  them; a change there rolls them.
- Selectors, which never change.

The annotation `podpair.dev/propagate: "false"` turns it off.
"""


def document(crd: dict[str, Any]) -> str:
    """Return the page in Markdown."""
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    parts = [_PAGE]
    for name in ("spec", "status"):
        parts += [f"\n## {heading}\n\n{table}" for heading, table in _sections(name, schema[name])]
    return "".join(parts)


def _sections(path: str, schema: dict[str, Any]) -> Iterator[tuple[str, str]]:
    rows = ["| field | default | |\n| --- | --- | --- |\n"]
    below = []
    for name, field in schema["properties"].items():
        shown = f"**`{name}`**" if name in schema.get("required", []) else f"`{name}`"
        inner, suffix = _inner(field)
        if inner is not None:
            below.append((f"{path}.{name}{suffix}", inner))
        rows.append(f"| {shown} | {_default(field)} | {_cell(field['description'])} |\n")
    rules = [f"- {_cell(rule['message'])}\n" for rule in schema.get("x-kubernetes-validations", [])]
    yield path, f"{schema['description']}\n\n{''.join(rows)}" + ("\nRules:\n\n" + "".join(rules) if rules else "")
    for place, inner in below:
        yield from _sections(place, inner)


def _inner(field: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """Return the section that a field holds, and the suffix of its path."""
    if "properties" in field:
        return field, ""
    items = field.get("items", {})
    return (items, "[]") if "properties" in items else (None, "")


def _default(field: dict[str, Any]) -> str:
    if "default" in field and "properties" not in field:
        return f"`{json.dumps(field['default'])}`"
    return f"one of {', '.join(f'`{value}`' for value in field['enum'])}" if "enum" in field else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
