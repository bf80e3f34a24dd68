"""What users of the Python client install, and the page that they read."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: Prints which other distributions an import of the client brings into the process.
_IMPORTED = """
import sys
import podpair.client
from importlib.metadata import packages_distributions
roots = {name.partition(".")[0] for name in sys.modules}
print(*sorted({one for name, owners in packages_distributions().items() if name in roots for one in owners}))
print(*sorted(name for name in sys.modules if name.startswith("podpair.") and not name.startswith("podpair.client")))
"""


def test_it_needs_aiohttp_and_msgspec_only() -> None:
    project = tomllib.loads((ROOT / "client/pyproject.toml").read_text())["project"]
    assert [name.split(">")[0] for name in project["dependencies"]] == ["aiohttp", "msgspec"]


@pytest.mark.process
def test_it_imports_nothing_of_the_gateway() -> None:
    distributions, ours = subprocess.run(
        [sys.executable, "-I", "-c", _IMPORTED], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    assert ours == ""
    assert not {"confluent-kafka", "grpcio", "pydantic", "prometheus_client", "PyJWT"} & set(distributions.split())


@pytest.mark.process
def test_the_reference_is_what_the_docstrings_say() -> None:
    """docs/client-reference.md is made by `make reference`."""
    made = subprocess.run(
        [sys.executable, "client/reference.py"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    assert (ROOT / "docs/client-reference.md").read_text() == made
