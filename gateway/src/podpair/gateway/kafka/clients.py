"""The configuration of the gateway's Kafka clients, and the routing of librdkafka's log records into ours."""

import logging
import os
import socket
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from podpair.common.faults import FaultsError
from podpair.common.gateway_config.kafka import Kafka
from podpair.common.gateway_config.model import Config

_log = logging.getLogger("podpair.gateway.kafka")

# librdkafka reports each lost connection of each client; one broker restart is dozens of lines.
logging.getLogger("podpair.gateway.kafka.librdkafka").setLevel(logging.ERROR)


def properties(config: Config, **own: Any) -> dict[str, Any]:
    """Return librdkafka's properties: podpair's (`own` with underscores for dots), overridden by the user's.

    `podpair.common.kafka_properties` rejects user properties that podpair has to set itself.
    """
    return {
        "bootstrap.servers": config.kafka.bootstrap_servers,
        "client.id": "podpair-gateway",
        "reconnect.backoff.max.ms": 1000,
        # A broker that keeps its connections and does not answer (a stopped process, a cut cable) is left after 10 s, not 60.
        "socket.timeout.ms": 10_000,
        # The topic decides how large a record may be (topic_limits.py), up to what a broker takes in one request (100 MiB,
        # socket.request.max.bytes). Consumers get a record whatever its size.
        "message.max.bytes": 96_000_000,
        # Changes of a topic, above all new partitions, are noticed within this time (default: 300 s).
        "topic.metadata.refresh.interval.ms": 10_000,
        "metadata.max.age.ms": 30_000,
        # A topic that was deleted must not come back as the broker's defaults would have it. Only the embedded broker
        # makes its topics this way.
        "allow.auto.create.topics": config.kafka.embedded,
        "logger": logging.getLogger("podpair.gateway.kafka.librdkafka"),
        "error_cb": _on_error,
        **{name.replace("_", "."): value for name, value in own.items()},
        **config.kafka.client,
        **client_secrets(config.kafka),
    }


def description_of(error: KafkaError) -> str:
    """Return librdkafka's text for an error's code. For clients: `error.str()` may name brokers, topics and groups."""
    return str(KafkaError(error.code()).str())


def gateway_name() -> str:
    """Return the name of this process in records, logs and the consumer group."""
    return f"{socket.gethostname()}-{os.getpid()}"


def check_files(config: Kafka) -> None:
    """Raise FaultsError if a property names a file that can't be read: librdkafka reports neither the file nor the reason."""
    faults = []
    for name, value in config.client.items():
        path = Path(str(value))
        if name.endswith(".location") and value != "probe" and not path.is_dir():
            try:
                path.open("rb").close()
            except OSError as error:
                faults.append(f"kafka.client.{name}: {path}: {error.strerror}")
    if faults:
        raise FaultsError(faults)


def check_properties(config: Kafka) -> None:
    """Raise FaultsError if librdkafka rejects a property, by name or value. No broker is contacted."""
    given = {name: value for name, value in config.client.items() if name != "plugin.library.paths"}
    try:
        Producer({**given, **client_secrets(config)}, logger=logging.getLogger("podpair.gateway.kafka.librdkafka"))
    except (KafkaException, TypeError, ValueError) as error:
        words = error.args[0].str() if isinstance(error, KafkaException) else error
        raise FaultsError([f"kafka.client: {str(words).strip()}"]) from None


def client_secrets(config: Kafka) -> dict[str, str]:
    """Return librdkafka's properties that are read from files, without a trailing newline. Raises FaultsError."""
    found, faults = {}, []
    for name, path in config.client_files.items():
        try:
            found[name] = path.read_text(encoding="utf-8").rstrip("\r\n")
        except OSError as error:
            faults.append(f"kafka.client_files.{name}: {path}: {error.strerror}")
        except UnicodeDecodeError:
            faults.append(f"kafka.client_files.{name}: {path}: not UTF-8")
        else:
            if not found[name]:
                faults.append(f"kafka.client_files.{name}: {path} is empty")
    if faults:
        raise FaultsError(faults)
    return found


def reader_properties(config: Config, **own: Any) -> dict[str, Any]:
    """Return the properties of a consumer with manual assignment, which joins no group (librdkafka requires a group.id)."""
    return properties(
        config,
        group_id="podpair-results-reader",
        enable_auto_commit=False,
        enable_auto_offset_store=False,
        auto_offset_reset="error",
        # Allows incremental assignment.
        partition_assignment_strategy="cooperative-sticky",
        **{"isolation_level": "read_committed"} | fetching(config) | own,
    )


def fetching(config: Config) -> dict[str, Any]:
    """Return fetch properties. Long polls deliver at once at no cost, except at the embedded broker, which waits them out."""
    wait = 20 if config.kafka.embedded else 500
    return {"fetch_wait_max_ms": wait, "fetch_queue_backoff_ms": 2, "fetch_error_backoff_ms": 100}


def bounds(consumer: Consumer, place: TopicPartition, timeout: float) -> tuple[int, int]:
    """Ask for a partition's first offset and the one behind its last. Raises KafkaException."""
    found = consumer.get_watermark_offsets(place, timeout=timeout)
    if found is None:
        text = f"asking where {place.topic}[{place.partition}] ends"
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT, text))
    return int(found[0]), int(found[1])


def _on_error(error: Any) -> None:
    level = logging.ERROR if error.fatal() else logging.WARNING
    _log.log(level, "kafka: %s", error.str(), extra={"kafka_error": error.name()})
