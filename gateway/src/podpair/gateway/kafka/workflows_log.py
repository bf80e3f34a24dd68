"""Finds on the workflows topic which requests go on, by reading all of it; for those whose own record is gone."""

import asyncio
from collections.abc import Collection

from podpair.common.gateway_config.model import Config
from podpair.gateway.core.workflows.records import (
    Ended,
    InvalidState,
    decode_instance,
    instance_key,
    scheduled_key,
)
from podpair.gateway.kafka.requests_log import read_all


async def going_on(config: Config, wanted: Collection[tuple[str, str]]) -> set[tuple[str, str]]:
    """Return those of the wanted (session, id) that are workflows which have begun, and have not ended, or that are to begin
    later, or were until lately.

    Raises KafkaException if the topic can't be read to its end.
    """
    return await asyncio.get_running_loop().run_in_executor(None, _going_on, config, set(wanted))


def _going_on(config: Config, wanted: set[tuple[str, str]]) -> set[tuple[str, str]]:
    keys = {instance_key(*name).encode(): name for name in wanted}
    keys |= {scheduled_key(instance_key(*name)).encode(): name for name in wanted}
    newest: dict[bytes, bytes | None] = {}
    for message in read_all(config, config.workflows_topic or ""):
        key = message.key()
        if isinstance(key, bytes) and key in keys:
            newest[key] = message.value()
    return {keys[key] for key, value in newest.items() if value is not None and not _has_ended(value)}


def _has_ended(value: bytes) -> bool:
    try:
        return isinstance(decode_instance(value), Ended)
    except InvalidState:
        return False  # a newer version's: it goes on
