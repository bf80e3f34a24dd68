"""What this machine has: a test names what it needs, and is skipped by that name where it is missing.

With PODPAIR_TEST_REQUIRE=all nothing is skipped: what is missing fails.
"""

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

_INSTALL = {
    "java": "Java 17 (Debian: openjdk-17-jre-headless)",
    "javac": "Java 17 with its compiler (Debian: openjdk-17-jdk-headless)",
    "mvn": "Maven, for the broker's jars (Debian: maven)",
    "chromium": "Chromium (Debian: chromium)",
    "kcat": "kcat (Debian: kcat)",
    "prometheus": "Prometheus (Debian: prometheus)",
    "promtool": "Prometheus (Debian: prometheus)",
    "nginx": "nginx (Debian: nginx-light)",
    "haproxy": "HAProxy (Debian: haproxy)",
    "caddy": "Caddy (Debian: caddy)",
    "go": "Go, to build Kubernetes and producers",
    "curl": "curl (Debian: curl)",
    "node": "Node.js (Debian: nodejs)",
    "npm": "npm (Debian: npm)",
    "cargo": "Rust, to build producers (Debian: cargo)",
    "make": "make (Debian: make)",
    "/usr/lib/rabbitmq/bin/rabbitmq-server": "RabbitMQ (Debian: rabbitmq-server)",
    "epmd": "Erlang (Debian: rabbitmq-server)",
    "erl": "Erlang (Debian: rabbitmq-server)",
    "valgrind": "valgrind (Debian: valgrind)",
    "callgrind_control": "valgrind (Debian: valgrind)",
    "c++": "a C++ compiler, to build librdkafka (Debian: g++)",
    "etcd": "etcd (Debian: etcd-server)",
    "docker": "Docker (Debian: docker.io)",
    "dockerd": "Docker (Debian: docker.io)",
    "containerd": "containerd (Debian: containerd)",
    "ctr": "containerd (Debian: containerd)",
    "runc": "runc (Debian: runc)",
    "iptables": "iptables (Debian: iptables)",
    "ip": "ip (Debian: iproute2)",
    "conntrack": "conntrack (Debian: conntrack)",
    "debootstrap": "debootstrap, for a base image where no registry is reached (Debian: debootstrap)",
    "/usr/lib/cni/bridge": "CNI's plug-ins (Debian: containernetworking-plugins)",
    "libb64.so.0d": "libb64, which perf_analyzer is linked with (Debian: libb64-0d)",
    "nsenter": "nsenter (Debian: util-linux)",
    "unshare": "unshare (Debian: util-linux)",
}


def require(*programs: str) -> list[str]:
    """The paths of programs; skips the test, or fails it, naming what is missing."""
    found = [shutil.which(program) for program in programs]
    missing = [_INSTALL.get(p, p) for p, path in zip(programs, found, strict=True) if path is None]
    if missing:
        lacks(", ".join(dict.fromkeys(missing)))
    return [path for path in found if path is not None]


def require_library(name: str) -> None:
    """Skips the test, or fails it, where a shared library can't be loaded."""
    try:
        ctypes.CDLL(name)
    except OSError:
        lacks(_INSTALL.get(name, name))


def require_root() -> None:
    """Skips the test, or fails it, where namespaces can't be made."""
    if sys.platform != "linux":
        lacks("Linux")
    if os.geteuid() != 0:
        lacks("root")


def fetch(registry: str, *command: str | Path, cwd: Path, env: Mapping[str, str] | None = None) -> None:
    """Runs a command that only downloads, from `registry`; skips the test, or fails it, where nothing is reached.

    What is built afterwards, of what is there then, has to succeed everywhere.
    """
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True, errors="replace", timeout=900,
        check=False,
    )  # fmt: skip
    if done.returncode != 0:
        lines = (done.stderr + done.stdout).strip().splitlines()
        errors = [line.strip() for line in lines if "error" in line.lower()] or lines
        lacks(f"a way to {registry}: {'; '.join(errors[:4])[:500]}")


def lacks(what: str) -> None:
    """Skips the test, or fails it where nothing may be missing, naming `what` is."""
    message = f"this machine lacks {what}"
    if os.environ.get("PODPAIR_TEST_REQUIRE") == "all":
        pytest.fail(message)
    pytest.skip(message)
