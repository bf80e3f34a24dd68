"""The gateway's settings from environment variables, over those of its file: `http.port` is PODPAIR_HTTP__PORT.

The gateway reads its own environment; the operator asks what a gateway would make of the variables that a resource gives it.

Invariant: what a variable says comes over what the file says, in whichever spelling a Kafka property has in each; and what is
said of a part of a mapping comes over what is said of the whole.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict

from podpair.common.field_names import closest, names_at
from podpair.common.gateway_config.model import Config
from podpair.common.kafka_properties import canonical_name
from podpair.common.lists import decode

PREFIX = "PODPAIR_"
SEPARATOR = "__"
_PROPERTIES = ("client", "client_files")  # settings of `kafka` that are mappings of librdkafka's properties


class _Settings(BaseSettings, Config):
    """Config, as the names of variables follow from it."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter=SEPARATOR)


class _Variables(EnvSettingsSource):
    """Variables. One for a list, a mapping or a section may be JSON; if it is none, its setting says so."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        super().__init__(_Settings)
        # The whole of a mapping comes before its parts, whichever the environment has first.
        lowered = ((name.lower(), value) for name, value in variables.items())
        self.env_vars = dict(sorted(lowered, key=lambda item: item[0].count(SEPARATOR)))

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """Return the decoded value, or the text itself: then the setting's own error says what it needs."""
        try:
            return decode(value)
        except ValueError:
            return value

    def __call__(self) -> dict[str, Any]:
        """Return what the variables say, by section and setting."""
        found = super().__call__()
        for setting, properties in _properties(found):
            parts = [name for name in properties if variable_name(("kafka", setting, name)).lower() in self.env_vars]
            found["kafka"][setting] = _without(properties, parts)
        return found


def layered(file: Mapping[str, Any], variables: Mapping[str, str]) -> dict[str, Any]:
    """Return a file's settings with those of variables over them, not yet validated."""
    said = _Variables(variables)()
    below = dict(file)
    for setting, properties in _properties(said):
        for same, lower in _properties(below):
            if same == setting:
                below["kafka"] = {**below["kafka"], setting: _without(lower, properties)}
    return merged(below, said)


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `over` over it, setting by setting."""
    found = dict(base)
    for key, value in over.items():
        below = found.get(key)
        found[key] = merged(below, value) if isinstance(value, Mapping) and isinstance(below, Mapping) else value
    return found


def variable_name(location: Iterable[Any]) -> str:
    """Return the name of the variable for a setting, a section or a part of a mapping."""
    return PREFIX + SEPARATOR.join(str(part).upper() for part in location)


def variable_for(location: tuple[Any, ...], names: Collection[str]) -> str | None:
    """Return the variable, of these, that sets what is at a location: the setting itself, or what it is in."""
    found = (variable_name(location[:length]) for length in range(len(location), 0, -1))
    return next((name for name in found if name in names), None)


def unknown_variables(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield variables that look like settings and are none, and why.

    Only names with `__` count: Kubernetes itself sets PODPAIR_…_SERVICE_HOST in a pod beside a service of that name.
    """
    sections = {name.upper() for name, field in Config.model_fields.items() if _is_section(field.annotation)}
    known = [name.lower() for name in sections]
    for name in sorted(names):
        section, separator, _ = name.removeprefix(PREFIX).partition(SEPARATOR)
        if name.startswith(PREFIX) and separator and section not in sections:
            section = section.lower()
            yield name, f"there is no section {section!r}{_suggestion(section, known)}"


def reason(error: Any) -> str:
    """Return what is wrong with a setting, of one of the errors of a ValidationError of Config."""
    if error["type"] == "extra_forbidden":
        *section, name = error["loc"]
        return f"there is no such setting{_suggestion(str(name), names_at(Config, section))}"
    if error["type"] in ("model_type", "dict_type"):
        return f"settings by name are needed here{_why_none(error['input'])}"
    text: str = error["msg"]
    return text.removeprefix("Value error, ")


def _suggestion(name: str, known: Iterable[str]) -> str:
    """Return the end of a sentence about an unknown name: what was probably meant, if anything is similar."""
    meant = closest(name, known)
    return f"; did you mean {meant!r}?" if meant else ""


def _why_none(value: Any) -> str:
    """Return what is wrong with a text that should be a mapping."""
    try:
        return ', as {"name": "value"}' if isinstance(value, str) and isinstance(decode(value), str) else ""
    except ValueError as error:
        return f": {error}"


def _properties(settings: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    kafka = settings.get("kafka")
    if isinstance(kafka, Mapping):
        yield from ((name, found) for name in _PROPERTIES if isinstance(found := kafka.get(name), Mapping))


def _without(properties: Mapping[str, Any], over: Iterable[str]) -> dict[str, Any]:
    """Return properties without those that are in `over` under another spelling."""
    spelled = {str(name) for name in over}
    meant = {canonical_name(name) for name in spelled}
    return {
        name: value
        for name, value in properties.items()
        if str(name) in spelled or canonical_name(str(name)) not in meant
    }


def _is_section(annotation: Any) -> bool:
    kinds = (annotation, *get_args(annotation))
    return any(isinstance(kind, type) and issubclass(kind, BaseModel) for kind in kinds)
