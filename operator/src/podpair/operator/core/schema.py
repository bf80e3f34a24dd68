"""Structural OpenAPI schemas (what a CRD needs) from the resource's models.

pydantic's JSON schema has references, nulls and constants, which a structural schema may not have. Defaults are stated
if the value does not depend on others; the API server fills them in, so that everyone who reads a resource sees them.
"""

from typing import Any, get_args

from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from podpair.operator.core.api.rules import Section

_KEPT = {
    "additionalProperties", "anyOf", "enum", "format", "items", "maxItems", "maxLength", "maxProperties", "maximum",
    "minItems", "minLength", "minProperties", "minimum", "pattern", "properties", "type",
}  # fmt: skip


def structural(model: type[Section]) -> dict[str, Any]:
    """Return the schema of a section and all below it, with defaults, descriptions and rules."""
    generated = model.model_json_schema(by_alias=True)
    definitions = {**generated.get("$defs", {}), model.__name__: generated}
    return _section(model, definitions)


def _section(model: type[Section], definitions: dict[str, Any]) -> dict[str, Any]:
    own = definitions[model.__name__]
    properties = {}
    for field in model.model_fields.values():
        name = str(field.alias)
        schema = _field(field, own["properties"][name], definitions)
        properties[name] = schema
    built: dict[str, Any] = {"type": "object", "description": _words(model.__doc__), "properties": properties}
    required = [str(field.alias) for field in model.model_fields.values() if field.is_required()]
    if required:
        built["required"] = required
    if model.RULES:
        built["x-kubernetes-validations"] = [rule.validation() for rule in model.RULES]
    return built


def _field(field: FieldInfo, generated: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    schema = _value(generated, _sections(field.annotation), definitions)
    schema["description"] = _words(field.description)
    default = stated_default(field)
    if default is not None:
        schema["default"] = default
    return schema


def stated_default(field: FieldInfo) -> Any:
    """Return the default as the CRD states it; None: the field stays away.

    A section's fields state theirs themselves, but the API server checks a section's rules on its default as it stands.
    """
    if field.is_required():
        return None
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Section) and not value.RULES:
        return {}
    dumped = TypeAdapter[Any](Any).dump_python(value, mode="json", by_alias=True, exclude_none=True)
    return _without_empty(dumped)


def _without_empty(value: Any) -> Any:
    """Drop empty values; None: nothing is left."""
    if isinstance(value, dict):
        value = {name: kept for name, inner in value.items() if (kept := _without_empty(inner)) is not None}
    return None if value in (None, {}, []) else value


def _value(
    generated: dict[str, Any], sections: dict[str, type[Section]], definitions: dict[str, Any]
) -> dict[str, Any]:
    if "$ref" in generated:
        return _section(sections[generated["$ref"].rsplit("/", 1)[1]], definitions)
    if "anyOf" in generated and "x-kubernetes-int-or-string" not in generated:
        present = [one for one in generated["anyOf"] if one.get("type") != "null"]
        return _value({**{k: v for k, v in generated.items() if k != "anyOf"}, **present[0]}, sections, definitions)
    schema = {key: value for key, value in generated.items() if key in _KEPT or key.startswith("x-kubernetes-")}
    if "const" in generated:
        schema["enum"] = [generated["const"]]
    if "items" in schema:
        schema["items"] = _value(schema["items"], sections, definitions)
    if isinstance(schema.get("additionalProperties"), dict):
        schema["additionalProperties"] = _value(schema["additionalProperties"], sections, definitions)
    elif "additionalProperties" in schema:
        del schema["additionalProperties"]  # beside x-kubernetes-preserve-unknown-fields it says nothing
    return schema


def _sections(annotation: Any) -> dict[str, type[Section]]:
    """Return the sections that an annotation names, by their class's name."""
    found: dict[str, type[Section]] = {}
    if isinstance(annotation, type) and issubclass(annotation, Section):
        found[annotation.__name__] = annotation
    for part in get_args(annotation):
        found |= _sections(part)
    return found


def _words(text: str | None) -> str:
    return " ".join((text or "").split())
