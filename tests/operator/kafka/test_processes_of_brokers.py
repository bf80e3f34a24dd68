"""Brokers asked from processes of their own: as well as before, and one that misbehaves affects its own resources only."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from itertools import count
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from harness.kafka import Broker, SecureBroker
from harness.misbehaving_broker import HOW, STEPS, MisbehavingBrokers
from harness.processes import free_port
from harness.resources import gateway_at
from harness.waiting import until
from podpair.operator.core.credentials import Credentials
from podpair.operator.core.kafka_state import KafkaState, Reason
from podpair.operator.kafka.remote_topics import DeletionFailed, RemoteTopics
from podpair.operator.processes.pool import Limits

NOBODY = Credentials()
_FRESH = 30.0  # seconds
_ONE_COPY = {"partitions": 2, "replication": 1}


@pytest.fixture
async def remote() -> AsyncIterator[RemoteTopics]:
    """One operator's topics, on all brokers."""
    made = RemoteTopics(Limits(processes=24, slot_seconds=200.0))
    yield made
    await made.close()


async def test_topics_are_made_looked_at_and_deleted_from_a_process(remote: RemoteTopics, broker: Broker) -> None:
    wanted = gateway_at(broker.address, "remote")
    seen = await remote.reconcile(wanted, NOBODY)
    assert (seen.ready, seen.reason, seen.partitions, seen.lag) == (True, Reason.TOPICS_READY, 2, 0)
    assert seen.changes[0] == "Created topic default.remote.requests with 2 partitions"
    assert isinstance(seen, KafkaState)
    assert os.getpid() not in remote.pool.pids().values()
    await remote.delete(wanted, NOBODY)
    admin = AdminClient({"bootstrap.servers": broker.address})
    until(lambda: "default.remote.requests" not in admin.list_topics(timeout=10).topics)


async def test_credentials_reach_the_process_and_others_have_a_process_of_their_own(
    remote: RemoteTopics, secure_broker: SecureBroker
) -> None:
    ca = secure_broker.authority.certificate
    sasl, tls = {"secretName": "kafka", "mechanism": "PLAIN"}, {"caRef": {"name": "ca", "key": "ca.crt"}}
    wanted = gateway_at(secure_broker.addresses["SASL_SSL"], "shown", kafka__sasl=sasl, kafka__tls=tls)
    assert (await remote.reconcile(wanted, Credentials("admin", "admin-password", ca))).ready
    wrong = await remote.reconcile(wanted, Credentials("admin", "wrong", ca))
    assert (wrong.ready, wrong.reason) == (False, Reason.AUTHENTICATION_FAILED)
    assert len(remote.pool.pids()) == 1  # by name: the same broker
    assert (await remote.reconcile(wanted, Credentials("admin", "admin-password", ca))).ready


@pytest.mark.process
async def test_who_can_not_be_asked_to_delete_says_so(remote: RemoteTopics) -> None:
    with pytest.raises(DeletionFailed, match="no broker answers"):
        await remote.delete(gateway_at(f"127.0.0.1:{free_port()}", "gone"), NOBODY)


async def test_a_broker_that_is_wrong_at_any_step_leaves_the_others_fresh(remote: RemoteTopics, broker: Broker) -> None:
    wrong = [(step, how) for step in STEPS for how in HOW]
    brokers = MisbehavingBrokers(*wrong)
    try:
        good = gateway_at(broker.address, "unmoved")
        before = await remote.reconcile(good, NOBODY)
        assert before.ready
        assert before.lag is not None  # of records of a first try, where this is the second
        producer = Producer({"bootstrap.servers": broker.address})

        async def ask(number: int, address: str) -> KafkaState:
            topics = {"kafka__requests": _ONE_COPY, "kafka__results": _ONE_COPY}
            return await remote.reconcile(gateway_at(address, f"wrong-{number}", **topics), NOBODY)

        asking = {asyncio.create_task(ask(number, brokers.addresses[one])): one for number, one in enumerate(wrong)}
        waiting: set[asyncio.Task[KafkaState]] = set(asking)
        for written in count(1):
            producer.produce("default.unmoved.requests", value=b"{}")
            assert producer.flush(10) == 0
            async with asyncio.timeout(_FRESH):
                seen = await remote.reconcile(good, NOBODY)
            assert (seen.ready, seen.lag) == (True, before.lag + written)
            if not waiting:
                break
            _, waiting = await asyncio.wait(waiting, timeout=1.0)
        told = {one: task.result() for task, one in asking.items()}
        assert {one: seen.ready for one, seen in told.items()} == dict.fromkeys(wrong, False)
        assert {seen.reason for seen in told.values()} <= {
            Reason.BROKER_UNREACHABLE, Reason.UNEXPECTED, Reason.TOPIC_REFUSED, Reason.CLIENT_FAILED,
        }  # fmt: skip
        assert all(seen.message and seen.lag is None for seen in told.values())
    finally:
        brokers.kill()


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGKILL, signal.SIGSEGV])
async def test_a_process_that_dies_is_told_and_asks_again_by_itself(
    remote: RemoteTopics, broker: Broker, secure_broker: SecureBroker, number: int
) -> None:
    first, second = gateway_at(broker.address, "dies"), gateway_at(secure_broker.address, "lives")
    assert (await remote.reconcile(first, NOBODY)).ready
    assert (await remote.reconcile(second, NOBODY)).ready
    pids = remote.pool.pids()
    os.kill(pids[f"the broker at {broker.address}"], number)
    told: list[Any] = []
    async with asyncio.timeout(60):
        while not told or not told[-1].ready:
            told.append(await remote.reconcile(first, NOBODY))
            assert (await remote.reconcile(second, NOBODY)).ready
    seen = told[0]
    assert (seen.ready, seen.reason) == (False, Reason.CLIENT_FAILED)
    assert f"the process that asks the broker at {broker.address} failed: it was ended by" in seen.message
    assert {one.message for one in told[:-1]} == {seen.message}  # written once
    again = remote.pool.pids()
    assert again[f"the broker at {secure_broker.address}"] == pids[f"the broker at {secure_broker.address}"]
