"""Reads settings from a YAML file that is a mapping."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from podpair.common.faults import FaultsError


def read_mapping(path: Path, example: str) -> dict[Any, Any]:
    """Return what a YAML file holds, nothing if it is empty; `example` is a line of such a file.

    Raises FaultsError, also for keys that are there twice, of which YAML's libraries take the last one.
    """
    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        values = None if node is None else loader.construct_document(node)
    except OSError as error:
        raise FaultsError([f"{path}: {error.strerror}"]) from None
    except UnicodeDecodeError:
        raise FaultsError([f"{path}: not UTF-8"]) from None
    except yaml.YAMLError as error:
        raise FaultsError([f"{path}: not YAML: {' '.join(str(error).split())}"]) from None
    if node is not None and (twice := list(_repeated_keys(node))):
        raise FaultsError([f"{path}: {fault}" for fault in twice])
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise FaultsError([f"{path}: a mapping is needed at the top (`{example}`), not a {type(values).__name__}"])
    return values


def _repeated_keys(root: yaml.Node) -> Iterator[str]:
    """Yield where a mapping, at any depth, has a key for the second time."""
    nodes, seen = [root], {id(root)}  # aliases lead to the same node again, even to one above
    for node in nodes:
        children = list(node.value) if isinstance(node, yaml.SequenceNode) else []
        lines: dict[tuple[str, str], int] = {}
        for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
            children.append(value)
            if not isinstance(key, yaml.ScalarNode):
                continue
            line, known = key.start_mark.line + 1, (key.tag, key.value)
            if known in lines:
                yield f"line {line}: {key.value} is there twice, first in line {lines[known]}"
            lines.setdefault(known, line)
        for child in children:
            if id(child) not in seen:
                seen.add(id(child))
                nodes.append(child)
