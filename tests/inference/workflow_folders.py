"""Repositories with workflows, and what `podpair-inference` says of them."""

from pathlib import Path
from typing import Any

import yaml
from click.testing import CliRunner, Result

from podpair.inference.cli.main import main

ECHO = "class Echo:\n    def predict(self, batch):\n        return list(batch)\n"
STEPS = "import os\n\ndef search(given):\n    return given\n\ndef end(given):\n    os._exit(3)\n"
SEARCH = {"step": "search"}


def write(folder: Path, declaration: Any, steps: str | None = STEPS, version: int = 1) -> Path:
    """Write a workflow: a declaration, or the text of its file."""
    where = folder / str(version)
    where.mkdir(parents=True, exist_ok=True)
    (where / "workflow.yaml").write_text(declaration if isinstance(declaration, str) else yaml.safe_dump(declaration))
    if steps is not None:
        (where / "steps.py").write_text(steps)
    return folder


def write_model(folder: Path, *versions: int) -> None:
    for version in versions or (1,):
        (folder / str(version)).mkdir(parents=True)
        (folder / str(version) / "model.py").write_text(ECHO)
    (folder / "model.yaml").write_text("runtime: {process: false}\n")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])
