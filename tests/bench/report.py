"""Turns what benches have recorded (`recording.py`) into the tables and plots of docs/benchmarks.md.

    .venv/bin/python tests/bench/report.py

A section's table stands between `<!-- bench SECTION -->` and `<!-- end -->`, and is replaced there; what was not measured again
stays as it was. PLOTS says what of a section is drawn, to docs/plots/SECTION.svg.
"""

import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.plots import Bars, Curves, number
from bench.recording import FOLDER
from harness.processes import ROOT

PAGE = ROOT / "docs" / "benchmarks.md"
DRAWINGS = ROOT / "docs" / "plots"

# Section → how it is drawn; a section without an entry has its table only.
PLOTS: dict[str, Bars | Curves] = {
    "inference-small": Bars("A tiny model: requests/s", "requests/s", by=["open"], log=True),
    "inference-cnn": Bars("A convolutional model: requests/s", "requests/s", by=["open"]),
    "inference-jpeg": Bars("JPEG files: requests/s", "requests/s", by=["open"]),
    "whole": Bars("The whole way: requests/s", "requests/s", by=["connections", "open on each"], log=True),
    "growth-pods": Curves("What a fleet reads, over what was written", "gateways", "simulated", by=["session ids"]),
}

Line = Mapping[str, Any]


def recorded(folder: Path = FOLDER) -> dict[str, list[Line]]:
    """Section → its lines."""
    sections: dict[str, list[Line]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        for text in path.read_text().splitlines():
            line = json.loads(text)
            sections.setdefault(line["section"], []).append(line)
    return sections


def shown(value: Any) -> str:
    """A cell: a spread as its median and, in brackets, the least and the most."""
    if isinstance(value, Mapping):
        least, most = number(value["least"]), number(value["most"])
        middle = number(value["median"])
        return middle if least == most == middle else f"{middle} ({least}–{most})"
    return number(value) if isinstance(value, int | float) else str(value)


def table(lines: Iterable[Line]) -> str:
    """The section's lines as Markdown: when and where, the rows that were measured, and what was left out."""
    runs = [line["run"] for line in lines if "run" in line]
    rows = [line for line in lines if "values" in line]
    named = _columns(line["row"] for line in rows)
    measured = _columns(line["values"] for line in rows)
    text = []
    if runs:
        run = runs[-1]
        text += [f"*{run['at'][:10]}, {run['cores']} cores ({run['machine']}), load {run['load']} at the start.*", ""]
    if rows:
        text += [_row([*named, *measured]), _row(["---"] * len(named) + ["--:"] * len(measured))]
        before: list[str] = []
        for line in rows:
            names = [shown(line["row"].get(name, "")) for name in named]
            # What is the same as in the row above is not said again, from the left.
            same = next((i for i, (a, b) in enumerate(zip(before, names, strict=False)) if a != b), len(before))
            cells = [""] * min(same, len(names) - 1) + names[min(same, len(names) - 1) :]
            text.append(_row(cells + [shown(line["values"].get(name, "")) for name in measured]))
            before = names
    for line in lines:
        if "left_out" in line:
            text += ["", f"Left out: {', '.join(map(str, line['row'].values()))}: {' '.join(line['left_out'].split())}"]
    return "\n".join(text)


def put(page: str, section: str, content: str) -> str:
    """The page with a section's content in its place. Raises LookupError where it has none."""
    place = re.compile(rf"(<!-- bench {re.escape(section)} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not place.search(page):
        raise LookupError(f"{PAGE.name} has no place for {section}: <!-- bench {section} --> and <!-- end -->")
    return place.sub(lambda found: f"{found[1]}{content}\n{found[2]}", page)


def _columns(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    page, missing = PAGE.read_text(), []
    for section, lines in recorded().items():
        content = table(lines)
        plot = PLOTS.get(section)
        if plot is not None:
            DRAWINGS.mkdir(exist_ok=True)
            (DRAWINGS / f"{section}.svg").write_text(plot.draw([line for line in lines if "values" in line]))
            content += f"\n\n![{plot.title}](plots/{section}.svg)"
        try:
            page = put(page, section, content)
        except LookupError as error:
            missing.append(str(error))
    PAGE.write_text(page)
    if missing:
        raise SystemExit("\n".join(missing))


if __name__ == "__main__":
    main()
