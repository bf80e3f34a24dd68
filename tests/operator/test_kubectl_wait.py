"""What `kubectl wait` can wait for, in each phase of a resource's life."""

import re
from typing import Any

import pytest

from harness.observations import (
    LOADING,
    NOW,
    TAKEN,
    TOPICS,
    conditions,
    deployment,
    gateway,
)
from harness.processes import ROOT
from podpair.operator.core.conditions import Observed, status

PHASES = {
    "new": Observed(),
    "loading": Observed(deployment(ready=0, updated=1), pods=[LOADING], kafka=TOPICS),
    "rolling": Observed(deployment(updated=1), kafka=TOPICS),
    "well": Observed(deployment(), kafka=TOPICS),
    "refused": Observed(deployment(), kafka=TOPICS, faults=[TAKEN]),
    "none": Observed(deployment(wanted=0, ready=0), kafka=TOPICS),
    "paused": Observed(deployment(), kafka=TOPICS, paused=True),
}


WAITED_FOR = {
    "condition=Ready": {"rolling", "well", "refused", "paused"},
    "condition=Reconciling=False": {"well", "refused", "none", "paused"},
    "condition=Stalled": {"refused"},
    "condition=Stalled=False": set(PHASES) - {"refused"},
    "condition=KafkaReady": set(PHASES) - {"new"},
    "condition=Degraded=False": set(PHASES) - {"refused"},
    "condition=Paused": {"paused"},
    "jsonpath='{.status.readyReplicas}'=2": {"rolling", "well", "refused", "paused"},
    "jsonpath='{.status.ready}'=2/2": {"rolling", "well", "refused", "paused"},
    "jsonpath='{.status.version}'=3": set(PHASES),
    "jsonpath='{.status.conditions[?(@.type==\"Ready\")].reason}'=ModelLoading": {"loading"},
    "jsonpath='{.status.conditions[?(@.type==\"Ready\")].reason}'=ScaledToZero": {"none"},
}


def is_met(wanted: str, told: dict[str, Any]) -> bool:
    """As kubectl wait sees it."""
    if condition := re.fullmatch(r"condition=(\w+)(?:=(\w+))?", wanted):
        return conditions(told).get(condition[1], ("", ""))[0] == (condition[2] or "True")
    path = re.fullmatch(r"jsonpath='\{\.status\.(\w+)\}'=(.+)", wanted)
    if path is not None:
        return str(told.get(path[1])) == path[2]
    found = re.fullmatch(r"""jsonpath='\{\.status\.conditions\[\?\(@\.type=="(\w+)"\)\]\.reason\}'=(\w+)""", wanted)
    assert found is not None
    return conditions(told)[found[1]][1] == found[2]


@pytest.mark.parametrize("wanted", WAITED_FOR)
def test_what_can_be_waited_for_is_so_in_just_its_phases(wanted: str) -> None:
    versions = [{"version": "3", "weight": 100}]
    scaled = gateway(inference__models=[{"name": "digits", "versions": versions}], replicas=2)
    met = {name for name, seen in PHASES.items() if is_met(wanted, status(scaled, seen, {}, NOW))}
    assert met == WAITED_FOR[wanted]


def test_the_page_names_all_that_can_be_waited_for() -> None:
    page = (ROOT / "docs" / "conditions.md").read_text()
    table = page[page.index("\n## Waiting for it\n") : page.index("\n## Events\n")]
    named = set(re.findall(r"\| `(.*)` \|$", table, re.MULTILINE)) - {"--for=", "delete"}
    assert named == set(WAITED_FOR)
