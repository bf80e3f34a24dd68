"""Sums up what `coverage json` prints, by package and by the packages below it, for `make coverage`.

A figure is what coverage.py calls the percentage covered: lines and branches that ran, of all there are.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any


def packages_of(path: str) -> Iterator[str]:
    """Yield the packages whose sum a module counts in: gateway, and gateway.core, say."""
    names = PurePath(path.partition("/podpair/")[2]).parts
    yield names[0]
    if len(names) > 2:
        yield f"{names[0]}.{names[1]}"


def main(report: dict[str, Any]) -> None:
    """Print a table of the packages."""
    there: Counter[str] = Counter()
    ran: Counter[str] = Counter()
    lines: Counter[str] = Counter()
    for path, file in report["files"].items():
        summary = file["summary"]
        for package in (*packages_of(path), "all"):
            lines[package] += summary["num_statements"]
            there[package] += summary["num_statements"] + summary["num_branches"]
            ran[package] += summary["covered_lines"] + summary["covered_branches"]
    print("| package | lines | run |\n| --- | --: | --: |")
    for package in sorted(there, key=lambda name: (name == "all", name)):
        print(f"| {package} | {lines[package]:,} | {100 * ran[package] / max(1, there[package]):.0f} % |")


if __name__ == "__main__":
    main(json.load(sys.stdin))
