"""What the gateway's hot paths cost has not become a multiple of what it was: ratios to a fixed piece of Python, no times."""

import json

import pytest

from bench.paths import BASELINE, PATHS, ratios

MARGIN = 2.5  # of the baseline; three burners on two cores were seen to move the ratios by less than a half


def grown(found: dict[str, float], baseline: dict[str, float]) -> dict[str, float]:
    """The paths that cost more than the margin allows, with how many times the baseline they cost."""
    return {name: round(found[name] / was, 1) for name, was in baseline.items() if found[name] > MARGIN * was}


def test_no_hot_path_costs_a_multiple_of_its_baseline() -> None:
    baseline = json.loads(BASELINE.read_text())
    assert baseline.keys() == PATHS.keys()
    first = grown(ratios(5), baseline)
    # Looked at once more before it is believed: the least of more rounds.
    assert not first or not grown(ratios(15), baseline), f"times the baseline: {first}"


@pytest.mark.parametrize("path", PATHS)
def test_a_path_four_times_as_slow_is_seen(path: str) -> None:
    baseline = dict.fromkeys(PATHS, 1.0)
    assert grown(baseline | {path: 4.0}, baseline) == {path: 4.0}
