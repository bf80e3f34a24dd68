"""The CRDs of others, as their projects publish them: in their Go modules, from which they are taken at a pinned version."""

import json
import subprocess
import tempfile
from pathlib import Path

from harness.machine import lacks, require

# Module, version, its checksum as go.sum has it, and the files.
_MODULES = (
    (
        "sigs.k8s.io/gateway-api", "v1.3.0", "h1:q6okN+/UKDATola4JY7zXzx40WO4VISk7i9DIfOvr9M=",
        ("config/crd/standard/gateway.networking.k8s.io_httproutes.yaml",),
    ),
    (
        "github.com/kedacore/keda/v2", "v2.21.0", "h1:R6z2HZvstK4RLUMxroNACzBj74xGxt3kG59b5Xc+Xps=",
        ("config/crd/bases/keda.sh_scaledobjects.yaml", "config/crd/bases/keda.sh_triggerauthentications.yaml"),
    ),
    (
        "github.com/prometheus-operator/prometheus-operator", "v0.85.0",
        "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s=",
        tuple(
            f"example/prometheus-operator-crd/monitoring.coreos.com_{kind}.yaml"
            for kind in ("podmonitors", "prometheusrules")
        ),
    ),
)  # fmt: skip
NAMES = (
    "httproutes.gateway.networking.k8s.io",
    "scaledobjects.keda.sh",
    "triggerauthentications.keda.sh",
    "podmonitors.monitoring.coreos.com",
    "prometheusrules.monitoring.coreos.com",
)


def files() -> list[Path]:
    """Where they are. Skips the test, or fails it, where they can't be had."""
    (go,) = require("go")
    found = []
    for module, version, checksum, paths in _MODULES:
        with tempfile.TemporaryDirectory(prefix="podpair-crds-") as folder:
            done = subprocess.run(
                [go, "mod", "download", "-json", f"{module}@{version}"],
                cwd=folder, capture_output=True, text=True, timeout=600, check=False,
            )  # fmt: skip
        told = json.loads(done.stdout or "{}")
        if done.returncode or "Error" in told:
            lacks(f"a way to Go's modules: {told.get('Error') or done.stderr.strip()[-300:]}")
        assert told["Sum"] == checksum, f"{module} {version} is not the one that was pinned"
        found += [Path(told["Dir"]) / path for path in paths]
    return found
