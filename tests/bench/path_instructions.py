"""How many instructions the gateway's hot paths need for an item: counted by valgrind, so that load changes nothing.

The paths are those of paths.py: the gateway's own code without sockets and brokers. Each is told as a ratio to a fixed piece of
Python that is counted beside it, and so can be compared with another day's and another build of Python's.

    .venv/bin/python tests/bench/path_instructions.py [--write]

prints instructions an item and the ratios, and writes `instructions.json`, to which test_ratios.py holds the code. It takes
most of a minute. Counts of fan-out and of the fixed piece are the same to a thousandth from run to run, those of requests to a
tenth.
"""

import gc
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import uvloop

from bench import paths

BASELINE = Path(__file__).with_name("instructions.json")
_ITEMS = {"reference": 1_000, "fan-out": 8_000, "queued": 1_024, "exactly-once": 1_024, "direct": 1_024}
_LONGEST = 600.0  # seconds that a count may take


def count() -> dict[str, float]:
    """Count the instructions an item of each path, and of a turn of the reference. Needs valgrind."""
    with tempfile.TemporaryDirectory() as folder:
        tool = ["--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={folder}/counts"]
        counted = subprocess.run(
            ["valgrind", *tool, sys.executable, __file__, "--counted", folder],
            # Hashes decide where dictionaries collide.
            env={**os.environ, "PYTHONHASHSEED": "0"}, capture_output=True, text=True, timeout=_LONGEST, check=False,
        )  # fmt: skip
        if counted.returncode != 0:
            raise RuntimeError(f"the counted process failed:\n{counted.stdout[-2000:]}{counted.stderr[-2000:]}")
        found: dict[str, float] = json.loads(counted.stdout.splitlines()[-1])
    return found


def ratios(found: dict[str, float]) -> dict[str, float]:
    """What an item of each path needs, of what a turn of the reference needs."""
    return {name: found[name] / found["reference"] for name in paths.PATHS}


class _Counter:
    """A clock whose unit is an instruction of this process, which runs under callgrind."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._total = self._own = 0.0  # _own: what looking at it costs
        _control("--instr=on")
        self()
        began = self()
        self._own = self() - began

    def __call__(self) -> float:
        _control("--dump")
        newest = max(self._folder.glob("counts.*"), key=lambda path: int(path.name.rsplit(".", 1)[1]))
        lines = newest.read_text().splitlines()
        self._total += int(next(line for line in lines if line.startswith(("totals:", "summary:"))).split()[1])
        self._total -= self._own
        return self._total


def _control(option: str) -> None:
    subprocess.run(["callgrind_control", option, str(os.getpid())], check=True, capture_output=True)


def _counted(folder: Path) -> None:
    """Print the instructions of each path, as a child under valgrind."""
    gc.disable()
    found: dict[str, float] = {}
    warm = {"reference": (paths.reference, 0), **paths.PATHS}
    for path, _ in warm.values():
        uvloop.run(path(64))  # what is done once is done
    paths.clock = _Counter(folder)
    for name, (path, _) in warm.items():
        found[name] = uvloop.run(path(_ITEMS[name])) / _ITEMS[name]
    print(json.dumps(found))


def main() -> None:
    if "--counted" in sys.argv:
        _counted(Path(sys.argv[2]))
        return
    found = count()
    told = {name: round(ratio, 3) for name, ratio in ratios(found).items()}
    print(json.dumps({"instructions": {name: round(value) for name, value in found.items()}, "ratios": told}))
    if "--write" in sys.argv:
        BASELINE.write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()
