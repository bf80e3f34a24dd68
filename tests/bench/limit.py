"""What bare `session.run` does on these cores, without a server: the limit. A process that stays, measured in turn with them.

Each line of its input is a run: `{"threads": 2, "batch": 1, "intra_op": 1, "seconds": 1}`; it answers with rows a second. MODEL,
SHAPE and IMAGE are the peers' (`peers/onnx_model.py`); where rows are files, each is decoded by OpenCV before its run.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort


class Layout(NamedTuple):
    """Runs side by side, rows in each, threads of each."""

    threads: int
    batch: int
    intra_op: int


class Limit:
    """The process, seen from the bench."""

    def __init__(self, environment: dict[str, str], file: Path | None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, *([str(file)] if file else [])],
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def rows_per_s(self, layout: Layout, seconds: float) -> float:
        """One run."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({**layout._asdict(), "seconds": seconds}) + "\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def best(self, layouts: Sequence[Layout], seconds: float) -> Layout:
        """The layout that does most, of two rounds."""
        found = {layout: max(self.rows_per_s(layout, seconds) for _ in range(2)) for layout in layouts}
        return max(found, key=found.__getitem__)

    def close(self) -> None:
        """End it."""
        self._process.communicate()


def layouts(cores: int) -> list[Layout]:
    """Those that are tried."""
    return [Layout(cores, 1, 1), Layout(cores, 2, 1), Layout(1, 1, cores), Layout(1, 8, cores)]


def main() -> None:
    sys.path.insert(0, str(Path(__file__).parent / "peers"))
    from onnx_model import SHAPE, row

    file = Path(sys.argv[1]).read_bytes() if len(sys.argv) > 1 else None
    sessions: dict[int, Any] = {}

    def work(layout: Layout) -> Callable[[], None]:
        if layout.intra_op not in sessions:
            options = ort.SessionOptions()
            options.intra_op_num_threads = layout.intra_op
            sessions[layout.intra_op] = ort.InferenceSession(
                os.environ["MODEL"], options, providers=["CPUExecutionProvider"]
            )
        session = sessions[layout.intra_op]
        x = np.random.default_rng(1).random((layout.batch, *SHAPE)).astype(np.float32)
        if file is None:
            return lambda: session.run(None, {"x": x})
        return lambda: session.run(None, {"x": np.stack([row(file) for _ in range(layout.batch)])})

    for line in sys.stdin:
        asked = json.loads(line)
        seconds = asked.pop("seconds")
        layout = Layout(**asked)
        run = work(layout)
        run()
        print(_rate(run, layout, seconds), flush=True)


def _rate(run: Callable[[], None], layout: Layout, seconds: float) -> float:
    counts = [0] * layout.threads
    began = time.monotonic()

    def go(i: int) -> None:
        while time.monotonic() < began + seconds:
            run()
            counts[i] += layout.batch

    threads = [threading.Thread(target=go, args=(i,)) for i in range(layout.threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.monotonic() - began)


if __name__ == "__main__":
    main()
