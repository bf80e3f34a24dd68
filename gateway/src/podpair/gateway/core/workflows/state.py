"""Reads the state of all instances of a partition from its records."""

import logging
from collections.abc import Callable, Mapping
from typing import NamedTuple

from podpair.gateway.core.workflows.instance import Instance
from podpair.gateway.core.workflows.records import Begun, Ended, InvalidState, Scheduled, decode_instance, split_key

_log = logging.getLogger(__name__)


class State(NamedTuple):
    """What a partition's records say."""

    instances: dict[str, Instance]
    """Those that run."""
    ended: dict[str, Ended]
    """The markers of those that have ended, the first of them first."""
    scheduled: dict[str, Scheduled]
    """Requests that are to begin later, and the markers of those that were."""


def read_state(found: Mapping[bytes, bytes], make: Callable[[str, Begun], Instance]) -> State:
    """Return what the records say.

    found: the newest record of each key. make: makes an instance. What this version can't read is logged, and stays
    for one that can.
    """
    instances: dict[str, Instance] = {}
    ended: dict[str, Ended] = {}
    scheduled: dict[str, Scheduled] = {}
    parts: list[tuple[str, str, bytes]] = []
    for raw, value in found.items():
        try:
            key, suffix = split_key(raw)
            if suffix:
                parts.append((key, suffix, value))
                continue
            begun = decode_instance(value)
            if isinstance(begun, Ended):
                ended[key] = begun
            elif isinstance(begun, Scheduled):
                scheduled[key] = begun
            else:
                instances[key] = make(key, begun)
        except ValueError as error:
            _log.error("a workflow's state can't be read: %s", error, extra={"key": raw.decode(errors="replace")})
    for key, suffix, value in parts:
        if (instance := instances.get(key)) is not None:
            try:
                instance.fold(suffix, value)
            except InvalidState as error:
                _log.error("a stage of a workflow can't be read: %s", error, extra={"key": f"{key}/{suffix}"})
    return State(instances, dict(sorted(ended.items(), key=lambda item: item[1].at)), scheduled)
