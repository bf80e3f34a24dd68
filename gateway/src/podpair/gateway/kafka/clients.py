"""How every Kafka client of the gateway is configured, and how librdkafka's log records become ours."""

import logging
import os
import socket
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from podpair.gateway.config.load import ConfigError
from podpair.gateway.config.model import Config, Kafka

_log = logging.getLogger("podpair.gateway.kafka")

# librdkafka reports each lost connection of each client; one broker restart is dozens of lines.
logging.getLogger("podpair.gateway.kafka.librdkafka").setLevel(logging.ERROR)


def properties(config: Config, **own: Any) -> dict[str, Any]:
    """librdkafka's properties: podpair's (`own` with underscores for dots), over which go the user's.

    What must be podpair's own is none of the user's: `config.kafka_properties` refuses it.
    """
    return {
        "bootstrap.servers": config.kafka.bootstrap_servers,
        "client.id": "podpair-gateway",
        "reconnect.backoff.max.ms": 1000,
        # A broker that keeps its connections and says nothing (a stopped process, a cut cable) is left after 10 s, not 60.
        "socket.timeout.ms": 10_000,
        # The topic decides how large a record may be (topic_limits.py), up to what a broker takes in one request (100 MiB,
        # socket.request.max.bytes). Consumers get a record whatever its size.
        "message.max.bytes": 96_000_000,
        # What a topic has become, new partitions above all, is learnt this soon where nothing else tells of it (default: 300 s).
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
    """librdkafka's text for the code of an error, for clients: `error.str()` may name brokers, topics and groups."""
    return str(KafkaError(error.code()).str())


def gateway_name() -> str:
    """This process, as records, logs and the group's coordinator name it."""
    return f"{socket.gethostname()}-{os.getpid()}"


def check_files(config: Kafka) -> None:
    """Raises ConfigError where a file can't be read that a property names: librdkafka does not tell which, nor why."""
    faults = []
    for name, value in config.client.items():
        path = Path(str(value))
        if name.endswith(".location") and value != "probe" and not path.is_dir():
            try:
                path.open("rb").close()
            except OSError as error:
                faults.append(f"kafka.client.{name}: {path}: {error.strerror}")
    if faults:
        raise ConfigError(faults)


def check_properties(config: Kafka) -> None:
    """Raises ConfigError where librdkafka refuses a property, by name or value. It asks no broker."""
    given = {name: value for name, value in config.client.items() if name != "plugin.library.paths"}
    try:
        Producer({**given, **client_secrets(config)}, logger=logging.getLogger("podpair.gateway.kafka.librdkafka"))
    except (KafkaException, TypeError, ValueError) as error:
        words = error.args[0].str() if isinstance(error, KafkaException) else error
        raise ConfigError([f"kafka.client: {str(words).strip()}"]) from None


def client_secrets(config: Kafka) -> dict[str, str]:
    """librdkafka's properties that stand in files, without the newline at their end. Raises ConfigError."""
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
        raise ConfigError(faults)
    return found


def reader_properties(config: Config, **own: Any) -> dict[str, Any]:
    """A consumer that is told what to read and never joins a group (group.id is required by librdkafka, and unused)."""
    return properties(
        config,
        group_id="podpair-results-reader",
        enable_auto_commit=False,
        enable_auto_offset_store=False,
        auto_offset_reset="error",
        # What allows partitions to come and go one by one.
        partition_assignment_strategy="cooperative-sticky",
        isolation_level="read_committed",
        **fetching(config) | own,
    )


def fetching(config: Config) -> dict[str, Any]:
    """How a consumer asks for records. Long polls cost nothing and deliver at once; but the embedded broker ends none early."""
    wait = 20 if config.kafka.embedded else 500
    return {"fetch_wait_max_ms": wait, "fetch_queue_backoff_ms": 2, "fetch_error_backoff_ms": 100}


def _on_error(error: Any) -> None:
    level = logging.ERROR if error.fatal() else logging.WARNING
    _log.log(level, "kafka: %s", error.str(), extra={"kafka_error": error.name()})
