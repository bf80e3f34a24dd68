"""Validates the pods of a resource by Kubernetes' own schema, as the kubernetes library has it, before an API server does.

The resulting pod is validated, not only the resource's overlay: most faults of an overlay show only together with the
rest. Source of the rules beyond the schema: the API reference, Pod and PodSpec.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import kubernetes.client
from pydantic import ValidationError

from podpair.operator.core.api.igw import InferenceGateway
from podpair.operator.core.builders.naming import Manifest
from podpair.operator.core.builders.overlay import KEYS, identity
from podpair.operator.core.builders.pods import containers_without_cpu, pod_template
from podpair.operator.core.manifest_loader import suggest

Place = tuple[str | int, ...]
_QUANTITIES = frozenset({"capacity", "divisor", "limits", "overhead", "requests", "sizeLimit"})
_QUANTITY = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)(n|u|m|k|[KMGTPE]i?|[eE][+-]?[0-9]+)?")
_GENERIC = re.compile(r"(List|Dict)\[(?:str, )?(.+)\]")
_SHOULD_BE = {
    "string_type": 'text: write it in quotes, "…"',
    "int_type": "a whole number",
    "bool_type": "true or false",
    "list_type": "a list",
    "missing": "is required",
}


class PodFault(NamedTuple):
    """One thing that is wrong: where in the resource, and what."""

    place: Place
    message: str


def pod_faults(gateway: InferenceGateway) -> Iterator[PodFault]:
    """Yield what an API server would refuse of the resource's pods, or what they could not work with."""
    template = pod_template(gateway, "image", {})
    found = [*_names(template, "V1PodTemplateSpec", ()), *_types(template), *_twice(template, ())]
    if not found:
        found = [*_meaning(template["spec"]), *_without_cpu(gateway, template["spec"])]
    for place, message in found:
        origin, exact = _origin(gateway, template, place)
        yield PodFault(origin, message if exact else f"the pod's {_path(template, place)}: {message}")


def _names(value: Any, kind: str, place: Place) -> Iterator[tuple[Place, str]]:
    """Yield unknown fields."""
    if generic := _GENERIC.fullmatch(kind):
        items = enumerate(value) if isinstance(value, list) else value.items() if isinstance(value, Mapping) else ()
        for at, item in items:
            yield from _names(item, generic[2], (*place, at))
        return
    model = getattr(kubernetes.client, kind, None)
    if model is None or not isinstance(value, Mapping):
        return
    kinds = {model.attribute_map[name]: kind for name, kind in model.openapi_types.items()}
    for name, item in value.items():
        if name not in kinds:
            yield (*place, name), f"there is no such field{suggest(name, list(kinds))}"
        else:
            yield from _names(item, kinds[name], (*place, name))


def _types(template: Mapping[str, Any]) -> Iterator[tuple[Place, str]]:
    """Yield values of a wrong type, or missing."""
    wrong: list[tuple[Place, str]] = []
    try:
        kubernetes.client.V1PodTemplateSpec.model_validate(_with_quantities(template, (), wrong))
    except ValidationError as error:
        for one in error.errors():
            if one["type"] != "extra_forbidden":
                what = _SHOULD_BE.get(one["type"], one["msg"].removeprefix("Input "))
                missing = one["type"] == "missing"
                wrong.append((one["loc"], what if missing else f"{one['input']!r} should be {what}"))
    yield from wrong


def _with_quantities(value: Any, place: Place, wrong: list[tuple[Place, str]]) -> Any:
    """Return the value with quantities as text: they may be written as numbers."""
    if isinstance(value, Mapping):
        return {name: _with_quantities(item, (*place, name), wrong) for name, item in value.items()}
    if isinstance(value, list):
        return [_with_quantities(item, (*place, at), wrong) for at, item in enumerate(value)]
    if not _QUANTITIES.isdisjoint(place[-2:]) and not isinstance(value, bool | None):
        if not _QUANTITY.fullmatch(str(value)):
            wrong.append((place, f"{value!r} is not a quantity such as 500m, 2, 512Mi or 1Gi"))
        return str(value)
    return value


def _twice(value: Any, place: Place) -> Iterator[tuple[Place, str]]:
    """Yield items of a list whose identifying fields are the same."""
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for name, item in items:
        yield from _twice(item, (*place, name))
        if name not in KEYS or not isinstance(item, list):
            continue
        seen = set()
        for at, one in enumerate(item):
            known = identity(one, KEYS[name]) if isinstance(one, Mapping) else (None,)
            if known in seen:
                said = " and ".join(f"{key} {part}" for key, part in zip(KEYS[name], known, strict=True) if part)
                yield (*place, name, at), f"another one has the same {said}"
            seen.add(known)


def _meaning(spec: Mapping[str, Any]) -> Iterator[tuple[Place, str]]:
    """Yield the faults that the schema can't express."""
    names: set[str] = set()
    volumes = {one["name"] for one in spec.get("volumes") or []}
    for kind, other, ours in (
        ("initContainers", "containers", "gateway"),
        ("containers", "initContainers", "inference"),
    ):
        for at, one in enumerate(spec.get(kind) or []):
            here: Place = ("spec", kind, at)
            if not one.get("image"):
                hint = f": {ours} stands in {other}, lay over it there" if one["name"] == ours else ""
                yield here, f"container {one['name']} has no image{hint}"
            elif one["name"] in names:
                yield here, f"another container is named {one['name']}"
            names.add(one["name"])
            for number, mount in enumerate(one.get("volumeMounts") or []):
                if mount["name"] not in volumes:
                    yield (*here, "volumeMounts", number), f"there is no volume {mount['name']}"
            for number, variable in enumerate(one.get("env") or []):
                if variable.get("value") and variable.get("valueFrom"):
                    yield (*here, "env", number), "it has both a value and a valueFrom"
    if spec.get("restartPolicy", "Always") != "Always":
        yield ("spec", "restartPolicy"), "pods of a Deployment are always restarted: leave it out"


def _without_cpu(gateway: InferenceGateway, spec: Manifest) -> Iterator[tuple[Place, str]]:
    """Yield containers that keep an autoscaler from scaling by CPU for ever."""
    found = {container["name"] for container in containers_without_cpu(gateway, spec)}
    for kind in ("initContainers", "containers"):
        for at, one in enumerate(spec.get(kind) or []):
            if one["name"] in found:
                message = (
                    f"container {one['name']} requests no CPU, which scaling by cpu is measured against:"
                    " set its resources.requests.cpu, or scale by another metric"
                )
                yield ("spec", kind, at), message


def _origin(gateway: InferenceGateway, template: Mapping[str, Any], place: Place) -> tuple[Place, bool]:
    """Return the field of the resource that a part of the pod comes from, and whether it is exactly that part."""
    laid = gateway.spec.inference.pod_template
    overlay = {"metadata": laid.metadata, "spec": laid.spec}
    found, exact = _follow(overlay, template, place)
    if exact or len(found) > 1:
        return ("spec", "inference", "podTemplate", *found), exact
    for half, kind in (("inference", "initContainers"), ("gateway", "containers")):
        if place[:2] == ("spec", kind) and len(place) > 3 and _name(template, place[:3]) == half:
            return ("spec", half, *place[3:4]), False
    if place[:2] == ("spec", "volumes"):
        return ("spec", "inference", "volumes"), False
    return ("spec", "inference", "podTemplate"), False


def _follow(overlay: Any, template: Any, place: Place) -> tuple[Place, bool]:
    """Return how far the overlay has what is at `place` of the template; its items may have other positions in a list."""
    found: list[str | int] = []
    for at, part in enumerate(place):
        if isinstance(overlay, Mapping) and overlay.get(str(part)) is not None:
            overlay = overlay[str(part)]
        elif isinstance(overlay, list) and isinstance(part, int):
            keys = KEYS.get(str(place[at - 1]))
            where = _index(overlay, template[part], keys) if keys else part
            if where is None:
                return tuple(found), False
            part, overlay = where, overlay[where]
        else:
            return tuple(found), False
        template = template[place[at]] if _has(template, place[at]) else None
        found.append(part)
    return tuple(found), True


def _index(items: list[Any], wanted: Any, keys: tuple[str, ...]) -> int | None:
    same = [at for at, one in enumerate(items) if isinstance(one, Mapping) and isinstance(wanted, Mapping)]
    return next((at for at in reversed(same) if identity(items[at], keys)[0] == identity(wanted, keys)[0]), None)


def _has(value: Any, part: str | int) -> bool:
    return part in value if isinstance(value, Mapping) else isinstance(value, list) and isinstance(part, int)


def _name(template: Any, place: Place) -> str | None:
    for part in place:
        template = template[part]
    found = template.get("name") if isinstance(template, Mapping) else None
    return found if isinstance(found, str) else None


def _path(template: Any, place: Place) -> str:
    """Format a location of the pod for people: items by their names."""
    text = ""
    for at, part in enumerate(place):
        if isinstance(part, int):
            text += f"[{_name(template, place[: at + 1]) or part}]"
        else:
            text += f".{part}"
    return text.removeprefix(".")
