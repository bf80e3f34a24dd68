"""A real Kubernetes of one node, made of plain processes: API server, etcd, controllers, kubelet, containerd, kube-proxy, DNS.

It has a network of its own, in which alone its pods, services and API server have addresses. Nothing leads out of it: images
are loaded, not pulled. All of it ends with one process (harness.namespaces). The autoscaler looks every five seconds.
"""

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from string import Template
from typing import Any

from harness.images import archive
from harness.kubernetes import NODE, VERSION, Cluster, Refused, programs
from harness.machine import require, require_root
from harness.namespaces import Namespaces
from harness.processes import Child
from harness.waiting import until

_FILES = Path(__file__).parent / "node_files"
_PAUSE = "registry.k8s.io/pause:3.6"
_PLUGINS = Path("/usr/lib/cni")
_NAME = "node-1"


class Node(Cluster):
    """The running node. `address` is where pods reach what runs beside them in its network."""

    address = "10.244.255.1"

    def __init__(self) -> None:
        require_root()
        self._etcd, self._containerd, self._ctr, *_ = require(
            *("etcd", "containerd", "ctr", "runc", "iptables", "ip", "conntrack", str(_PLUGINS / "bridge"))
        )
        self._programs = programs(*NODE)
        self._state = Path(tempfile.mkdtemp(prefix="podpair-node-"))
        self._cgroup = self._state.name
        self._write_files()
        self._namespaces = Namespaces(self._network(), network=True)
        super().__init__(self._state / "kube" / "super-admin.conf", self._namespaces.network)
        self._children: dict[str, Child] = {}
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    # --- starting ---

    def _write_files(self) -> None:
        names = {"STATE": str(self._state), "ADDRESS": self.address, "NAME": _NAME, "VERSION": VERSION}
        names |= {"PAUSE": _PAUSE, "CGROUP": self._cgroup}
        (self._state / "cni").mkdir()
        for file in _FILES.iterdir():
            if file.suffix != ".go":
                folder = self._state / "cni" if file.suffix == ".conflist" else self._state
                (folder / file.name).write_text(Template(file.read_text()).substitute(names))
        (self._state / "resolv.conf").write_text(f"nameserver {self.address}\n")

    def _network(self) -> str:
        steps = [
            # Names that lead nowhere are refused at once, rather than asked of a server that can't be reached.
            f"test -L /etc/resolv.conf || mount --bind {self._state}/resolv.conf /etc/resolv.conf",
            "mount -t tmpfs none /run",  # the sockets of containerd's shims
            "ip link set lo up",
            "ip link add node type bridge",
            f"ip addr add {self.address}/24 dev node",
            "ip link set node up",
            "ip route add default dev node",  # Kubernetes looks for a default route; nothing answers behind it
            "echo 1 > /proc/sys/net/ipv4/ip_forward",
        ]
        return "; ".join(steps)

    def _start(self) -> None:
        for what in (("certs", "all"), ("kubeconfig", "all", "--kubeconfig-dir", str(self._state / "kube"))):
            self._namespaces.run(
                self._programs / "kubeadm", "init", "phase", *what, "--config", self._state / "kubeadm.yaml"
            )
        clients = "http://127.0.0.1:2379"
        self._child(
            *("etcd", self._etcd, "--data-dir", self._state / "etcd", "--unsafe-no-fsync"),
            *("--listen-client-urls", clients, "--advertise-client-urls", clients),
        )
        self._child("kube-apiserver", *self._api_server())
        until(self._answers, lambda: self._said("kube-apiserver"), timeout=120)
        self.kubectl(
            *("create", "clusterrolebinding", "kubeadm:cluster-admins"),
            *("--clusterrole=cluster-admin", "--group=kubeadm:cluster-admins"),
        )
        self._child("kube-controller-manager", *self._controller_manager())
        self._child("kube-scheduler", f"--kubeconfig={self._state}/kube/scheduler.conf", "--leader-elect=false")
        self._child("containerd", self._containerd, "--config", self._state / "containerd.toml")
        until(self._takes_images, lambda: self._said("containerd"))
        self._load_pause()
        self._child("coredns", "-conf", self._state / "Corefile")
        for hierarchy in _hierarchies():
            (hierarchy / self._cgroup).mkdir()
        self._child(
            *("kubelet", f"--config={self._state}/kubelet.yaml", f"--kubeconfig={self._state}/kube/kubelet.conf"),
            *(f"--hostname-override={_NAME}", f"--node-ip={self.address}"),
            *(f"--root-dir={self._state}/kubelet", f"--cert-dir={self._state}/kubelet-pki"),
        )
        self._child("kube-proxy", f"--config={self._state}/kube-proxy.yaml")
        until(self._ready, lambda: self._said("kubelet"), timeout=120)

    def _child(self, name: str, *arguments: str | Path) -> None:
        """Start a component: one of Kubernetes' programs, or a program of the machine that the first argument names."""
        program = [self._programs / name] if (self._programs / name).exists() else []
        self._children[name] = self._namespaces.start(*program, *arguments)

    def _api_server(self) -> list[str]:
        pki = f"{self._state}/pki"
        return [
            f"--advertise-address={self.address}",
            "--secure-port=6443",
            "--etcd-servers=http://127.0.0.1:2379",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            f"--client-ca-file={pki}/ca.crt",
            f"--tls-cert-file={pki}/apiserver.crt",
            f"--tls-private-key-file={pki}/apiserver.key",
            f"--kubelet-client-certificate={pki}/apiserver-kubelet-client.crt",
            f"--kubelet-client-key={pki}/apiserver-kubelet-client.key",
            "--kubelet-preferred-address-types=InternalIP",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={pki}/sa.pub",
            f"--service-account-signing-key-file={pki}/sa.key",
            # Aggregated APIs, as the operator's external metrics are.
            f"--requestheader-client-ca-file={pki}/front-proxy-ca.crt",
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-username-headers=X-Remote-User",
            f"--proxy-client-cert-file={pki}/front-proxy-client.crt",
            f"--proxy-client-key-file={pki}/front-proxy-client.key",
            "--enable-aggregator-routing=true",
            "--feature-gates=HPAScaleToZero=true",
            f"--audit-policy-file={self._state}/audit.yaml",
            f"--audit-log-path={self._state}/audit.log",
        ]

    def _controller_manager(self) -> list[str]:
        kubeconfig, pki = f"{self._state}/kube/controller-manager.conf", f"{self._state}/pki"
        return [
            *(f"--{use}kubeconfig={kubeconfig}" for use in ("", "authentication-", "authorization-")),
            "--bind-address=127.0.0.1",
            "--leader-elect=false",
            "--use-service-account-credentials=true",
            f"--service-account-private-key-file={pki}/sa.key",
            f"--root-ca-file={pki}/ca.crt",
            f"--cluster-signing-cert-file={pki}/ca.crt",
            f"--cluster-signing-key-file={pki}/ca.key",
            "--horizontal-pod-autoscaler-sync-period=5s",
            "--horizontal-pod-autoscaler-cpu-initialization-period=20s",
            "--horizontal-pod-autoscaler-initial-readiness-delay=5s",
        ]

    def _load_pause(self) -> None:
        (go,) = require("go")
        kept = self._programs / "pause"
        if not kept.exists():
            with tempfile.TemporaryDirectory(prefix="podpair-pause-") as folder:
                command = [
                    go,
                    "build",
                    "-trimpath",
                    "-ldflags=-s -w",
                    "-o",
                    f"{folder}/pause",
                    str(_FILES / "pause.go"),
                ]
                subprocess.run(command, env=os.environ | {"CGO_ENABLED": "0"}, check=True)
                shutil.move(f"{folder}/pause", kept)
        with tempfile.TemporaryDirectory(prefix="podpair-pause-") as folder:
            root = Path(folder) / "root"
            root.mkdir()
            shutil.copy(kept, root)
            image = Path(folder) / "image.tar"
            image.write_bytes(archive(root, _PAUSE, "/pause"))
            self.load(image)

    # --- what tells that it has started ---

    def _answers(self) -> bool:
        try:
            return self.kubectl("get", "--raw=/readyz") == "ok"
        except Refused:
            return False

    def _takes_images(self) -> bool:
        return subprocess.run(self._containerd_client("version"), capture_output=True, check=False).returncode == 0

    def _ready(self) -> bool:
        nodes = self.read("nodes")["items"]
        conditions = [one for node in nodes for one in node["status"].get("conditions", [])]
        return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

    def _said(self, name: str) -> str:
        return f"{name}:\n" + "\n".join(self._children[name].lines[-20:])

    # --- while it runs ---

    def _containerd_client(self, *arguments: str) -> list[str]:
        return [self._ctr, "--address", str(self._state / "containerd.sock"), "--namespace", "k8s.io", *arguments]

    def load(self, images: Path) -> None:
        """Images that pods may use from now on: a file that `docker save` wrote."""
        done = subprocess.run(
            self._containerd_client("images", "import", str(images)), capture_output=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"ctr images import: {done.stderr.decode(errors='replace')[-2000:]}")

    def writes(self) -> list[dict[str, Any]]:
        """Every write that the API server was asked for so far, as its audit events; none of events and leases."""
        lines = (self._state / "audit.log").read_text().splitlines()
        return [json.loads(line) for line in lines if line.endswith("}")]

    def said(self, lines: int = 20) -> str:
        """The last that each component has logged."""
        return "\n\n".join(f"{name}:\n" + "\n".join(c.lines[-lines:]) for name, c in self._children.items())

    def stop(self) -> None:
        """End all of it and forget its state."""
        self._namespaces.close()
        for hierarchy in _hierarchies():
            for folder, _, _ in os.walk(hierarchy / self._cgroup, topdown=False):
                Path(folder).rmdir()
        shutil.rmtree(self._state, ignore_errors=True)


def _hierarchies() -> list[Path]:
    """The cgroup hierarchies: one each controller, or one in all (version 2)."""
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").exists():
        return [root]
    return [folder for folder in root.iterdir() if folder.is_dir() and not folder.is_symlink()]
