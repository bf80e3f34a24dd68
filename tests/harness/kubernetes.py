"""A real Kubernetes API server: kube-apiserver and etcd alone, as child processes. No node: nothing runs, all is checked.

kube-apiserver and kubectl are built from Kubernetes' Go module on first use (about six minutes on two cores) and kept in
`.cache/kubernetes`, or below the folder that PODPAIR_TEST_CACHE names.
"""

import json
import os
import re
import secrets
import shutil
import ssl
import subprocess
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from harness.cache import cache, exclusive
from harness.certificates import Authority
from harness.machine import require
from harness.processes import Child, free_port
from harness.waiting import until

VERSION = "1.34.4"
COREDNS = "v1.12.4"
_MODULE = "k8s.io/kubernetes"
_API = ("kube-apiserver", "kubectl")
NODE = (*_API, "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubeadm", "coredns")


def programs(*wanted: str) -> Path:
    """The folder with these programs of Kubernetes (default: kube-apiserver and kubectl), built on first use."""
    folder = cache() / "kubernetes" / VERSION
    names = wanted or _API
    if all((folder / name).exists() for name in names):
        return folder
    (go,) = require("go")
    with exclusive(folder), tempfile.TemporaryDirectory(prefix="podpair-kubernetes-") as module:
        missing = [name for name in names if not (folder / name).exists()]
        out = Path(module) / "out"
        if ours := [name for name in missing if name != "coredns"]:
            _build(go, Path(module), ours)
        if "coredns" in missing:
            settings = {"GOBIN": str(out), "CGO_ENABLED": "0"}
            flags = ("-trimpath", "-ldflags=-s -w")
            _go(go, Path(module), "install", *flags, f"github.com/coredns/coredns@{COREDNS}", **settings)
        for name in missing:  # a copy that is cut off must not look like a program
            shutil.move(out / name, folder / f"{name}.part")
            (folder / f"{name}.part").rename(folder / name)
    return folder


def _go(go: str, folder: Path, *arguments: str, **settings: str) -> str:
    """What a go command prints. Raises RuntimeError."""
    done = subprocess.run(
        ["nice", go, *arguments], cwd=folder, env=os.environ | settings, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"go {' '.join(arguments)}: {done.stderr[-2000:]}")
    return done.stdout


def _build(go: str, module: Path, names: list[str]) -> None:
    """Kubernetes replaces its own libraries by relative paths; outside its tree each is the release of the same number."""
    source = Path(json.loads(_go(go, module, "mod", "download", "-json", f"{_MODULE}@v{VERSION}"))["Dir"])
    replaced = re.findall(r"^\t(k8s\.io/[a-z0-9-]+) => \./staging/", (source / "go.mod").read_text(), re.MULTILINE)
    lines = ["module build", "go 1.24.0", "godebug default=go1.24", f"require {_MODULE} v{VERSION}"]
    lines += [f"replace {name} => {name} v0.{VERSION.removeprefix('1.')}" for name in replaced]
    (module / "go.mod").write_text("\n".join(lines) + "\n")
    imports = [f'import _ "{_MODULE}/cmd/{name}/app"' for name in names if name != "kubectl"]
    imports = imports or [f'import _ "{_MODULE}/cmd/kube-apiserver/app"']
    (module / "build.go").write_text("\n".join(["package build", *imports]) + "\n")
    _go(go, module, "mod", "tidy", "-e")
    stamp = "k8s.io/component-base/version.git"
    _, minor, _ = VERSION.split(".")
    flags = f"-s -w -X {stamp}Version=v{VERSION} -X {stamp}Major=1 -X {stamp}Minor={minor}"
    packages = [f"{_MODULE}/cmd/{name}" for name in names]
    _go(go, module, "build", "-mod=mod", "-trimpath", "-ldflags", flags, "-o", "out/", *packages)


class Refused(Exception):
    """kubectl failed; the text is what it said."""


class Cluster:
    """A cluster as kubectl sees it with this kubeconfig. `entrance` is what a command begins with to reach it."""

    def __init__(self, kubeconfig: Path, entrance: tuple[str, ...] = ()) -> None:
        self.kubeconfig = kubeconfig
        self.entrance = entrance
        self._kubectl = programs("kubectl") / "kubectl"

    @property
    def environment(self) -> dict[str, str]:
        """For kubectl, helm and whatever else reads a kubeconfig; what they cache stays with the kubeconfig."""
        home = str(self.kubeconfig.parent)
        return {"KUBECONFIG": str(self.kubeconfig), "HOME": home, "PATH": os.environ["PATH"]}

    def command(self, *arguments: str) -> list[str]:
        """A kubectl command, to be run in `environment`."""
        return [*self.entrance, str(self._kubectl), *arguments]

    def kubectl(self, *arguments: str, given: str | None = None) -> str:
        """What kubectl prints; `given` is its standard input. Raises Refused."""
        done = subprocess.run(
            self.command(*arguments), input=given, env=self.environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise Refused(done.stderr)
        return done.stdout

    def apply(self, *objects: dict[str, Any], options: tuple[str, ...] = ("--server-side",)) -> str:
        """kubectl apply. Raises Refused."""
        return self.kubectl("apply", *options, "-f", "-", given=yaml.safe_dump_all(objects))

    def read(self, *arguments: str) -> dict[str, Any]:
        """kubectl get, as an object."""
        found: dict[str, Any] = json.loads(self.kubectl("get", *arguments, "-o", "json"))
        return found

    def await_kind(self, name: str) -> None:
        """Until the API server serves the kind of a CRD. kubectl wait fails where there are no conditions yet."""

        def served() -> bool:
            conditions = self.read("crd", name).get("status", {}).get("conditions") or []
            if not any((one["type"], one["status"]) == ("Established", "True") for one in conditions):
                return False
            try:
                self.kubectl("get", name, "--all-namespaces")
            except Refused:  # discovery follows a moment later
                return False
            return True

        until(served)


class ApiServer(Cluster):
    """A running API server at `url`, with more flags; what is stored in it goes with it. `kubeconfig` is an administrator's."""

    def __init__(self, *flags: str) -> None:
        (etcd,) = require("etcd")
        folder = programs()
        self._data = Path(tempfile.mkdtemp(prefix="podpair-kubernetes-"))
        self.front_proxy = Authority("front proxy")
        clients, peers, port = free_port(), free_port(), free_port()
        self.url = f"https://127.0.0.1:{port}"
        token = secrets.token_hex(16)
        self._etcd = Child(
            etcd,
            *(
                "--data-dir",
                self._data / "etcd",
                "--unsafe-no-fsync",
                "--listen-peer-urls",
                f"http://127.0.0.1:{peers}",
            ),
            *(f"--{part}-client-urls=http://127.0.0.1:{clients}" for part in ("listen", "advertise")),
        )
        private, public = self._service_account_keys()
        (self._data / "tokens.csv").write_text(f'{token},admin,admin,"system:masters"\n')
        self._server = Child(
            folder / "kube-apiserver",
            *(f"--etcd-servers=http://127.0.0.1:{clients}", f"--secure-port={port}", "--bind-address=127.0.0.1"),
            *("--advertise-address=127.0.0.1", f"--cert-dir={self._data / 'pki'}", "--authorization-mode=RBAC"),
            *(f"--token-auth-file={self._data / 'tokens.csv'}", "--service-cluster-ip-range=10.96.0.0/16"),
            *("--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={public}"),
            f"--service-account-signing-key-file={private}",
            # Nothing here makes the service account `default` that the plug-in wants in each namespace.
            "--disable-admission-plugins=ServiceAccount",
            *self._aggregation(),
            *flags,
        )
        super().__init__(self._data / "kubeconfig")
        self.kubeconfig.write_text(yaml.safe_dump(self._credentials(token)))
        self.authorization = f"Bearer {token}"
        until(self._ready, lambda: "\n".join(self._server.lines[-20:]), timeout=90)

    def _aggregation(self) -> list[str]:
        """APIs of other servers: how it shows those that it is the API server, and that it looks their endpoints up itself."""
        shown = self.front_proxy.issue("front-proxy-client")
        files = {"ca": self.front_proxy.certificate, "cert": shown.certificate, "key": shown.key}
        for name, text in files.items():
            (self._data / f"front-proxy-{name}.pem").write_text(text)
        return [
            f"--requestheader-client-ca-file={self._data / 'front-proxy-ca.pem'}",
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-username-headers=X-Remote-User",
            f"--proxy-client-cert-file={self._data / 'front-proxy-cert.pem'}",
            f"--proxy-client-key-file={self._data / 'front-proxy-key.pem'}",
            "--enable-aggregator-routing=true",
        ]

    def lead_to(self, namespace: str, service: str, address: str, port: int) -> None:
        """A Service (443) that leads to a process of this machine. Kubernetes takes no 127.0.0.1 there: see `own_address`."""
        ports = {"name": "https", "protocol": "TCP"}
        self.apply(
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": service, "namespace": namespace},
                "spec": {"ports": [{**ports, "port": 443}]},
            },
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "name": service,
                    "namespace": namespace,
                    "labels": {"kubernetes.io/service-name": service},
                },
                "addressType": "IPv4",
                "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
                "ports": [{**ports, "port": port}],
            },
        )

    def _service_account_keys(self) -> tuple[Path, Path]:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        private, public = self._data / "sa.key", self._data / "sa.pub"
        pem = serialization.Encoding.PEM
        plain = serialization.NoEncryption()
        private.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.TraditionalOpenSSL, plain))
        public.write_bytes(key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
        return private, public

    def _credentials(self, token: str) -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": self.url, "insecure-skip-tls-verify": True}}],
            "users": [{"name": "admin", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
            "current-context": "test",
        }

    def _ready(self) -> bool:
        try:
            self.get("/readyz")
        except (urllib.error.URLError, ConnectionError):
            return False
        return True

    def get(self, path: str) -> bytes:
        """GET of the API, as the administrator. Raises urllib.error.HTTPError."""
        context = ssl._create_unverified_context()
        request = urllib.request.Request(self.url + path, headers={"Authorization": self.authorization})
        with urllib.request.urlopen(request, timeout=10, context=context) as answer:
            return bytes(answer.read())

    def stop(self) -> None:
        """End it and forget what it stored."""
        self._server.kill()
        self._etcd.kill()
        shutil.rmtree(self._data, ignore_errors=True)
