"""A namespace for one test: its objects, a pod with clients in it, and what one would look at where something is wrong."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from e2e.stage import Stage
from harness.kubernetes import Refused
from harness.pair import SECRET
from harness.processes import ROOT, Child
from harness.resources import resource
from harness.waiting import until
from podpair.operator.core.policy import LABEL

HERE = Path(__file__).parent
DIGIT: list[Any] = json.loads((ROOT / "examples/digits/request.json").read_text())["inputs"]
"""A drawn 1."""

#: The tests' machine may be so busy that a probe's own process takes long to start.
_PATIENT: dict[str, Any] = {
    "startup": {"period": "1s", "timeout": "30s", "failureThreshold": 300},
    "liveness": {"period": "30s", "timeout": "30s", "failureThreshold": 10},
}
#: What others write beside every Pod, Service and Deployment, and take away in their own time.
_OTHERS = {"events", "events.events.k8s.io"}


def everything(stage: Stage, namespace: str) -> set[str]:
    """All objects of a namespace, as kind/name."""
    kinds = stage.cluster.kubectl("api-resources", "--namespaced", "--verbs=list", "-o", "name").split()
    wanted = ",".join(kind for kind in kinds if kind not in _OTHERS)
    return set(stage.cluster.kubectl("-n", namespace, "get", wanted, "-o", "name").split())


class Space:
    """A namespace of a test's own, where pods must pass the restricted Pod Security Standard, with a client's pod in it."""

    def __init__(self, stage: Stage, name: str) -> None:
        self.stage = stage
        self.name = name
        self._following: list[Child] = []
        labels = {"pod-security.kubernetes.io/enforce": "restricted", "podpair.dev/test": "e2e"}
        stage.cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})

    # --- objects ---

    def apply(self, *objects: dict[str, Any]) -> None:
        """kubectl apply, in this namespace. Raises Refused."""
        self.stage.cluster.apply(*objects, options=("--server-side", "-n", self.name))

    def kubectl(self, *arguments: str, given: str | None = None) -> str:
        """What kubectl prints. Raises Refused."""
        return self.stage.cluster.kubectl("-n", self.name, *arguments, given=given)

    def read(self, *what: str) -> dict[str, Any] | None:
        """One object; None where there is none."""
        try:
            return self.stage.cluster.read(*what, "-n", self.name)
        except Refused as refused:
            if "NotFound" in str(refused):
                return None
            raise

    def items(self, *what: str) -> list[dict[str, Any]]:
        """The objects of a kind."""
        found: list[dict[str, Any]] = self.stage.cluster.read(*what, "-n", self.name)["items"]
        return found

    def everything(self) -> set[str]:
        """All objects of the namespace, as kind/name."""
        return everything(self.stage, self.name)

    def secret(self, name: str, **data: str) -> None:
        """Make a Secret, or change it. It may be shown to brokers."""
        metadata = {"name": name, "labels": {LABEL: "true"}}
        self.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data})

    def gateway(self, name: str = "digits", **changed: Any) -> dict[str, Any]:
        """The digits example at the tests' Kafka, small: one pod, two partitions. `changed` as for harness.resources."""
        least = {"requests": {"cpu": "10m", "memory": "64Mi"}}
        small: dict[str, Any] = {
            "gateway__resources": least,
            "gateway__drain": "2s",
            "inference__resources": least,
            "inference__probes": _PATIENT,
            "kafka__bootstrapServers": self.stage.kafka.address,
            "kafka__requests": {"partitions": 4},
            "kafka__results": {"partitions": 4},
            "scaling": {"min": 1, "max": 1},
        }
        return resource(name=name, **(small | changed))

    def jwt(self) -> None:
        """The Secret that the resources' gateways verify tokens with."""
        self.secret("digits-auth", secret=SECRET)

    def condition(self, kind: str, name: str = "digits") -> dict[str, str]:
        """A condition of a resource; `status` is Unknown where it has none."""
        conditions = ((self.read("igw", name) or {}).get("status") or {}).get("conditions") or []
        unknown = {"status": "Unknown", "reason": "", "message": ""}
        return next((one for one in conditions if one["type"] == kind), unknown)

    def ready(self, timeout: float, name: str = "digits") -> float:
        """Until all of a resource's pods are its newest and serve; returns the seconds that it took."""

        def serves() -> bool:
            generation = self.stage.cluster.read("igw", name, "-n", self.name)["metadata"]["generation"]
            status = (self.read("igw", name) or {}).get("status") or {}
            have, _, wanted = status.get("ready", "").partition("/")
            one = self.condition("Ready", name)
            return one["reason"] == "Serving" and one.get("observedGeneration") == generation and have == wanted

        return self.until(serves, f"{name} serves", timeout)

    # --- the client's pod ---

    def client(self) -> None:
        """Start the client's pod, and wait until it runs: the gateway's image, the scripts of `inside` and podpair.client."""
        scripts = [*(HERE / "inside").glob("*.py"), ROOT / "tests/harness/checking.py"]
        source = ROOT / "client/src"
        library = sorted((source / "podpair/client").glob("*.py"))
        data = {file.name: file.read_text() for file in scripts}
        data |= {f"client-{file.name}": file.read_text() for file in library}
        # The keys of a ConfigMap have no folders; where each file stands is the volume's to say.
        items = [{"key": file.name, "path": file.name} for file in scripts]
        items += [{"key": f"client-{file.name}", "path": str(file.relative_to(source))} for file in library]
        confined = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        container = {
            "name": "client",
            "image": self.stage.images.gateway,
            "imagePullPolicy": "IfNotPresent",
            "command": ["sleep", "infinity"],
            "securityContext": confined,
            "volumeMounts": [{"name": "scripts", "mountPath": "/scripts"}],
        }
        spec = {
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
            "volumes": [{"name": "scripts", "configMap": {"name": "client", "items": items}}],
        }
        self.apply(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "client"}, "data": data},
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "client"}, "spec": spec},
        )
        self.kubectl("wait", "pod/client", "--for=condition=Ready", "--timeout=180s")

    def _script(self, name: str, arguments: dict[str, Any]) -> tuple[str, ...]:
        return ("exec", "client", "--", "python3", f"/scripts/{name}.py", json.dumps(arguments))

    def run(self, script: str, **arguments: Any) -> Any:
        """What a script of `inside` prints, run in the client's pod; the arguments are given to it as JSON. Raises Refused."""
        return json.loads(self.kubectl(*self._script(script, arguments)))

    def start(self, script: str, **arguments: Any) -> Child:
        """The same, running: each line that it prints, the result being the last, can be waited for."""
        return self.follow(*self._script(script, arguments))

    def follow(self, *arguments: str) -> Child:
        """A kubectl command, running: its lines can be waited for."""
        command = self.stage.cluster.command("-n", self.name, *arguments)
        self._following.append(Child("sh", "-c", 'exec "$@" >&2', "sh", *command, env=self.stage.cluster.environment))
        return self._following[-1]

    # --- waiting ---

    def until(self, condition: Callable[[], Any], what: str, timeout: float) -> float:
        """Until it is so; returns the seconds that it took. Raises AssertionError, telling what was waited for."""
        begun = time.monotonic()
        until(condition, lambda: f"{self.name}: {what}\n\n{self.story()}", timeout)
        return time.monotonic() - begun

    def story(self) -> str:
        """What one would look at to find out why."""
        asked = [
            ("get", "igw,deployments,pods,hpa", "-o", "wide"),
            ("describe", "igw"),
            ("get", "events", "--sort-by=.lastTimestamp"),
            ("logs", "-l", "app.kubernetes.io/name=podpair", "--all-containers", "--prefix", "--tail=15"),
        ]
        told = []
        for arguments in asked:
            try:
                told.append(f"$ kubectl {' '.join(arguments)}\n{self.kubectl(*arguments)}")
            except Refused as refused:
                told.append(f"$ kubectl {' '.join(arguments)}\n{refused}")
        return "\n".join(told)

    def delete(self) -> None:
        """Let it go; nobody waits for that."""
        for child in self._following:
            child.kill()
        self.stage.cluster.kubectl("delete", "namespace", self.name, "--wait=false")
