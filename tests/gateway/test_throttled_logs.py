"""Lines of one kind are bounded, and what was left out is told."""

import logging
from typing import Any

from podpair.gateway.logs import Throttle


def test_so_many_lines_in_a_while(caplog: Any) -> None:
    now = 0.0
    throttle = Throttle(burst=3, seconds=10, clock=lambda: now)
    log = logging.getLogger("podpair.gateway.throttled")

    def say(count: int) -> int:
        caplog.clear()
        with caplog.at_level(logging.INFO):
            for number in range(count):
                throttle.log(log, logging.INFO, "line %d", number, extra={"session": "s"})
        return len(caplog.records)

    assert say(100) == 3
    assert {record.session for record in caplog.records} == {"s"}
    now = 9.0
    assert say(100) == 0
    now = 10.0
    assert say(1) == 1
    assert caplog.records[0].left_out == 197
    assert say(1) == 1
    assert not hasattr(caplog.records[0], "left_out")
