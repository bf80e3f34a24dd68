"""How many instructions a request costs the gateway's loop, counted by valgrind: load on the machine changes little.

    .venv/bin/python tests/bench/instructions.py [--loads 1x1,64x16] [--seconds 20] [--against ../other] [--route queue]

Whole gateways, this checkout's and that of `--against`, each beside the same model, run under callgrind, some fifty times
slower than without. The main thread alone counts, without librdkafka's, and without what it does in the same time when nobody
asks. It prints a JSON line for each load and side. Counts vary by about 2 % from run to run, for what arrives together is
worked on together.
"""

import json
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.checkouts import Side, arguments, sides
from harness.pair import BIN
from harness.processes import Child
from harness.waiting import until

_START = 300.0  # seconds that a gateway under valgrind may take to start


def count(side: Side, seconds: float) -> float:
    """Instructions of the loop's thread, of a gateway under callgrind, for each request that was answered."""
    counts = side.folder / "counts"
    tool = ("--tool=callgrind", "--separate-threads=yes", f"--callgrind-out-file={counts}")
    with ExitStack() as stack:
        command = ("valgrind", *tool, sys.executable, BIN / "podpair-gateway")
        gateway, client = side.start(stack, *command, patience=_START)
        client.run(seconds / 3)
        _control(gateway, "--zero")
        answered: int = client.run(seconds)["answered"]
        busy = _counted(gateway, counts)
        time.sleep(seconds)
        return (busy - _counted(gateway, counts)) / max(answered, 1)


def _control(gateway: Child, option: str) -> None:
    subprocess.run(["callgrind_control", option, str(gateway.pid)], check=True, capture_output=True)


def _counted(gateway: Child, counts: Path) -> int:
    """Instructions since the last time."""
    _control(gateway, "--dump")
    dump = max(counts.parent.glob("counts.*-01"), key=lambda path: int(path.suffix[1:].split("-")[0]))
    until(lambda: "totals:" in dump.read_text())
    return int(next(line for line in dump.read_text().splitlines() if line.startswith("totals:")).split()[1])


def main() -> None:
    options = arguments(__doc__, "1x1,64x16", 20).parse_args()
    for both in sides(options):
        found = {}
        for side in both:
            found[side.name] = count(side, options.seconds)
            told = {"load": side.load, "side": side.name, "instructions": round(found[side.name])}
            print(json.dumps(told), flush=True)
        if len(found) > 1:
            ratio = round(found["this"] / found["other"], 3)
            print(json.dumps({"load": both[0].load, "this of other": ratio}), flush=True)


if __name__ == "__main__":
    main()
