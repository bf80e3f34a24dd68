"""Members of the group: named ones that restart, and a group whose partitions the broker shares out."""

import asyncio
from typing import Any

import pytest

import podpair.client
from harness.pair import Gateway, token, until


def test_a_named_member_keeps_its_partitions_over_a_restart(start_pair: Any, names: dict[str, Any]) -> None:
    def start(instance: str) -> Gateway:
        return start_pair(requests=names["requests"] | {"instance": instance, "session_timeout_seconds": 30})

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
    first, second = (start_pair(requests=names["requests"] | {"protocol": p}) for p in (other, "consumer"))
    until(lambda: (first.metric("request_partitions"), second.metric("request_partitions")) == (4, 4))
    first.kill()
    async with podpair.client.connect(second.ws, token=token("left")) as session:
        asked = [session.infer("digits", [0.0] * 64, route="queue") for _ in range(50)]
        answers = await asyncio.gather(*asked)
    assert {answer.route for answer in answers} == {"queue"}
    # At once where all were written to its own partitions; the group notices the other's death later.
    await asyncio.to_thread(until, lambda: second.metric("request_partitions") == 8)
