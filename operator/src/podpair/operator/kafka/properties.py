"""Checks a resource's `kafka.client` by librdkafka itself: a gateway with a refused property never starts.

Each property is tried alone and without a broker's address, so that nothing is read, loaded or connected to.
"""

import re
from collections.abc import Iterator

from confluent_kafka import KafkaException, Producer

from podpair.common.kafka_properties import property_name
from podpair.operator.core.api.igw import InferenceGateway
from podpair.operator.kafka.clients import librdkafka_log

# What is loaded or read as soon as it is set; whether it can be is known in the gateway's container alone.
_NOT_TRIED = re.compile(r"plugin\.library\.paths|ssl\.providers|.*\.location|.*\.pem")
_ALONE = "Failed to create"  # valid, but incomplete by itself


def property_faults(gateway: InferenceGateway) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield what librdkafka refuses: the field of the resource, and librdkafka's message."""
    for key, value in gateway.spec.kafka.client.items():
        name = property_name(key)
        if not _NOT_TRIED.fullmatch(name) and (refused := _refused(name, value)) is not None:
            yield ("spec", "kafka", "client", key), refused


def _refused(name: str, value: str) -> str | None:
    try:
        Producer({name: value}, logger=librdkafka_log)
    except KafkaException as error:
        words = str(error.args[0].str()).strip()
        return None if words.startswith(_ALONE) else words
    except (TypeError, ValueError) as error:
        return str(error)
    return None
