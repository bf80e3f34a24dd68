"""Members of the group: named ones that restart, one whose partitions the broker shares out, and the way between the two kinds.

A member that the group refuses for good, or throws out, is dead for librdkafka. Here it is replaced.
"""

import asyncio
import json
from typing import Any

import pytest
from confluent_kafka import ConsumerGroupType
from confluent_kafka.admin import AdminClient

import podpair.client
from harness.kafka import Broker
from harness.pair import Gateway, Inference, token
from harness.waiting import until


def test_a_named_member_keeps_its_partitions_over_a_restart(start_pair: Any, names: dict[str, Any]) -> None:
    def start(instance: str) -> Gateway:
        return start_pair(requests=names["requests"] | {"group_instance_id": instance, "session_timeout_seconds": 30})

    stays, leaves = start("pod-0"), start("pod-1")
    until(lambda: (stays.metric("request_partitions"), leaves.metric("request_partitions")) == (4, 4))
    rebalances = stays.metric("rebalances_total")
    leaves.kill()
    back = start("pod-1")
    until(lambda: back.metric("request_partitions") == 4)
    assert stays.metric("request_partitions") == 4
    assert stays.metric("rebalances_total") == rebalances


@pytest.mark.parametrize("other", ["consumer", "classic"])
async def test_the_broker_shares_the_partitions_out(start_pair: Any, names: dict[str, Any], other: str) -> None:
    """protocol `consumer` (KIP-848): halves for two, all for the one who is left; so too while a fleet is changed over."""
    first, second = (start_pair(requests=names["requests"] | {"group_protocol": p}) for p in (other, "consumer"))
    until(lambda: (first.metric("request_partitions"), second.metric("request_partitions")) == (4, 4))
    first.kill()
    async with podpair.client.connect(second.ws, token=token("left")) as session:
        asked = [session.infer("digits", [0.0] * 64, route="queue") for _ in range(50)]
        answers = await asyncio.gather(*asked)
    assert {answer.route for answer in answers} == {"queue"}
    # At once where all were written to its own partitions; the group notices the other's death later.
    await asyncio.to_thread(until, lambda: second.metric("request_partitions") == 8)


def kafka_check(gateway: Gateway) -> str:
    return str(json.loads(gateway.get("/readyz")[1])["checks"]["kafka"])


async def works(gateway: Gateway, count: int = 40) -> None:
    """That many queued requests are answered."""
    async with podpair.client.connect(gateway.ws, token=token("works")) as session:
        asked = [session.infer("digits", [0.0] * 64, route="queue") for _ in range(count)]
        answers = await asyncio.wait_for(asyncio.gather(*asked), 120)
    assert {answer.route for answer in answers} == {"queue"}


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
async def test_a_named_member_that_was_killed_works_again(
    start_pair: Any, names: dict[str, Any], protocol: str
) -> None:
    """Restarted within its session: with `consumer` the broker has not released its name yet, and refuses it for good."""
    requests = names["requests"] | {"group_instance_id": "pod-0", "group_protocol": protocol}
    first: Gateway = start_pair(requests=requests)
    await asyncio.to_thread(until, lambda: first.metric("request_partitions") == 8)
    first.kill()
    again: Gateway = start_pair(requests=requests)
    await asyncio.to_thread(until, lambda: again.metric("request_partitions") == 8)
    await works(again)
    assert again.get("/readyz")[0] == 200


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
async def test_of_two_members_with_one_name_one_works_and_the_other_says_why_not(
    start_pair: Any, start_gateway: Any, names: dict[str, Any], broker: Broker, inference: Inference, protocol: str
) -> None:
    requests = names["requests"] | {"group_instance_id": "pod-0", "group_protocol": protocol}
    config = {
        **names, "requests": requests, "kafka": {"bootstrap_servers": broker.address}, "inference": {"url": inference.url}
    }  # fmt: skip
    gateways: list[Gateway] = [start_pair(requests=requests)]
    await asyncio.to_thread(until, lambda: gateways[0].metric("request_partitions") == 8)
    gateways.append(start_gateway(config))
    reason = "FENCED_INSTANCE_ID" if protocol == "classic" else "UNRELEASED_INSTANCE_ID"

    def dead() -> list[Gateway]:
        return [gateway for gateway in gateways if gateway.metric("kafka_client_restarts_total", reason=reason) > 1]

    await asyncio.to_thread(until, dead)
    (refused,) = dead()
    (working,) = [gateway for gateway in gateways if gateway is not refused]
    assert refused.get("/readyz")[0] == 503
    assert "the requests client is dead" in kafka_check(refused)
    before = working.metric("rebalances_total")
    await works(working)
    deaths = refused.metric("kafka_client_restarts_total")
    await asyncio.to_thread(until, lambda: refused.metric("kafka_client_restarts_total") > deaths)
    # The name is not taken back and forth.
    assert working.metric("rebalances_total") == before
    assert working.metric("kafka_client_restarts_total") == 0
    told = [r for r in refused.log if "client of Kafka is dead" in r["message"]]
    assert len(told) == len({r["kafka_error"] for r in told})
    working.kill()
    await asyncio.to_thread(until, lambda: refused.metric("request_partitions") == 8)
    await works(refused)
    await asyncio.to_thread(refused.wait_ready)


@pytest.mark.timeout(900)
async def test_a_fleet_changes_over_to_the_other_protocol_and_back_gateway_by_gateway(
    start_pair: Any, names: dict[str, Any], broker: Broker
) -> None:
    """Beyond the first generations, from which on the broker does not take classic members over."""

    def start(protocol: str) -> Gateway:
        gateway: Gateway = start_pair(requests=names["requests"] | {"group_protocol": protocol})
        return gateway

    def shared() -> bool:
        shares = [gateway.metric("request_partitions") for gateway in fleet]
        return sum(shares) == 8 and min(shares) > 0

    def kind() -> ConsumerGroupType:
        groups = admin.list_consumer_groups().result(60).valid
        return next(group.type for group in groups if group.group_id == names["requests"]["group"])

    def told() -> list[Any]:
        return [(gateway.metric("request_partitions"), gateway.lines[-4:]) for gateway in fleet]

    admin = AdminClient({"bootstrap.servers": broker.address})
    fleet = [start("classic") for _ in range(3)]
    for _ in range(3):  # generations
        passing = start("classic")
        await asyncio.to_thread(until, lambda one=passing: one.metric("request_partitions") > 0)
        passing.stop()
    for protocol in ("consumer", "classic"):
        for place in range(3):
            fleet[place].stop()
            fleet[place] = start(protocol)  # ready, or the next would never be changed
            await asyncio.to_thread(until, shared, told)
            await works(fleet[place])
        if protocol == "consumer":
            await asyncio.to_thread(until, lambda: kind() is ConsumerGroupType.CONSUMER, told)
            await asyncio.to_thread(until, shared, told)
            await works(fleet[0])
    for gateway in fleet:
        assert gateway.get("/readyz")[0] == 200
