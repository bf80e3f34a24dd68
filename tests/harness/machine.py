"""What this machine has: a test names what it needs, and is skipped by that name where it is missing.

With PODPAIR_TEST_REQUIRE=all nothing is skipped: what is missing fails.
"""

import os
import shutil

import pytest

_INSTALL = {
    "java": "Java 17 (Debian: openjdk-17-jre-headless)",
    "mvn": "Maven, for the broker's jars (Debian: maven)",
    "chromium": "Chromium (Debian: chromium)",
    "kcat": "kcat (Debian: kcat)",
    "go": "Go, to build the Kubernetes API server",
    "etcd": "etcd (Debian: etcd-server)",
}


def require(*programs: str) -> list[str]:
    """The paths of programs; skips the test, or fails it, naming what is missing."""
    found = [shutil.which(program) for program in programs]
    missing = [_INSTALL.get(p, p) for p, path in zip(programs, found, strict=True) if path is None]
    if missing:
        message = f"this machine lacks {', '.join(missing)}"
        if os.environ.get("PODPAIR_TEST_REQUIRE") == "all":
            pytest.fail(message)
        pytest.skip(message)
    return [path for path in found if path is not None]
