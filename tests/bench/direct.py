"""The direct route: WebSocket → gateway → the model next door → WebSocket.

One pair on this machine and a tiny MLP behind it; JSON requests of 64 floats. Loads: one connection with one request open
(the latency alone), 64 connections with one open on each, 64 with 16. Gateway, model and load client share the machine; the
CPU of each is recorded, per request.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.asking import arguments, run

if __name__ == "__main__":
    run(arguments(__doc__, "1x1,64x1,64x16").parse_args(), "direct", "direct")
