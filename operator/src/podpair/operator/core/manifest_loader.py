"""Reads resources from YAML, and reports every fault at once: where it is (line, field), what it is, what would do.

The faults are those that the API server would report: the schema's, and the rules'. What only the API server can know (the
stored resource, which may not change in some places) is left to it.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError

from podpair.common.field_names import closest, names_at
from podpair.operator.core.api.igw import API_VERSION, KIND, InferenceGateway
from podpair.operator.core.api.rules import BROKEN_RULES
from podpair.operator.core.api.scalars import (
    DURATION,
    DURATION_OR_ZERO,
    HOST,
    IMAGE,
    KEY,
    MOUNT_PATH,
    NAME,
    OBJECT_NAME,
    ORIGIN,
    QUALIFIED_NAME,
    QUANTITY,
    SERVERS,
    URL,
    URL_PATH,
)

_KINDS = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "tuple_type": "a list",
}
_PATTERNS = {
    DURATION: "a duration such as 50ms, 20s, 5m or 1h30m",
    DURATION_OR_ZERO: "a duration such as 0s, 20s, 5m or 1h30m",
    HOST: "a DNS name such as digits.example, in lower-case letters",
    IMAGE: "an image: there is a space in it, or nothing",
    KEY: "a key: letters, digits, -, _ and . are",
    MOUNT_PATH: "a path such as /models, without a colon",
    NAME: "a name: lower-case letters, digits and hyphens between them are",
    OBJECT_NAME: "a name: lower-case letters and digits, with single hyphens and dots between them, are",
    ORIGIN: "an origin such as https://app.example, without a path, or `*`",
    QUALIFIED_NAME: "a label's name such as kubernetes.io/hostname",
    QUANTITY: "a quantity such as 500m, 2, 512Mi or 1Gi",
    SERVERS: "host:port, several with commas",
    URL: "a URL such as https://login.example/keys",
    URL_PATH: "a path such as /digits: without //, /., /.. and %2F, with spaces and all that is no part of a path as %20",
}
# Fields of a pod's spec that people look for among a container's.
_OF_PODS = {
    "affinity", "dnsConfig", "dnsPolicy", "hostAliases", "hostNetwork", "nodeName", "nodeSelector", "priorityClassName",
    "runtimeClassName", "schedulerName", "securityContext", "serviceAccountName", "tolerations", "topologySpreadConstraints",
}  # fmt: skip
_SHAPES = {"model_type", "model_attributes_type", "dict_type"}


class Fault(NamedTuple):
    """One thing that is wrong. `line` counts from 1; `field` is a path such as spec.kafka.requests, or empty."""

    line: int
    field: str
    message: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.field + ': ' if self.field else ''}{self.message}"


class LoadedManifests(NamedTuple):
    """What a file holds: the valid resources, and the faults of the others."""

    resources: list[InferenceGateway]
    faults: list[Fault]


Check = Callable[[InferenceGateway], Iterable[tuple[tuple[str | int, ...], str]]]
"""Checks a resource whose fields are valid for further faults, by place."""


def load_manifests(text: str, namespace: str | None = None, check: Check | None = None) -> LoadedManifests:
    """Read the InferenceGateways in a YAML text of one or more documents; other kinds are skipped.

    `namespace` is that of resources that name none. `check` finds further faults.
    """
    try:
        documents = list(yaml.compose_all(text, yaml.SafeLoader))
        values = [_construct(node) for node in documents]
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        return LoadedManifests(
            [], [Fault(mark.line + 1 if mark else 1, "", f"not YAML: {getattr(error, 'problem', error)}")]
        )
    except RecursionError:
        return LoadedManifests([], [Fault(1, "", "nested too deep")])
    except ValueError as error:  # looks like a date and is none
        return LoadedManifests([], [Fault(1, "", f"not YAML: {error}")])
    contents = LoadedManifests([], [])
    for node, value in zip(documents, values, strict=True):
        if isinstance(value, dict) and value.get("kind", KIND) == KIND:
            if namespace is not None and isinstance(value.get("metadata"), dict):
                value["metadata"].setdefault("namespace", namespace)
            _read_one(node, value, contents, check)
    if not contents.resources and not contents.faults:
        contents.faults.append(Fault(1, "", f"there is no {KIND} ({API_VERSION}) in here"))
    return contents


def _construct(node: yaml.Node) -> Any:
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _read_one(node: yaml.Node, value: dict[str, Any], contents: LoadedManifests, check: Check | None) -> None:
    faults = list(_repeated(node, (), set()))
    try:
        resource = InferenceGateway.model_validate(value)
        for where, message in check(resource) if check is not None else ():
            place, line = _locate(node, where)
            faults.append(Fault(line, path_of(place), message))
    except ValidationError as error:
        found = error.errors()
        for one in found:
            # pydantic counts only a list's valid items: if one is invalid, a list that seems too short isn't.
            below = any(other["loc"][: len(one["loc"])] == one["loc"] for other in found if other is not one)
            if not (one["type"] == "too_short" and below):
                faults += _told(one, node)
    if faults:
        contents.faults.extend(sorted(faults))
    else:
        contents.resources.append(resource)


def _told(error: Any, node: yaml.Node) -> Iterator[Fault]:
    place, line = _locate(node, error["loc"])
    field = path_of(place)
    kind, context = error["type"], error.get("ctx", {})
    if kind == BROKEN_RULES:
        yield from (Fault(line, field, message) for message in context["broken"])
    elif kind == "extra_forbidden":
        name = str(error["loc"][-1])
        hint = suggest(name, names_at(InferenceGateway, error["loc"][:-1]))
        if name in _OF_PODS and error["loc"][-2:-1] in ((), ("spec",), ("inference",), ("gateway",)):
            hint = f": it is the pod's, spec.inference.podTemplate.spec.{name}"
        yield Fault(line, field, f"there is no such field{hint}")
    elif kind == "missing":
        yield Fault(line, path_of((*place, *error["loc"][len(place) :])), "is required")
    elif kind == "string_pattern_mismatch":
        meant = _PATTERNS.get(context["pattern"], f"right: it must match {context['pattern']}")
        yield Fault(line, field, f"{error['input']!r} is not {meant}")
    elif kind == "literal_error":
        yield Fault(line, field, f"{error['input']!r} is not {context['expected']}")
    elif kind == "too_short":
        yield Fault(line, field, f"at least {context['min_length']} is needed, there are {context['actual_length']}")
    elif kind in _SHAPES:
        yield Fault(line, field, "fields by name are needed here")
    elif kind in _KINDS:
        yield Fault(line, field, f"{error['input']!r} is not {_KINDS[kind]}{_quote_it(kind, error['input'])}")
    else:
        yield Fault(line, field, error["msg"].removeprefix("Input "))


def _quote_it(kind: str, value: Any) -> str:
    scalar = isinstance(value, bool | int | float)
    return ': write it in quotes, "…"' if kind == "string_type" and scalar else ""


def _locate(node: yaml.Node, location: tuple[Any, ...]) -> tuple[tuple[Any, ...], int]:
    """Return the part of a location that is in the text, and the line of its last name."""
    place: list[Any] = []
    line = node.start_mark.line
    for part in location:
        if isinstance(node, yaml.MappingNode):
            pair = next((pair for pair in reversed(node.value) if pair[0].value == str(part)), None)
            if pair is None:
                continue  # pydantic names the members of a union too
            line, node = pair[0].start_mark.line, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line
        else:
            continue
        place.append(part)
    return tuple(place), line + 1


def path_of(place: tuple[Any, ...]) -> str:
    """Return a location as people write it: spec.inference.env[0]."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return text.removeprefix(".")


def _repeated(node: yaml.Node, place: tuple[Any, ...], looked_at: set[int]) -> Iterator[Fault]:
    """Names that a mapping has twice: YAML takes the last one, and says nothing."""
    if id(node) in looked_at:
        return  # an alias: reported at its anchor
    looked_at.add(id(node))
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            here = (*place, key.value)
            if key.value in seen:
                yield Fault(key.start_mark.line + 1, path_of(here), "is there twice")
            seen.add(key.value)
            yield from _repeated(value, here, looked_at)
    elif isinstance(node, yaml.SequenceNode):
        for at, value in enumerate(node.value):
            yield from _repeated(value, (*place, at), looked_at)


def suggest(name: str, known: list[str]) -> str:
    """Return a hint at the name that was probably meant; empty: none is similar."""
    meant = closest(name, known)
    return f"; did you mean {meant}?" if meant else ""
