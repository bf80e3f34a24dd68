"""`podpair-gateway`, whose loop counts Python's opcodes by function: from SIGUSR1 to SIGUSR2, which writes them to a file.

python tests/bench/counted_gateway.py FILE serve --config …
"""

import asyncio
import json
import signal
import sys
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from podpair.gateway import service
from podpair.gateway.cli.main import main
from podpair.gateway.metrics import Metrics
from podpair.gateway.sessions import replies


class Opcodes:
    """What the main thread runs."""

    def __init__(self, file: Path, metrics: Metrics) -> None:
        self._file = file
        self._metrics = metrics
        self._requests = 0.0
        self._opcodes: Counter[CodeType] = Counter()
        self._calls: Counter[CodeType] = Counter()

    def _accepted(self) -> float:
        """Requests so far, as the gateway counts them: direct ones with their answers, queued ones when the broker has them."""
        return sum(sample.value for family in self._metrics.requests.collect() for sample in family.samples)

    def begin(self) -> None:
        self._requests = self._accepted()
        sys.settrace(self._called)

    def end(self) -> None:
        sys.settrace(None)
        rows = [(code.co_filename, code.co_qualname, count, self._calls[code]) for code, count in self._opcodes.items()]
        part = self._file.with_suffix(".part")
        part.write_text(json.dumps([self._accepted() - self._requests, rows]))
        part.rename(self._file)

    def _called(self, frame: FrameType, event: str, _: Any) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        self._calls[frame.f_code] += 1
        return self._ran

    def _ran(self, frame: FrameType, event: str, _: Any) -> Any:
        if event == "opcode":
            self._opcodes[frame.f_code] += 1
        return self._ran


def run(file: Path) -> None:
    """Serve, with the signals in place."""
    begin = service.Service.__init__

    def with_signals(self: service.Service, *arguments: Any, **named: Any) -> None:
        begin(self, *arguments, **named)
        loop, counted = asyncio.get_running_loop(), Opcodes(file, self.metrics)
        loop.add_signal_handler(signal.SIGUSR1, counted.begin)
        loop.add_signal_handler(signal.SIGUSR2, counted.end)

    service.Service.__init__ = with_signals  # type: ignore[method-assign]
    # Counting is slow: an `accepted` that goes out by itself for that would be counted too.
    replies._ANNOUNCE = 60.0
    main()


if __name__ == "__main__":
    sys.argv[0] = "podpair-gateway"
    run(Path(sys.argv.pop(1)))
