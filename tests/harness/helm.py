"""Helm 3 and 4, built from their Go modules on first use (about 80 s on two cores) and kept beside the Kubernetes programs."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from harness.go import installed
from harness.kubernetes import Cluster
from harness.processes import ROOT

VERSION = "3.22.0"
VERSION_4 = "4.3.1"
KUBERNETES = "37"  # the minor version that it was made for
CHARTS = ROOT / "charts"


def program_4() -> Path:
    """The path of Helm 4, for what it does at a cluster."""
    return installed("helm", VERSION_4, f"helm.sh/helm/v4/cmd/helm@v{VERSION_4}")


def program() -> Path:
    """The path of helm."""
    # As Helm's Makefile does: without the last four it takes every cluster that it can't ask for Kubernetes 1.20.
    stamps = {"internal/version.version": f"v{VERSION}"}
    for package in ("pkg/lint/rules", "pkg/chartutil"):
        stamps |= {f"{package}.k8sVersionMajor": "1", f"{package}.k8sVersionMinor": KUBERNETES}
    flags = " ".join(f"-X helm.sh/helm/v3/{name}={value}" for name, value in stamps.items())
    return installed("helm", VERSION, "-ldflags", f"-s -w {flags}", f"helm.sh/helm/v3/cmd/helm@v{VERSION}")


class Failed(Exception):
    """helm failed; the text is what it said."""


class Helm:
    """Helm, at a cluster where one is given. What it keeps between calls is in `home`."""

    def __init__(self, home: Path, cluster: Cluster | None = None, program: Callable[[], Path] = program) -> None:
        path = os.environ["PATH"]
        # Without a cluster nothing may be asked of one that this machine happens to know.
        self._environment = cluster.environment if cluster else {"KUBECONFIG": str(home / "none"), "PATH": path}
        self._environment |= {"HOME": str(home)}
        self._command = [*(cluster.entrance if cluster else ()), str(program())]

    def __call__(self, *arguments: str | Path, values: dict[str, Any] | None = None) -> str:
        """What helm prints; `values` are given as a values file. Raises Failed."""
        done = subprocess.run(
            [*self._command, *arguments, *([] if values is None else ["--values", "-"])],
            input=None if values is None else yaml.safe_dump(values),
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise Failed(done.stdout + done.stderr)
        return done.stdout

    def template(self, chart: str, *arguments: str, values: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """The objects of a chart, as release `podpair` in namespace `podpair`. Raises Failed."""
        rendered = self("template", "podpair", CHARTS / chart, "--namespace", "podpair", *arguments, values=values)
        return [one for one in yaml.safe_load_all(rendered) if one]
