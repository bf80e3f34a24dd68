"""Container images where no image registry may be reached: a dockerd of the tests' own, and the project's images made with it.

What it has built stays below the folder that PODPAIR_TEST_CACHE names (else `.cache`), for the next run.
"""

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from harness.cache import cache
from harness.machine import require
from harness.namespaces import Namespaces
from harness.processes import ROOT

#: What the project's Dockerfiles are built on.
BASE = "python:3.11-slim"
_RELEASE = "bookworm"  # Debian's release whose Python that is
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


def archive(root: Path, tag: str, entrypoint: str | None = None) -> bytes:
    """A folder as an image of one layer, in the form that `docker load` and `ctr images import` read."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as layer:
        layer.add(root, arcname=".")
    layer_bytes = buffer.getvalue()
    path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    config = json.dumps(
        {
            "architecture": "amd64" if os.uname().machine == "x86_64" else "arm64",
            "os": "linux",
            "config": {"Entrypoint": [entrypoint] if entrypoint else None, "Env": [path]},
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer_bytes).hexdigest()]},
        }
    ).encode()
    config_name = hashlib.sha256(config).hexdigest() + ".json"
    manifest = json.dumps([{"Config": config_name, "RepoTags": [tag], "Layers": ["layer.tar"]}]).encode()
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as image:
        for name, data in ((config_name, config), ("layer.tar", layer_bytes), ("manifest.json", manifest)):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            image.addfile(info, io.BytesIO(data))
    return whole.getvalue()


class Docker:
    """The machine's docker."""

    _flags = ""

    def __init__(self) -> None:
        (self._docker,) = require("docker")
        #: For docker and make.
        self.environment = dict(os.environ)

    def docker(self, *arguments: str, given: bytes | None = None) -> bytes:
        """What a docker command prints. Raises RuntimeError with what it said."""
        done = subprocess.run(
            [self._docker, *arguments], input=given, env=self.environment, capture_output=True, check=False
        )
        if done.returncode:
            said = (done.stdout[-2000:] + done.stderr[-2000:]).decode(errors="replace")
            raise RuntimeError(f"docker {' '.join(arguments)}: {said}")
        return done.stdout

    def images(self, tag: str) -> None:
        """`make images`. Raises RuntimeError with the end of the build's log."""
        done = subprocess.run(
            ["make", "images", f"IMAGE_TAG={tag}", f"DOCKER_FLAGS={self._flags}"],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"make images: {done.stdout[-3000:]}")


class PrivateDocker(Docker):
    """A running dockerd that shares nothing with the machine's own. Builds use the machine's network."""

    _flags = "--network=host"

    def __init__(self) -> None:
        super().__init__()
        dockerd, _ = require("dockerd", "containerd")
        self._run = Path(tempfile.mkdtemp(prefix="podpair-docker-"))
        host = f"unix://{self._run / 'docker.sock'}"
        # The classic builder: BuildKit is not everywhere where docker is.
        self.environment |= {"DOCKER_HOST": host, "DOCKER_BUILDKIT": "0"}
        self._namespaces = Namespaces(network=False)
        data = cache() / "docker"
        data.mkdir(parents=True, exist_ok=True)
        self._daemon = self._namespaces.start(
            *(dockerd, "--host", host, "--data-root", data.resolve(), "--exec-root", self._run / "exec"),
            *("--pidfile", self._run / "pid", "--bridge=none", "--iptables=false"),
        )
        self._daemon.wait_for(lambda line: "API listen on" in line)

    def base(self) -> None:
        """The base image: the one that is here, else from a registry, else made of Debian's packages."""
        if self.docker("images", "--quiet", BASE).strip():
            return
        try:
            self.docker("pull", "--quiet", BASE)
        except RuntimeError:
            (debootstrap,) = require("debootstrap")
            self.docker("load", given=_bootstrapped(debootstrap))

    def close(self) -> None:
        """End it, in its own time: what it has built must be whole the next time."""
        self._namespaces.run("kill", (self._run / "pid").read_text())
        self._daemon.process.wait(30)
        self._namespaces.close()
        shutil.rmtree(self._run, ignore_errors=True)


def _bootstrapped(debootstrap: str) -> bytes:
    """Debian with its own Python, trusting what this machine trusts."""
    with tempfile.TemporaryDirectory(prefix="podpair-base-") as folder:
        root = Path(folder) / "root"
        wanted = "python3,python3-venv,python3-pip,ca-certificates"
        done = subprocess.run(
            [debootstrap, "--variant=minbase", f"--include={wanted}", _RELEASE, str(root)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"debootstrap: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        if _CERTIFICATES.exists():
            shutil.copyfile(_CERTIFICATES, root / _CERTIFICATES.relative_to("/"))
        (root / "usr/bin/python").symlink_to("python3")
        for marker in root.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
            marker.unlink()
        for unneeded in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale"):
            shutil.rmtree(root / unneeded, ignore_errors=True)
        return archive(root, BASE)
