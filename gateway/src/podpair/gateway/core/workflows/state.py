"""Reads the state of all instances of a partition from its records."""

import logging
from collections.abc import Callable, Mapping

from podpair.gateway.core.workflows.instance import Instance
from podpair.gateway.core.workflows.records import Begun, Ended, InvalidState, decode_instance, split_key

_log = logging.getLogger(__name__)


def read_state(
    found: Mapping[bytes, bytes], make: Callable[[str, Begun], Instance]
) -> tuple[dict[str, Instance], dict[str, Ended]]:
    """Return the instances that run, and the markers of those that have ended, the first of them first.

    found: the newest record of each key. make: makes an instance. What this version can't read is logged, and stays
    for one that can.
    """
    instances: dict[str, Instance] = {}
    ended: dict[str, Ended] = {}
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
    return instances, dict(sorted(ended.items(), key=lambda item: item[1].at))
