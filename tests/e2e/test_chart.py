"""The charts over their life: upgraded while resources serve, tested, and uninstalled without taking anything of them."""

from pathlib import Path

from e2e.installed import NAMESPACE, RELEASE, Installed
from e2e.space import DIGIT, Space, everything
from e2e.stage import Stage
from harness.helm import CHARTS
from harness.pair import SECRET, token
from harness.waiting import until

_OPERATOR, _GATEWAY = CHARTS / "podpair-operator", CHARTS / "inference-gateway"
_CLUSTER_WIDE = (
    "apiservices,clusterroles,clusterrolebindings,mutatingwebhookconfigurations,validatingwebhookconfigurations"
)
#: What every namespace has, and what goes with the CRD.
_OTHERS = {
    "configmap/kube-root-ca.crt",
    "serviceaccount/default",
    "apiservice.apiregistration.k8s.io/v1alpha1.podpair.dev",
}


def _pods(space: Space) -> dict[str, str]:
    found = space.items("pods", "-l", "podpair.dev/gateway=digits")
    return {one["metadata"]["name"]: one["metadata"]["uid"] for one in found}


def _left(stage: Stage) -> set[str]:
    """What there is of the operator."""
    cluster_wide = stage.cluster.kubectl("get", _CLUSTER_WIDE, "-o", "name").split()
    named = {one for one in cluster_wide if "podpair" in one or "external.metrics" in one}
    return (named | everything(stage, NAMESPACE)) - _OTHERS


def _told_of(stage: Stage, left: set[str]) -> str:
    """What there is still, and who wrote or deleted it when, where the node is ours."""
    names = {one.partition("/")[2] for one in left}
    writes = [one for one in stage.node.writes() if one["objectRef"].get("name") in names] if stage.node else []
    told = [
        f"{one['requestReceivedTimestamp']} {one['verb']} {one['objectRef']['resource']} {one['objectRef']['name']}"
        f" {one['user']['username']} {one.get('responseStatus', {}).get('code')}"
        for one in writes[-40:]
    ]
    return "\n".join([f"of the operator there is still {sorted(left)}", *told])


def _keeps(space: Space, who: str) -> None:
    """An operator is at work: it restores what is taken away."""
    space.kubectl("delete", "service", "digits")
    space.until(lambda: space.read("service", "digits"), f"{who} is at work", 180)
    space.ready(180)


def test_removed_installed_and_upgraded_with_two_replicas_while_a_resource_serves(
    stage: Stage, space: Space, operator: Installed, tmp_path: Path
) -> None:
    space.client()
    space.jwt()
    space.apply(space.gateway())
    space.ready(180)
    pods = _pods(space)

    operator.uninstall()
    until(lambda: not _left(stage), lambda: _told_of(stage, _left(stage)), 180)
    space.kubectl("get", "crd", "inferencegateways.podpair.dev")
    assert space.read("igw", "digits")
    answers = space.run("ask", url="ws://digits/v1/ws", token=token(), inputs=DIGIT, routes=["direct", "queue"])
    assert [one["label"] for one in answers.values()] == ["1", "1"]

    # There is no release yet that one could come from: this chart as an older one, with one pod.
    operator.helm("package", _OPERATOR, "--version", "0.0.1", "--destination", tmp_path)
    operator.install(tmp_path / "podpair-operator-0.0.1.tgz", replicas=1)
    _keeps(space, "the older operator")
    older = operator.pods()
    operator.install(replicas=2)
    _keeps(space, "the upgraded operator")
    # Helm waits for the new pods, not until the old one has been told to go.
    space.until(lambda: len(operator.pods()) == 2, "there are two", 180)
    two = operator.pods()
    # Only one of the two leads. Were the other not ready, this rollout would wait for it for ever.
    operator.install(replicas=2, log={"level": "debug"})
    assert len({*older, *two, *operator.pods()}) >= 4
    operator.helm("test", RELEASE, "--namespace", NAMESPACE, "--timeout", "120s")
    _keeps(space, "one of the two")
    assert _pods(space) == pods


def test_the_chart_of_a_resource_installs_answers_its_test_and_goes(space: Space, operator: Installed) -> None:
    values = space.gateway()["spec"] | {"secrets": {"auth": {"secret": SECRET}}}
    del values["gateway"]["auth"]
    before, place = space.everything(), ("--namespace", space.name)
    rendered = operator.helm("template", "digits", _GATEWAY, *place, values=values)
    space.kubectl("apply", "--dry-run=server", "-f", "-", given=rendered)
    operator.helm("install", "digits", _GATEWAY, *place, values=values)
    operator.helm("test", "digits", *place, "--timeout", "180s")
    operator.helm("uninstall", "digits", *place, "--wait", "--timeout", "120s")
    space.until(lambda: space.everything() <= before, "everything of the chart is gone", 180)


def test_the_api_server_would_take_the_operator_s_chart(stage: Stage, operator: Installed) -> None:
    rendered = operator.helm("template", "another", _OPERATOR, "--namespace", NAMESPACE)
    stage.cluster.kubectl("apply", "--dry-run=server", "--server-side", "--force-conflicts", "-f", "-", given=rendered)
