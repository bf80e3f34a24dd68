"""What each of those who read a resource says of it: the CRD's schema, `podpair validate`, the operator, and the gateway."""

import os
import tempfile
import unittest.mock
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import yaml
from pydantic import ValidationError

from podpair.common.faults import FaultsError
from podpair.gateway.config.load import load
from podpair.operator.cli.files import offline_faults
from podpair.operator.core.api.igw import InferenceGateway
from podpair.operator.core.api.inference import Variable
from podpair.operator.core.api.rules import BROKEN_RULES
from podpair.operator.core.builders.naming import Manifest
from podpair.operator.core.builders.settings import CONFIG_FILE
from podpair.operator.core.config_faults import config_faults
from podpair.operator.core.desired import Dependencies, desired
from podpair.operator.core.json_schema import json_schema
from podpair.operator.core.manifest_loader import load_manifests

DEPENDENCIES = Dependencies("podpair-gateway:test", "k" * 43, pod_monitors=True, prometheus_rules=True)
_ENV = ("spec", "gateway", "env")
_RULES = {BROKEN_RULES, "twice"}  # what JSON Schema can't say


def _to_the_end(schema: Any) -> Any:
    """Patterns as the API server's engine has them: `$` is the end, and not the newline before it."""
    if isinstance(schema, list):
        return [_to_the_end(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: value.replace("$", r"\Z") if name == "pattern" and isinstance(value, str) and "!$&" not in value
        else value.replace("/|$)", r"/|\Z)").replace("*$", r"*\Z") if name == "pattern" and isinstance(value, str)
        else _to_the_end(value)
        for name, value in schema.items()
    }  # fmt: skip


_SCHEMA = _to_the_end(json_schema())
_JUDGE = jsonschema.Draft7Validator(_SCHEMA)


def pruned(value: Any, schema: Any) -> Any:
    """A value as the API server reads it: what is null isn't there, where the schema says what would be."""
    if isinstance(value, dict):
        known, other = schema.get("properties", {}), schema.get("additionalProperties")
        kept = {}
        for name, one in value.items():
            below = known.get(name, other if isinstance(other, dict) else None)
            if one is not None or below is None:
                kept[name] = one if below is None else pruned(one, below)
        return kept
    if isinstance(value, list):
        return [pruned(one, schema.get("items", {})) for one in value]
    return value


class Verdict(NamedTuple):
    """What is said of a resource; empty lists: it is good."""

    schema: list[str]
    """By the CRD's schema, without its rules."""
    fields: list[str]
    """By the operator's models, of single fields."""
    rules: list[str]
    """By them, of fields that don't fit together; not looked at where a field is wrong."""
    validate: list[str]
    """By `podpair validate`."""
    gateway: InferenceGateway | None
    """What the operator reads."""


def verdict(made: dict[str, Any]) -> Verdict:
    """What is said of a resource without an API server."""
    schema = [error.message for error in _JUDGE.iter_errors(pruned(made, _SCHEMA))]
    fields, rules, gateway = [], [], None
    try:
        gateway = InferenceGateway.model_validate(made)
    except ValidationError as error:
        found = error.errors()
        for one in found:
            # pydantic counts only a list's good items: where one is bad, a list that seems too short is none.
            if one["type"] == "too_short" and any(
                other["loc"][: len(one["loc"])] == one["loc"] for other in found if other is not one
            ):
                continue
            (rules if one["type"] in _RULES else fields).append(f"{one['loc']}: {one['msg']}")
    told = load_manifests(yaml.safe_dump(made, allow_unicode=True), check=offline_faults).faults
    return Verdict(schema, fields, rules, [str(fault) for fault in told], gateway)


def objects(gateway: InferenceGateway) -> list[Manifest]:
    """What the operator makes of it."""
    return desired(gateway, DEPENDENCIES)


def gateway_faults(made: list[Manifest]) -> list[str]:
    """What `podpair-gateway config check` says of the ConfigMap, with the variables of the container."""
    text = next(one["data"][CONFIG_FILE] for one in made if one["kind"] == "ConfigMap" and CONFIG_FILE in one["data"])
    assert not [name for name in os.environ if name.startswith("PODPAIR_") and "__" in name]
    pod = next(one for one in made if one["kind"] == "Deployment")["spec"]["template"]["spec"]
    container = next(one for one in pod["containers"] if one["name"] == "gateway")
    own = [one for one in container.get("env", ()) if one["name"].startswith("PODPAIR_")]
    variables = {one["name"]: "x" if "valueFrom" in one else one.get("value", "") for one in own}
    with (
        tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file,
        unittest.mock.patch.dict(os.environ, variables),
    ):
        file.write(text)
        file.flush()
        try:
            load(Path(file.name))
        except FaultsError as error:
            return error.faults
    return []


def disagreements(made: dict[str, Any]) -> list[str]:
    """Where two of them differ."""
    said = verdict(made)
    found = []
    if bool(said.schema) != bool(said.fields):
        found.append(f"the CRD's schema: {said.schema or 'good'}; the operator: {said.fields or 'good'}")
    if (said.fields or said.rules) and not said.validate:
        found.append(f"the operator: {said.fields + said.rules}; validate: good")
    if said.gateway is not None:
        found += of_its_configuration(said.gateway)
        if (refused := list(config_faults(said.gateway))) and not said.validate:
            found.append(f"the operator: {refused}; validate: good")
    return found


def of_its_configuration(gateway: InferenceGateway) -> list[str]:
    """Where the operator says something else of the gateway's configuration than the gateway itself."""
    refused = list(config_faults(gateway))
    # What the gateway would refuse is a fault of the resource, but one that its rules should have found: if they can.
    beyond = [f"{place}: {why}" for place, why in refused if place[:3] != _ENV]
    judged = not beyond and all(map(_is_known, gateway.spec.gateway.env))
    faults = gateway_faults(objects(gateway)) if judged else []
    if beyond or (faults and not refused):
        return [f"the operator: good; the gateway: {beyond or faults}"]
    if refused and judged and not faults:
        return [f"the operator: {refused}; the gateway: good"]
    return []


def _is_known(variable: Variable) -> bool:
    """Whether the value of a variable that the gateway reads is known before there is a pod."""
    return not variable.name.startswith("PODPAIR_") or (
        variable.value_from is None and "$" not in (variable.value or "")
    )
