"""What the operator owns stays as the resource says: against hands, against its own death; and it writes nothing in vain."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from e2e.installed import ACCOUNT, Installed
from e2e.space import Space
from e2e.stage import Stage

#: Twice what is promised: whoever runs this test may be slow, and times are whole seconds.
_RESTORED = timedelta(seconds=2 * 10)
_KINDS = "serviceaccounts,secrets,configmaps,services,networkpolicies,deployments,poddisruptionbudgets,hpa,ingresses"


def _owned(space: Space) -> dict[str, dict[str, Any]]:
    """The objects that belong to the resource, by kind/name."""
    found = {}
    for one in space.items(_KINDS, "--show-managed-fields"):
        owners = [owner["kind"] for owner in one["metadata"].get("ownerReferences", [])]
        if owners == ["InferenceGateway"]:
            found[f"{one['kind'].lower()}/{one['metadata']['name']}"] = one
    return found


def _meant(one: dict[str, Any]) -> dict[str, Any]:
    """What of an object is neither its history nor another's."""
    metadata = {name: one["metadata"].get(name) for name in ("name", "labels", "ownerReferences")}
    spec = {name: value for name, value in (one.get("spec") or {}).items() if not name.startswith("clusterIP")}
    return {"metadata": metadata, "spec": spec, "data": one.get("data")}


def _kept(one: dict[str, Any]) -> datetime:
    """When the operator last had to write an object."""
    times = [each["time"] for each in one["metadata"]["managedFields"] if each["manager"] == "podpair-operator"]
    return datetime.fromisoformat(max(times))


@pytest.fixture(scope="module")
def serving(stage: Stage, release: Installed) -> Iterator[Space]:
    """A resource with one object of every kind."""
    release.install()
    space = Space(stage, "e2e-drift")
    space.jwt()
    scaling = {"min": 1, "max": 2, "metrics": [{"lag": 100}]}
    space.apply(space.gateway(scaling=scaling, network={"ingress": {"host": "digits.example"}}))
    yield space
    space.delete()


@pytest.fixture
def pair(serving: Space) -> Space:
    """The same, serving."""
    serving.ready(240)
    return serving


def test_what_is_deleted_by_hand_is_back(pair: Space) -> None:
    before = _owned(pair)
    assert len(before) >= 8
    deleted = datetime.now(UTC).replace(microsecond=0)
    pair.kubectl("delete", *before, "--wait=false")

    def back() -> bool:
        now = _owned(pair)
        return now.keys() == before.keys() and not any(
            now[name]["metadata"]["uid"] == before[name]["metadata"]["uid"] or _meant(now[name]) != _meant(before[name])
            for name in now
        )

    pair.until(back, "every object is back, as it was", 180)
    assert max(map(_kept, _owned(pair).values())) - deleted <= _RESTORED


def test_what_is_edited_by_hand_is_put_back(pair: Space) -> None:
    before, edited = _owned(pair), {}

    def edit(name: str, *command: str) -> None:
        edited[name] = datetime.now(UTC).replace(microsecond=0)
        pair.kubectl(*command)

    for name in before:
        edit(name, "label", name, "app.kubernetes.io/name=other", "--overwrite")
    patches = {
        "configmap/digits-gateway": {"data": {"gateway.yaml": "http: {}"}},
        "service/digits": {"spec": {"ports": [{"port": 81}]}},
        "horizontalpodautoscaler/digits": {"spec": {"maxReplicas": 9}},
    }
    for name, patch in patches.items():
        edit(name, "patch", name, "--type=merge", "-p", json.dumps(patch))
    edit("deployment/digits", "set", "image", "deployment/digits", "gateway=registry.example/other:1")

    def restored() -> bool:
        now = _owned(pair)
        return {name: _meant(one) for name, one in now.items()} == {name: _meant(one) for name, one in before.items()}

    pair.until(restored, "every object is as it was", 180)
    for name, one in _owned(pair).items():
        assert timedelta(0) <= _kept(one) - edited[name] <= _RESTORED, name


def test_an_operator_killed_during_a_rollout_ends_it_when_it_is_back(
    stage: Stage, pair: Space, operator: Installed
) -> None:
    wanted = pair.gateway(scaling={"min": 2, "max": 3, "metrics": [{"lag": 50}]})
    wanted["spec"]["inference"]["image"] = stage.images.newer
    wanted["spec"]["inference"]["models"] = [{"name": "digits", "versions": [{"version": "2"}]}]
    pair.apply(wanted)

    def rolling() -> bool:
        pods = pair.items("pods", "-l", "podpair.dev/gateway=digits")
        return any(pod["spec"]["initContainers"][0]["image"] == stage.images.newer for pod in pods)

    pair.until(rolling, "the rollout has begun", 180)
    killed = operator.pods()
    operator.kill()
    pair.until(lambda: {*operator.pods()} - {*killed}, "another operator is there", 180)
    pair.ready(240)

    def finished() -> bool:
        deployment, hpa = pair.read("deployment", "digits"), pair.read("hpa", "digits")
        if deployment is None or hpa is None:
            return False
        (inference,) = deployment["spec"]["template"]["spec"]["initContainers"]
        replicas = hpa["spec"]["minReplicas"], hpa["spec"]["maxReplicas"]
        return inference["image"] == stage.images.newer and replicas == (2, 3) and pair.items("ingresses") == []

    pair.until(finished, "all of it is as wanted", 180)
    # While no operator was there, the autoscaler could not ask for the lag: that is told until it has asked again.
    pair.until(lambda: pair.condition("Degraded")["status"] == "False", "nothing is wrong any more", 180)


def test_an_unchanged_resource_causes_no_write(stage: Stage, pair: Space, operator: Installed) -> None:
    def looks() -> float:
        return operator.metric("controller_runtime_reconcile_total")

    def written_by_the_operator() -> dict[str, Any]:
        """By object. Kubernetes' own controllers write statuses, of an autoscaler say, in their own time."""
        (resource,) = pair.items("igw", "--show-managed-fields")
        return {
            name: [each for each in one["metadata"]["managedFields"] if each["manager"] == "podpair-operator"]
            for name, one in (_owned(pair) | {"igw": resource}).items()
        }

    def settled() -> bool:
        status = (pair.read("igw", "digits") or {}).get("status") or {}
        return pair.condition("Scaling")["status"] == "True" and {"lag", "sessions"} <= status.keys()

    pair.until(settled, "the autoscaler has looked, and the gateway was asked", 180)
    before, seen = written_by_the_operator(), looks()
    written = len(stage.node.writes()) if stage.node else 0
    # Two full rounds, besides what the watch sets off.
    pair.until(lambda: looks() >= seen + 3, "it has been looked at again", 180)
    assert written_by_the_operator() == before
    if stage.node is not None:
        writes = [one for one in stage.node.writes()[written:] if one["user"]["username"] == ACCOUNT]
        assert [one["requestURI"] for one in writes if f"/{pair.name}/" in one["requestURI"]] == []
