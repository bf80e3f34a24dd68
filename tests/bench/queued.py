"""The queued route: WebSocket → gateway → Kafka → gateway → the model → Kafka → gateway → WebSocket.

One pair, one real broker and a tiny MLP on this machine; JSON requests of 64 floats with `route: queue`, 64 connections with
1, 16 and 64 requests open on each. The CPU of each process is recorded, per request.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.asking import arguments, run

if __name__ == "__main__":
    run(arguments(__doc__, "64x1,64x16,64x64").parse_args(), "queued", "queue")
