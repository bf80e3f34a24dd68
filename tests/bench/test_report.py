"""Benches' lines become tables and plots; a page keeps what was not measured again."""

import xml.etree.ElementTree as ET

import pytest

from bench.plots import Bars, Curves
from bench.report import put, table

SPREAD = {"median": 1234.5, "least": 1000.0, "most": 1500.0}
LINES = [
    {"section": "s", "run": {"at": "2026-01-02T03:04:05+00:00", "cores": 2, "machine": "x86_64", "load": 0.5}},
    {"section": "s", "row": {"open": 1, "server": "a"}, "values": {"requests/s": SPREAD, "p50 ms": 0.12345}},
    {"section": "s", "row": {"open": 1, "server": "<b>"}, "values": {"requests/s": 17, "CPU µs": 3.0}},
    {"section": "s", "row": {"open": 64, "server": "a"}, "values": {"requests/s": 0.0}},
    {"section": "s", "row": {"server": "c"}, "left_out": "cargo is\nnot on this machine"},
]


def test_a_table_has_a_column_for_each_name_and_says_what_was_left_out() -> None:
    assert table(LINES).splitlines() == [
        "*2026-01-02, 2 cores (x86_64), load 0.5 at the start.*",
        "",
        "| open | server | requests/s | p50 ms | CPU µs |",
        "| --- | --- | --: | --: | --: |",
        "| 1 | a | 1,234 (1,000–1,500) | 0.123 |  |",
        "|  | <b> | 17 |  | 3.00 |",
        "| 64 | a | 0 |  |  |",
        "",
        "Left out: c: cargo is not on this machine",
    ]


def test_only_its_own_place_in_the_page_changes() -> None:
    page = "one\n<!-- bench s -->\nold\n<!-- end -->\ntwo\n<!-- bench t -->\nkept\n<!-- end -->\n"
    assert put(page, "s", "new") == page.replace("old", "new")
    with pytest.raises(LookupError, match="no place for u"):
        put(page, "u", "new")


PLOTS = [
    Bars("T", "requests/s", by=["open"]),
    Bars("T", "requests/s", by=["open"], log=True),
    Curves("T", "open", "requests/s", by=["server"]),
]


@pytest.mark.parametrize("plot", PLOTS)
def test_a_plot_shows_every_row_that_was_measured(plot: Bars | Curves) -> None:
    drawn = ET.fromstring(plot.draw([line for line in LINES if "values" in line]))
    text = [element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert "<b>" in text
    assert "a" in text
