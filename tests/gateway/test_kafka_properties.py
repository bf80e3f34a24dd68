"""`kafka.client`: a property is refused with what to set instead, or obeyed by every client; none is overridden silently."""

import ast
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from podpair.common.gateway_config.kafka import Kafka
from podpair.common.gateway_config.model import Config
from podpair.common.kafka_properties import ALIASES as OWN_ALIASES
from podpair.common.kafka_properties import OWNED
from podpair.gateway.kafka.clients import properties
from podpair.operator.core.api.kafka import Kafka as KafkaOfResource

SOURCES = Path(__file__).parents[2] / "gateway/src/podpair/gateway"
# Two names of librdkafka's for one property. From its CONFIGURATION.md.
ALIASES = {
    "metadata.broker.list": "bootstrap.servers",
    "request.required.acks": "acks",
    "auto.commit.enable": "enable.auto.commit",
    "queue.buffering.max.ms": "linger.ms",
    "message.timeout.ms": "delivery.timeout.ms",
    "fetch.message.max.bytes": "max.partition.fetch.bytes",
    "compression.codec": "compression.type",
    "max.in.flight": "max.in.flight.requests.per.connection",
    "message.send.max.retries": "retries",
    "sasl.mechanisms": "sasl.mechanism",
}
# podpair has no value of its own for these: both names of one go to librdkafka as they are.
PASSED_ON = {(alias, name) for alias, name in ALIASES.items() if alias not in {*OWNED, *OWN_ALIASES}}
_CALLBACKS = {"logger", "error_cb", "on_commit"}


def _set_by_the_code() -> Iterator[str]:
    """Every property that stands in the gateway's sources: as a keyword of `properties(…)`, or as a key with a dot or in a
    call of a client's constructor.
    """
    for folder in ("kafka", "cli"):
        for path in (SOURCES / folder).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "").endswith("properties"):
                    yield from (k.arg.replace("_", ".") for k in node.keywords if k.arg is not None)
                if isinstance(node, ast.Dict):
                    keys = [k.value for k in node.keys if isinstance(k, ast.Constant) and isinstance(k.value, str)]
                    yield from (k for k in keys if "." in k or k in _CALLBACKS)
                if isinstance(node, ast.FunctionDef) and node.name in ("membership", "fetching"):
                    strings = (k for k in ast.walk(node) if isinstance(k, ast.Dict))
                    yield from (
                        k.value.replace("_", ".") for d in strings for k in d.keys if isinstance(k, ast.Constant)
                    )


USED = sorted(set(_set_by_the_code()))


def obeyed(name: str) -> bool:
    """A user's value wins over one of podpair's own."""
    config = Config.model_validate({"auth": {"disabled": True}, "kafka": {"client": {name: "user"}}})
    canonical = ALIASES.get(name, name)
    return "user" in [
        v for n, v in properties(config, **{canonical.replace(".", "_"): "podpair"}).items() if n in (name, canonical)
    ]


def test_the_sources_are_read() -> None:
    assert {"linger.ms", "auto.offset.reset", "group.protocol", "fetch.wait.max.ms", "transactional.id",
            "socket.timeout.ms", "error_cb", "session.timeout.ms"} <= set(USED)  # fmt: skip


@pytest.mark.parametrize("name", sorted({*USED, *OWNED, *ALIASES}))
def test_a_property_is_refused_by_name_or_obeyed(name: str) -> None:
    dotted = name.replace("_", ".") if name != "log_level" else name
    if dotted not in OWNED:
        assert obeyed(name)
        return
    said = re.escape(f"{dotted} is podpair's own to set: {OWNED[dotted]}")
    for section in ({"client": {name: 1}}, {"client_files": {name.upper().replace(".", "_"): "/run/secret"}}):
        with pytest.raises(ValidationError, match=said):
            Kafka.model_validate(section)


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_an_alias_is_treated_as_what_it_stands_for(alias: str, name: str) -> None:
    assert (alias in OWNED) == (name in OWNED)


def test_one_property_under_two_names_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"linger\.ms is set twice"):
        Kafka.model_validate({"client": {"linger.ms": 5, "queue.buffering.max.ms": 6}})


def test_every_setting_that_is_named_is_there() -> None:
    sections = {name: field.annotation.model_fields for name, field in Config.model_fields.items()
                if hasattr(field.annotation, "model_fields")}  # fmt: skip
    for hint in OWNED.values():
        for word in hint.split():
            section, _, setting = word.partition(".")
            assert not setting or setting in sections[section], hint


UNDERSCORED = ("log_level", "ssl_ca", "ssl_certificate", "ssl_key", "ssl_engine_callback_data")
KELVIN = "\u212a"  # str.lower makes a `k` of it, CEL's lowerAscii doesn't


def spellings(name: str) -> set[str]:
    """All that the resource and the gateway may be given for a property."""
    written = {name, name.replace(".", "_"), name.replace("_", ".")}
    return {
        *written,
        *map(str.upper, written),
        *map(str.title, written),
        *(one.replace("k", KELVIN) for one in written),
    }


def faults(model: type[BaseModel], **values: object) -> str | None:
    try:
        model.model_validate(values)
    except ValidationError as error:
        return str(error)
    return None


def faults_of_resource(client: dict[str, str]) -> str | None:
    return faults(KafkaOfResource, bootstrapServers="kafka:9092", client=client)


@pytest.mark.parametrize("name", sorted({*USED, *OWNED, *ALIASES, *UNDERSCORED}))
def test_the_resource_takes_the_properties_that_the_gateway_takes(name: str) -> None:
    for key in spellings(name):
        in_resource, at_gateway = faults_of_resource({key: "1"}), faults(Kafka, client={key: "1"})
        assert (in_resource is None) == (at_gateway is None), (key, in_resource, at_gateway)


@pytest.mark.parametrize("names", [*ALIASES.items(), *((name, name) for name in ("linger.ms", "acks", *UNDERSCORED))])
def test_two_spellings_of_one_property_are_refused_by_the_resource_already(names: tuple[str, str]) -> None:
    refused = set()
    for first, second in itertools.product(*map(spellings, names)):
        client = {first: "1", second: "2"}
        in_resource, at_gateway = faults_of_resource(client), faults(Kafka, client=client)
        refused.add(in_resource is not None)
        assert in_resource is not None or at_gateway is None, (client, at_gateway)
    assert True in refused or names in PASSED_ON
