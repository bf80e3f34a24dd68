"""A named member of the group that restarts gets its partitions back without a rebalance."""

from typing import Any

from harness.pair import Gateway, until


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
