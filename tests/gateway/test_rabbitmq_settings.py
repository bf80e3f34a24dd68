"""Settings of RabbitMQ that don't fit together are refused where they are read, and no fault quotes the address."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from podpair.common.faults import FaultsError
from podpair.common.gateway_config.amqp import Amqp
from podpair.gateway.amqp.topology import queue_arguments
from podpair.gateway.cli.config import config_group
from podpair.gateway.config.load import load

SECRET = {"auth": {"disabled": True}}


@pytest.mark.parametrize(
    ("amqp", "why"),
    [
        ({"url": "http://u:hunter2@h/"}, "amqp.url: it is not amqp"),
        ({"url": "amqp://u:hunter2@h:99999/"}, "amqp.url: Port out of range"),
        ({"certificate_file": "/c"}, "go together"),
        ({"max_priority": 10}, "max_priority needs queue_type classic"),
        ({"routing_keys": ["a"]}, "exchange and routing_keys go together"),
        ({"declare": False, "message_ttl_seconds": 5}, "declare is false"),
        ({"prefetch": 0}, "amqp.prefetch"),
    ],
)
def test_faults(amqp: dict[str, Any], why: str) -> None:
    with pytest.raises(FaultsError) as caught:
        load(None, {**SECRET, "amqp": amqp})
    assert any(why in fault for fault in caught.value.faults), caught.value.faults
    assert "hunter2" not in "".join(caught.value.faults)


def test_no_repr_has_the_address() -> None:
    assert "hunter2" not in repr(load(None, {**SECRET, "amqp": {"url": "amqp://u:hunter2@h/"}}))


@pytest.mark.parametrize(("source", "status"), [("both", 2), ("kafka", 0)])
def test_files_are_checked_if_they_count(tmp_path: Path, source: str, status: int) -> None:
    config = tmp_path / "gateway.yaml"
    config.write_text(
        f"auth: {{disabled: true}}\nrequests: {{source: {source}}}\namqp: {{url_file: {tmp_path / 'missing'}}}\n"
    )
    done = CliRunner().invoke(config_group, ["check", "--config", str(config)])
    assert (done.exit_code == 0) == (status == 0), done.output
    if status:
        assert isinstance(done.exception, FaultsError)
        assert "can't be read" in done.exception.faults[0]


@pytest.mark.parametrize(
    ("amqp", "wanted"),
    [
        (
            {"queue": "q"},
            {
                "x-queue-type": "quorum",
                "x-delivery-limit": 20,
                "x-dead-letter-exchange": "q.dlx",
                "x-dead-letter-routing-key": "q",
                "x-dead-letter-strategy": "at-least-once",
                "x-overflow": "reject-publish",
            },
        ),
        (
            {
                "queue": "q",
                "queue_type": "classic",
                "max_priority": 5,
                "message_ttl_seconds": 1.5,
                "dead_letters": False,
            },
            {"x-queue-type": "classic", "x-max-priority": 5, "x-message-ttl": 1500},
        ),
    ],
)
def test_what_a_queue_is_declared_with(amqp: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert queue_arguments(Amqp(**amqp)) == wanted
