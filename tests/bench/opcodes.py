"""How many of Python's opcodes a request costs the gateway's loop, and in which functions: the same on any machine.

    .venv/bin/python tests/bench/opcodes.py [--loads 1x1,64x1,64x16] [--seconds 5] [--against ../other] [--functions 30]
                                       [--route queue]

Whole gateways, this checkout's and that of `--against`, each beside the same model, some ten times slower than without. What C
does (the loop, the kernel, parsers) isn't counted: `instructions.py` has it. It prints a JSON line for each load and side, and
with --functions the ones that differ most, as opcodes a request.
"""

import json
import os
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.checkouts import Side, arguments, sides
from harness.waiting import until

_DRAIN = 3.0  # seconds in which what is open ends: a queued request takes long where opcodes are counted

Counts = dict[str, float]  # opcodes a request, by file and function


def count(side: Side, seconds: float) -> Counts:
    """Opcodes a request of a gateway of this side."""
    counts = side.folder / "counts.json"
    with ExitStack() as stack:
        program = Path(__file__).with_name("counted_gateway.py")
        gateway, client = side.start(stack, sys.executable, program, counts)
        client.run(2)
        time.sleep(_DRAIN)
        os.kill(gateway.pid, signal.SIGUSR1)
        client.run(seconds)
        time.sleep(_DRAIN)
        os.kill(gateway.pid, signal.SIGUSR2)
        until(counts.is_file)
    requests, rows = json.loads(counts.read_text())
    return {f"{Path(file).name} {name}": opcodes / requests for file, name, opcodes, _ in rows}


def main() -> None:
    parser = arguments(__doc__, "1x1,64x1,64x16", 5)
    parser.add_argument("--functions", type=int, default=0, help="how many functions to tell")
    options = parser.parse_args()
    for both in sides(options):
        found: dict[str, Counts] = {}
        for side in both:
            found[side.name] = count(side, options.seconds)
            total = round(sum(found[side.name].values()))
            print(json.dumps({"load": side.load, "side": side.name, "opcodes": total}), flush=True)
        tell(found, options.functions)


def tell(found: dict[str, Counts], most: int) -> None:
    """The functions that cost most, or differ most."""
    this, other = found["this"], found.get("other", {})
    names = sorted(this.keys() | other.keys(), key=lambda name: -abs(this.get(name, 0) - other.get(name, 0)))
    for name in names[:most]:
        beside = f"{other.get(name, 0):8.1f}" if other else ""
        print(f"{this.get(name, 0):8.1f}{beside}  {name}")


if __name__ == "__main__":
    main()
