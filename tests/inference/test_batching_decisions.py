"""What runs together, and when: the pure batcher with a clock made of numbers."""

import pytest

from podpair.inference.core.batching import PRIORITIES, Batcher, Queued, QueueFullError, parse_priority
from podpair.inference.core.errors import InvalidRequestError


def batcher(max_items: int = 4, max_delay: float = 1.0, queue_size: int = 100, instances: int = 2) -> Batcher[str]:
    return Batcher(max_items, max_delay, queue_size, instances)


def item(
    name: str, rows: int = 1, at: float = 0.0, key: str = "a", deadline: float | None = None,
    priority: str = "normal",
) -> Queued[str]:  # fmt: skip
    return Queued(name, key, rows, at, deadline, PRIORITIES[priority])


def names(items: list[Queued[str]]) -> list[str]:
    return [item.payload for item in items]


def test_an_idle_runtime_gets_a_lone_request_at_once() -> None:
    b = batcher()
    b.offer(item("first"))
    assert names(b.decide(busy=0, now=0.0).run) == ["first"]


def test_with_some_runners_busy_a_batch_waits_until_it_is_full() -> None:
    b = batcher(max_items=3)
    b.offer(item("1"))
    b.offer(item("2"))
    waiting = b.decide(busy=1, now=0.5)
    assert (waiting.run, waiting.wake_at) == ([], 1.0)
    b.offer(item("3", at=0.5))
    assert names(b.decide(busy=1, now=0.5).run) == ["1", "2", "3"]


def test_with_some_runners_busy_a_batch_waits_no_longer_than_the_delay_of_its_oldest() -> None:
    b = batcher()
    b.offer(item("old", at=0.0))
    b.offer(item("young", at=0.9))
    assert b.decide(busy=1, now=0.99).run == []
    assert names(b.decide(busy=1, now=1.0).run) == ["old", "young"]


def test_with_all_runners_busy_everything_waits_for_one_of_them() -> None:
    b = batcher(max_items=1)
    b.offer(item("1"))
    decision = b.decide(busy=2, now=99.0)
    assert (decision.run, decision.wake_at) == ([], None)


def test_a_batch_has_at_most_max_items_rows_and_keeps_the_order() -> None:
    b = batcher(max_items=4)
    for name, rows in [("1", 2), ("2", 1), ("3", 2), ("4", 1)]:
        b.offer(item(name, rows))
    assert names(b.decide(0, 0.0).run) == ["1", "2"]
    assert names(b.decide(0, 0.0).run) == ["3", "4"]


def test_a_request_larger_than_a_batch_runs_alone() -> None:
    b = batcher(max_items=4)
    b.offer(item("large", 9))
    b.offer(item("small", 1))
    assert names(b.decide(0, 0.0).run) == ["large"]
    assert names(b.decide(0, 0.0).run) == ["small"]


def test_only_requests_of_the_same_shape_share_a_batch_the_oldest_first() -> None:
    b = batcher()
    b.offer(item("b1", at=0.1, key="b"))
    b.offer(item("a1", at=0.2, key="a"))
    b.offer(item("b2", at=0.3, key="b"))
    assert names(b.decide(0, 1.0).run) == ["b1", "b2"]
    assert names(b.decide(0, 1.0).run) == ["a1"]


def test_a_full_batch_of_one_shape_does_not_wait_for_an_older_one_of_another() -> None:
    b = batcher(max_items=2)
    b.offer(item("old", at=0.0, key="a"))
    b.offer(item("b1", at=0.1, key="b"))
    b.offer(item("b2", at=0.2, key="b"))
    assert names(b.decide(1, 0.3).run) == ["b1", "b2"]
    assert b.decide(1, 0.3).wake_at == 1.0


def test_a_full_queue_refuses_by_rows() -> None:
    b = batcher(queue_size=3)
    b.offer(item("1", 2))
    with pytest.raises(QueueFullError):
        b.offer(item("2", 2))
    b.offer(item("3", 1))
    assert (b.rows, len(b)) == (3, 2)


def test_a_withdrawn_request_never_runs_and_frees_its_rows() -> None:
    b = batcher(queue_size=2)
    gone, stays = item("gone", 1), item("stays", 1)
    b.offer(gone)
    b.offer(stays)
    assert b.withdraw(gone)
    assert not b.withdraw(gone)
    assert b.rows == 1
    assert names(b.decide(0, 0.0).run) == ["stays"]
    assert not b.withdraw(stays)


def test_a_request_past_its_deadline_is_set_aside_instead_of_run() -> None:
    b = batcher()
    b.offer(item("late", deadline=5.0))
    b.offer(item("never late"))
    b.offer(item("in time", deadline=5.1))
    decision = b.decide(0, 5.0)
    assert names(decision.expired) == ["late"]
    assert names(decision.run) == ["never late", "in time"]


def test_when_all_are_late_nothing_runs() -> None:
    b = batcher()
    b.offer(item("a", key="a", deadline=1.0))
    b.offer(item("b", key="b", deadline=1.0))
    decision = b.decide(0, 2.0)
    assert sorted(names(decision.expired)) == ["a", "b"]
    assert (decision.run, decision.wake_at, b.rows, len(b)) == ([], None, 0, 0)


def test_expiring_makes_room_without_running_anything() -> None:
    b = batcher(queue_size=2)
    b.offer(item("late", deadline=1.0))
    b.offer(item("in time", deadline=3.0))
    assert names(b.expire(2.0)) == ["late"]
    assert b.rows == 1


def test_draining_empties_the_queue() -> None:
    b = batcher()
    b.offer(item("a", key="a"))
    b.offer(item("b", key="b"))
    assert sorted(names(b.drain())) == ["a", "b"]
    assert (b.rows, len(b), b.decide(0, 0.0).run) == (0, 0, [])


def test_preferred_sizes_are_taken_where_there_are_rows_enough() -> None:
    b: Batcher[str] = Batcher(64, 1.0, 100, 2, preferred=(8, 4))
    for i in range(14):
        b.offer(item(str(i)))
    assert [len(b.decide(0, 0.0).run) for _ in range(3)] == [8, 4, 2]


def test_with_some_runners_busy_a_batch_of_the_largest_preferred_size_waits_no_longer() -> None:
    b: Batcher[str] = Batcher(64, 1.0, 100, 2, preferred=(4,))
    for i in range(3):
        b.offer(item(str(i)))
    assert b.decide(1, 0.0).run == []
    b.offer(item("3"))
    assert len(b.decide(1, 0.0).run) == 4


def test_without_a_delay_a_free_runner_never_waits() -> None:
    b = batcher(max_delay=0.0)
    b.offer(item("1"))
    assert names(b.decide(1, 0.0).run) == ["1"]


def test_the_size_of_a_batch_may_change_at_any_time() -> None:
    b = batcher(max_items=4)
    for i in range(6):
        b.offer(item(str(i)))
    assert len(b.decide(0, 0.0).run) == 4
    b.max_items = 1
    assert len(b.decide(0, 0.0).run) == 1


def test_what_has_priority_runs_first_and_a_batch_has_one_priority() -> None:
    b = batcher()
    for name, key, priority in (
        ("l1", "a", "low"), ("n1", "a", "normal"), ("n2", "b", "normal"), ("h1", "b", "high"), ("l2", "a", "low"),
        ("n3", "a", "normal"), ("h2", "a", "high"),
    ):  # fmt: skip
        b.offer(item(name, at=float(len(b)), key=key, priority=priority))
    ran = [names(b.decide(0, 9.0).run) for _ in range(6)]
    assert ran == [["h1"], ["h2"], ["n1", "n3"], ["n2"], ["l1", "l2"], []]


def test_a_low_priority_gets_each_eighth_batch_while_others_never_cease() -> None:
    b = batcher(max_items=1)
    for number in range(3):
        b.offer(item(f"low {number}", priority="low"))
    b.offer(item("high", priority="high"))
    ran = []
    for _ in range(30):
        b.offer(item("normal"))
        ran += names(b.decide(0, 1.0).run)
    assert [at for at, name in enumerate(ran) if name.startswith("low")] == [7, 15, 23]
    assert ran[0] == "high"


def test_no_priority_waits_for_ever_between_two_others_that_never_cease() -> None:
    b = batcher(max_items=1)
    b.offer(item("normal", priority="normal"))
    ran = []
    for _ in range(24):
        for priority in ("high", "low"):
            b.offer(item(priority, priority=priority))
        b.offer(item("normal"))
        ran += names(b.decide(0, 1.0).run)
    assert [at for at, name in enumerate(ran) if name == "normal"] == [3, 11, 19]
    assert [at for at, name in enumerate(ran) if name == "low"] == [7, 15, 23]


def test_a_full_batch_of_low_priority_does_not_wait_for_one_of_normal_that_may_yet_grow() -> None:
    b = batcher(max_items=2)
    for name in ("l1", "l2"):
        b.offer(item(name, priority="low"))
    b.offer(item("n"))
    assert names(b.decide(busy=1, now=0.1).run) == ["l1", "l2"]
    assert b.decide(busy=1, now=0.1).run == []
    assert names(b.decide(busy=1, now=1.0).run) == ["n"]


def test_one_of_any_priority_can_be_withdrawn() -> None:
    b = batcher()
    items = [item(priority, priority=priority) for priority in PRIORITIES]
    for each in items:
        b.offer(each)
    assert [b.withdraw(each) for each in items + items] == [True] * 3 + [False] * 3
    assert (b.rows, len(b), b.decide(0, 0.0).run) == (0, 0, [])


def test_a_priority_is_read() -> None:
    assert [parse_priority(text) for text in (None, "normal", "High", " low ")] == [1, 1, 0, 2]
    for wrong in ("", "1", "highest"):
        with pytest.raises(InvalidRequestError, match="one of high, normal, low"):
            parse_priority(wrong)
