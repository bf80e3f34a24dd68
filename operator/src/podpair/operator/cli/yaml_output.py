"""Writes objects as YAML, as people do: shared parts in full, texts of several lines as blocks."""

import re
from collections.abc import Iterable
from typing import Any

import yaml


def to_yaml(objects: Iterable[Any]) -> str:
    """Return the objects as YAML documents."""
    return yaml.dump_all(objects, Dumper=_Plain, sort_keys=False, width=120, allow_unicode=True)


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True


# kubectl's YAML reads more as numbers and booleans than PyYAML does: 1e3, 0o17, y.
_AMBIGUOUS = re.compile(r"[-+.]?[0-9]|[yYnN]$")


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    style = "|" if "\n" in value else '"' if _AMBIGUOUS.match(value) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Plain.add_representer(str, _text)
