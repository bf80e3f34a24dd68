"""Diagnoses a resource's pods from its Deployment, ReplicaSets and pods: what is wrong, and what to do.

A message has no values that change by themselves, no counts and no times: it is compared with the last one.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from podpair.operator.core.builders.naming import Manifest

# A kubelet alternates between them; the reason stays.
_PULL = dict.fromkeys(("ErrImagePull", "ImagePullBackOff", "RegistryUnavailable"), "ImagePullBackOff")
_PULL |= {one: one for one in ("InvalidImageName", "ErrImageNeverPull")}
_CONFIG = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}
_REVISION = "deployment.kubernetes.io/revision"
_OUT_OF_MEMORY = 137
_MOST = 3  # problems that are reported at a time


class Problem(NamedTuple):
    """One thing that is wrong: a reason that programs can rely on, and for people what, where, and what to do."""

    reason: str
    message: str


def diagnose(deployment: Manifest | None, replica_sets: Iterable[Manifest], pods: Sequence[Manifest]) -> list[Problem]:
    """Return the problems of the newest template's pods, the most telling first, each once."""
    newest = _newest(replica_sets)
    running = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"] and _of(pod, newest)]
    found = {one.message: one for one in _refused(deployment, newest)}
    for pod in sorted(running, key=lambda pod: pod["metadata"]["name"]):
        for one in _pod(pod):  # a problem of many pods is reported for the first
            found.setdefault(one.message.replace(pod["metadata"]["name"], ""), one)
    return list(found.values() or stalled_rollout(deployment))[:_MOST]


def _newest(replica_sets: Iterable[Manifest]) -> Manifest | None:
    def revision(one: Manifest) -> int:
        number = (one["metadata"].get("annotations") or {}).get(_REVISION, "0")
        return int(number) if number.isdecimal() else 0

    return max(replica_sets, key=revision, default=None)


def _of(pod: Manifest, replica_set: Manifest | None) -> bool:
    if replica_set is None:
        return True
    owners = pod["metadata"].get("ownerReferences") or []
    return any(owner.get("uid") == replica_set["metadata"].get("uid") for owner in owners)


def _refused(deployment: Manifest | None, newest: Manifest | None) -> Iterator[Problem]:
    """Pods that the API server did not take: quota, permissions, Pod Security."""
    for one in (newest, deployment):
        for condition in ((one or {}).get("status") or {}).get("conditions") or []:
            if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
                message = condition.get("message", "")
                quota = "exceeded quota" in message
                advice = "raise the quota, or lower scaling or resources" if quota else "correct what it names"
                yield Problem("QuotaExceeded" if quota else "FailedCreate", f"pods can't be made: {message}: {advice}")
                return


def stalled_rollout(deployment: Manifest | None) -> Iterator[Problem]:
    """Yield the problem of a rollout that exceeded its deadline."""
    for condition in ((deployment or {}).get("status") or {}).get("conditions") or []:
        if condition["type"] == "Progressing" and condition.get("reason") == "ProgressDeadlineExceeded":
            yield Problem("ProgressDeadlineExceeded", f"the rollout makes no progress: {condition.get('message', '')}")


def _pod(pod: Manifest) -> Iterator[Problem]:
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    for condition in status.get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            yield Problem(
                "Unschedulable",
                f"pod {name} has no node: {condition.get('message', 'no reason given').rstrip('.')}:"
                " add nodes, or ask for less (inference.resources, topologySpread);"
                " in a rollout let an old pod go first (rollout.maxSurge: 0, maxUnavailable: 1)",
            )
            return
    if status.get("phase") == "Failed":
        yield Problem(
            "PodFailed", f"pod {name} failed: {status.get('reason', '')} {status.get('message', '')}".rstrip()
        )
        return
    containers = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    for container in containers:
        if problem := _container(name, container):
            yield problem
            return


def _container(pod: str, container: dict[str, Any]) -> Problem | None:
    name, state = container["name"], container.get("state") or {}
    waiting = state.get("waiting") or {}
    reason, said = waiting.get("reason", ""), waiting.get("message", "")
    where = f"pod {pod}: container {name}"
    last = (container.get("lastState") or {}).get("terminated") or state.get("terminated")
    if reason in _PULL:
        image = container.get("image", "")
        return Problem(
            _PULL[reason], f"{where}: image {image} can't be pulled{_colon(_short(said))}: {_pull_advice(name)}"
        )
    if reason in _CONFIG:
        return Problem(reason, f"{where} can't be started: {said or reason}: {_start_advice(name, said)}")
    if last is not None and container.get("restartCount", 0) + ("terminated" in state) > 0 and not _well(container):
        return _ended(where, pod, name, last, reason)
    return None


def _well(container: dict[str, Any]) -> bool:
    """Return whether the container runs again, and has passed its startup probe and readiness."""
    state = container.get("state") or {}
    return "running" in state and bool(container.get("started")) and bool(container.get("ready"))


def _ended(where: str, pod: str, name: str, last: dict[str, Any], waiting: str) -> Problem:
    code, why = last.get("exitCode"), last.get("reason", "")
    logs = f"kubectl logs {pod} -c {name} --previous"
    if why == "OOMKilled":
        return Problem("OOMKilled", f"{where} was killed for memory: raise its limit ({name}.resources.limits.memory)")
    if name == "inference" and code in (_OUT_OF_MEMORY, 143) and waiting != "CrashLoopBackOff":
        return Problem(
            "ModelNotReady",
            f"{where} was ended because it did not answer its probes in time: see {logs}, or give it longer"
            " (inference.probes.startup); if its server isn't podpair-inference, say so (inference.server: other)",
        )
    return Problem("CrashLoopBackOff", f"{where} keeps ending, last with exit code {code}: see {logs}")


def _pull_advice(container: str) -> str:
    field = "inference.image" if container == "inference" else "gateway.image"
    return f"correct {field}, or name the registry's Secret in inference.imagePullSecrets"


def _start_advice(container: str, said: str) -> str:
    """Return what to do: an image's user that is root, or has a name, fails the kubelet's check for non-root."""
    if container == "inference" and "runAsNonRoot" in said:
        return "set inference.runAsUser to the number of a user that it can run as"
    return "correct what it names"


def _short(said: str) -> str:
    """Return what the kubelet says, without the wait that it adds and that differs each time."""
    said = re.sub(r"^Back-off pulling image \"[^\"]*\":? ?", "", said).removeprefix("ErrImagePull: ")
    return said if len(said) <= 300 else said[:300] + "…"


def _colon(text: str) -> str:
    return f": {text}" if text else ""
