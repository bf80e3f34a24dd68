"""Which pods go first when there are to be fewer, and how seldom that is written."""

import asyncio
import random
from collections.abc import Mapping
from typing import Any, cast

import pytest

from podpair.operator.controller.deletion_costs import DeletionCosts
from podpair.operator.core.deletion_cost import ANNOTATION, changed_costs, deletion_cost, read_cost
from podpair.operator.core.load import WINDOW, PodLoad, Window
from podpair.operator.kube.client import ApiError
from podpair.operator.kube.informer import Key
from podpair.operator.metrics import Metrics


def load(sessions: int, inflight: int = 0) -> PodLoad:
    return PodLoad(sessions, inflight, None)


def test_the_emptiest_pod_costs_least() -> None:
    costs = changed_costs({"a": load(300), "b": load(0), "c": load(40), "d": load(40, 40)}, {})
    assert "b" not in costs  # what has no annotation costs 0
    assert 0 < costs["c"] < costs["d"] < costs["a"]


def test_pods_that_differ_by_a_third_are_told_apart_whatever_they_cost_before() -> None:
    chosen = random.Random(7)
    for _ in range(2000):
        less = chosen.randint(10, 5000)
        more = less + less // 3 + 1
        before = {name: chosen.randint(0, 60) for name in "ab"}
        costs = before | changed_costs({"a": load(less), "b": load(more)}, before)
        assert costs["a"] < costs["b"], (less, more, before)


def test_a_load_that_wavers_is_written_once() -> None:
    chosen = random.Random(7)
    before: dict[str, int] = {}
    writes = 0
    for _ in range(1000):
        found = {name: load(round(most * chosen.uniform(0.97, 1.03))) for name, most in (("a", 200), ("b", 2000))}
        changed = changed_costs(found, before)
        writes += len(changed)
        before |= changed
    assert writes <= 4


def test_a_pod_that_empties_costs_nothing_again() -> None:
    assert deletion_cost(load(0), 30) == 0


def test_of_a_single_pod_nothing_is_written() -> None:
    assert changed_costs({"a": load(500)}, {}) == {}
    assert changed_costs({}, {"a": 3}) == {}


@pytest.mark.parametrize(("said", "cost"), [(None, 0), ("12", 12), ("-3", -3), ("many", 0)])
def test_costs_are_read_as_kubernetes_reads_them(said: str | None, cost: int) -> None:
    assert read_cost({} if said is None else {ANNOTATION: said}) == cost


def test_a_pod_that_has_been_silent_for_long_has_no_load() -> None:
    window = Window()
    window.add(0, {"a": load(3), "b": load(4)})
    window.add(WINDOW + 1, {"a": load(5), "b": None})
    assert window.loads(WINDOW + 1) == {"a": load(5)}


@pytest.mark.parametrize(
    ("error", "refused"),
    [
        ((404, "NotFound", "no"), 0),
        ((409, "Conflict", "no"), 0),
        ((422, "Invalid", 'Pod "a" is invalid: metadata.uid: Invalid value: "uid of a": field is immutable'), 0),
        ((422, "Invalid", "no"), 1),
        ((403, "Forbidden", "no"), 1),
    ],
)
async def test_a_pod_that_went_or_was_replaced_in_the_meantime_is_no_error(
    error: tuple[int, str, str], refused: int
) -> None:
    """The first pod can't be written; the second one is all the same, unless the right is missing."""
    written: list[str] = []

    class Api:
        async def merge(self, path: str, change: Mapping[str, Any]) -> None:
            if path.endswith("/pods/a"):
                raise ApiError(*error)
            assert change["metadata"]["uid"] == "uid of b"
            written.append(change["metadata"]["annotations"][ANNOTATION])

    class Known:
        def all_keys(self) -> list[Key]:
            return [("default", "digits")]

        def get(self, key: Key) -> dict[str, Any]:
            return {"metadata": {"name": key[1], "namespace": key[0]}, "spec": {}}

        def list(self, *_: Any) -> list[dict[str, Any]]:
            return [{"metadata": {"name": name, "uid": f"uid of {name}"}} for name in "ab"]

    metrics = Metrics()
    looked = asyncio.Event()

    def loads(_: Key) -> dict[str, PodLoad]:
        looked.set()
        return {"a": load(100), "b": load(200)}

    costs = DeletionCosts(cast("Any", Api()), cast("Any", Known()), cast("Any", Known()), loads, 60, metrics)
    running = asyncio.create_task(costs.run())
    await looked.wait()  # nothing below really waits: by now all has been written
    running.cancel()
    assert bool(written) is not bool(refused)
    found = metrics.registry.get_sample_value("podpair_operator_objects_total", {"kind": "Pod", "outcome": "refused"})
    assert (found or 0) == refused
