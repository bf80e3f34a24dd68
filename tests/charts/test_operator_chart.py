"""podpair-operator: what it installs, at a real API server; what the operator may do there, and what it may not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from charts.conftest import Install
from harness.helm import CHARTS, Failed, Helm, program, program_4
from harness.kubernetes import ApiServer, Refused
from harness.processes import ROOT
from harness.resources import EXAMPLE
from podpair.operator.cli.main import cli
from podpair.operator.config.settings import Brokers, load
from podpair.operator.core.policy import Policy

CHART, CRDS = CHARTS / "podpair-operator", CHARTS / "podpair-crds"
CRD = "inferencegateways.podpair.dev"
EVERYTHING = {
    "replicas": 2,
    "watchNamespaces": ["models", "more-models"],
    "imagePullSecrets": [{"name": "registry"}],
    "serviceAccount": {"annotations": {"a": "b"}},
    "extraEnv": [{"name": "PODPAIR_OPERATOR_WORKERS", "value": "9"}],
    "podLabels": {"team": "ml"},
    "podAnnotations": {"a": "b"},
    "priorityClassName": "high",
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "infra", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "ScheduleAnyway"}
    ],
    "brokers": {
        "processes": 4,
        "processMemoryMiB": 96,
        "secrets": ["shop/kafka", "*/kafka"],
        "allowReadableCredentials": True,
    },
    "podTemplate": {"forbidden": ["spec.hostNetwork", "spec.*.securityContext.privileged"]},
    "networkPolicy": {"metricsFrom": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]},
    "image": {"digest": "sha256:" + "0" * 64},
}


def of_kind(objects: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [one for one in objects if one["kind"] == kind]


def env(objects: list[dict[str, Any]]) -> dict[str, Any]:
    (deployment,) = of_kind(objects, "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return {one["name"]: one.get("value") for one in container["env"]}


def test_the_policy_reaches_the_operator_s_settings(helm: Helm, monkeypatch: pytest.MonkeyPatch) -> None:
    for values in ({}, EVERYTHING):
        for name, value in env(helm.template("podpair-operator", values=values)).items():
            if name.startswith("PODPAIR_OPERATOR_"):
                monkeypatch.setenv(name, "default" if value is None else value)
        settings = load()
        if not values:
            assert settings.policy == Policy()
            assert settings.brokers == Brokers()
    assert settings.policy == Policy(
        True, ("shop/kafka", "*/kafka"), ("spec.hostNetwork", "spec.*.securityContext.privileged")
    )
    assert (settings.brokers.processes, settings.brokers.process_memory_bytes) == (4, 96 << 20)


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "every value"])
def test_the_api_server_takes_every_object(
    cluster: ApiServer, helm: Helm, namespace: str, values: dict[str, Any]
) -> None:
    made = helm("template", "podpair", CHART, "--namespace", namespace, values=values)
    for name in values.get("watchNamespaces", []):
        cluster.kubectl("apply", "-f", "-", given=yaml.safe_dump(_namespace(name)))
    cluster.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", given=made)


def _namespace(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def test_pods_pass_the_restricted_standard(cluster: ApiServer, helm: Helm, namespace: str) -> None:
    objects = helm.template("podpair-operator")
    (deployment,) = of_kind(objects, "Deployment")
    (test,) = of_kind(objects, "Pod")
    for number, spec in enumerate((deployment["spec"]["template"]["spec"], test["spec"])):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"pod-{number}", "namespace": namespace}}
        cluster.apply({**pod, "spec": spec})
        privileged = {**spec, "containers": [{**spec["containers"][0], "securityContext": {}}]}
        with pytest.raises(Refused, match="violates PodSecurity"):
            cluster.apply({**pod, "metadata": {**pod["metadata"], "name": "worse"}, "spec": privileged})


def test_every_selector_finds_the_pods_and_no_others(helm: Helm) -> None:
    objects = helm.template("podpair-operator", values={"podMonitor": {"enabled": True}})
    (deployment,) = of_kind(objects, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    (test,) = of_kind(objects, "Pod")
    selectors = [deployment["spec"]["selector"]["matchLabels"]]
    selectors += [one["spec"]["selector"] for one in of_kind(objects, "Service")]
    selectors += [
        one["spec"]["selector"]["matchLabels"]
        for one in of_kind(objects, "PodDisruptionBudget") + of_kind(objects, "PodMonitor")
    ]
    selectors += [one["spec"]["podSelector"]["matchLabels"] for one in of_kind(objects, "NetworkPolicy")]
    assert len(selectors) == 5
    for selector in selectors:
        assert selector.items() <= labels.items()
        assert not selector.items() <= test["metadata"]["labels"].items()


def test_the_crd_is_the_one_of_podpair_crds(helm: Helm) -> None:
    (crd,) = of_kind(helm.template("podpair-operator"), "CustomResourceDefinition")
    assert helm.template("podpair-crds") == [crd]
    assert crd == yaml.safe_load((ROOT / "charts" / "podpair-crds" / "templates" / "crd.yaml").read_text())
    assert not of_kind(
        helm.template("podpair-operator", values={"crds": {"install": False}}), "CustomResourceDefinition"
    )


def test_uninstalling_keeps_the_crd_and_the_resources_and_installing_again_takes_them_up(
    cluster: ApiServer, release: Install, helm_at: Helm, namespace: str
) -> None:
    release("install", CHART)
    cluster.await_kind(CRD)
    cluster.kubectl("apply", "-n", namespace, "-f", str(EXAMPLE))
    before = cluster.read("igw", "digits", "-n", namespace)
    helm_at("uninstall", "podpair", "--namespace", namespace)
    left = cluster.kubectl(
        "get", "-A", "-l", "app.kubernetes.io/part-of=podpair", "-o", "name",
        "all,sa,pdb,networkpolicy,role,rolebinding,clusterrole,clusterrolebinding,secret,configmap,lease",
    )  # fmt: skip
    assert left == ""
    assert cluster.read("igw", "digits", "-n", namespace) == before
    release("install", CHART)
    assert cluster.read("igw", "digits", "-n", namespace) == before
    helm_at("uninstall", "podpair", "--namespace", namespace)
    with pytest.raises(Failed, match="invalid ownership metadata"):
        helm_at("install", "other", CHART, "--namespace", namespace)
    helm_at("install", "other", CHART, "--namespace", namespace, "--take-ownership")
    helm_at("uninstall", "other", "--namespace", namespace)
    assert cluster.read("igw", "digits", "-n", namespace) == before


@pytest.mark.parametrize("helm_program", [program, program_4], ids=["helm 3", "helm 4"])
def test_the_crd_moves_between_the_charts_and_back_and_every_resource_stays(
    cluster: ApiServer, release: Install, namespace: str, tmp_path: Path, helm_program: Callable[[], Path]
) -> None:
    """As the README of podpair-crds says it."""
    helm = Helm(tmp_path, cluster, helm_program)

    def owner() -> str:
        crd = cluster.read("crd", "inferencegateways.podpair.dev")
        return str(crd["metadata"]["annotations"]["meta.helm.sh/release-name"])

    def upgrade(*arguments: str) -> None:
        helm("upgrade", "podpair", CHART, "--namespace", namespace, "--reset-then-reuse-values", *arguments)

    helm("install", "podpair", CHART, "--namespace", namespace)
    cluster.await_kind(CRD)
    cluster.kubectl("apply", "-n", namespace, "-f", str(EXAMPLE))
    before = cluster.read("igw", "digits", "-n", namespace)
    with pytest.raises(Failed, match="invalid ownership metadata"):
        helm("install", "podpair-crds", CRDS, "--namespace", namespace)
    helm("install", "podpair-crds", CRDS, "--namespace", namespace, "--take-ownership")
    assert owner() == "podpair-crds"
    upgrade("--set", "crds.install=false")
    assert owner() == "podpair-crds"
    helm("uninstall", "podpair-crds", "--namespace", namespace)
    upgrade("--set", "crds.install=true", "--take-ownership")
    assert owner() == "podpair"
    assert cluster.read("igw", "digits", "-n", namespace) == before


def test_an_upgrade_changes_the_deployment_and_leaves_crd_and_resources(
    cluster: ApiServer, release: Install, helm: Helm, helm_at: Helm, namespace: str, tmp_path: Any
) -> None:
    for version in ("0.0.1", "9.9.9"):
        helm("package", CHART, "--version", version, "--app-version", version, "--destination", tmp_path)
    release("install", tmp_path / "podpair-operator-0.0.1.tgz", values={"replicas": 2})
    cluster.await_kind(CRD)
    cluster.kubectl("apply", "-n", namespace, "-f", str(EXAMPLE))
    before = cluster.read("igw", "digits", "-n", namespace)
    release(
        "upgrade",
        tmp_path / "podpair-operator-9.9.9.tgz",
        "--reuse-values",
        "--set",
        f"watchNamespaces={{{namespace}}}",
    )
    deployment = cluster.read("deployment", "podpair-operator", "-n", namespace)["spec"]
    (container,) = deployment["template"]["spec"]["containers"]
    assert container["image"] == "podpair-operator:9.9.9"
    assert deployment["replicas"] == 2
    assert cluster.read("igw", "digits", "-n", namespace) == before
    helm_at("rollback", "podpair", "1", "--namespace", namespace)
    (container,) = cluster.read("deployment", "podpair-operator", "-n", namespace)["spec"]["template"]["spec"][
        "containers"
    ]
    assert container["image"] == "podpair-operator:0.0.1"
    assert cluster.read("igw", "digits", "-n", namespace) == before


SOMEWHERE, OWN = "somewhere", "own"
MAY = [
    ("patch", "inferencegateways.podpair.dev", SOMEWHERE),
    ("patch", "inferencegateways.podpair.dev/status", SOMEWHERE),
    ("update", "inferencegateways.podpair.dev/finalizers", SOMEWHERE),
    *[
        (verb, kind, SOMEWHERE)
        for verb in ("get", "list", "watch", "create", "patch", "delete")
        for kind in (
            "deployments.apps", "services", "configmaps", "secrets", "serviceaccounts", "networkpolicies.networking.k8s.io",
            "ingresses.networking.k8s.io", "poddisruptionbudgets.policy", "horizontalpodautoscalers.autoscaling",
            "httproutes.gateway.networking.k8s.io", "podmonitors.monitoring.coreos.com", "scaledobjects.keda.sh",
            "triggerauthentications.keda.sh",
        )
    ],
    ("list", "pods", SOMEWHERE),
    ("patch", "pods", SOMEWHERE),
    ("list", "replicasets.apps", SOMEWHERE),
    ("create", "events", SOMEWHERE),
    ("create", "apiservices.apiregistration.k8s.io/v1beta1.external.metrics.k8s.io", None),
    ("create", "secrets/podpair-operator-metrics-api", OWN),
    ("patch", "apiservices.apiregistration.k8s.io/v1beta1.external.metrics.k8s.io", None),
    ("create", "leases.coordination.k8s.io", OWN),
    ("update", "leases.coordination.k8s.io/podpair-operator", OWN),
]  # fmt: skip
MAY_NOT = [
    ("create", "apiservices.apiregistration.k8s.io", None),
    ("delete", "inferencegateways.podpair.dev", SOMEWHERE),
    ("create", "inferencegateways.podpair.dev", SOMEWHERE),
    ("create", "pods", SOMEWHERE),
    ("delete", "pods", SOMEWHERE),
    ("create", "pods/exec", SOMEWHERE),
    ("create", "serviceaccounts/token", SOMEWHERE),
    ("create", "roles.rbac.authorization.k8s.io", SOMEWHERE),
    ("create", "rolebindings.rbac.authorization.k8s.io", SOMEWHERE),
    ("create", "jobs.batch", SOMEWHERE),
    ("patch", "deployments.apps/scale", SOMEWHERE),
    ("update", "leases.coordination.k8s.io/another", OWN),
    ("update", "leases.coordination.k8s.io/podpair-operator", SOMEWHERE),
    ("bind", "clusterroles.rbac.authorization.k8s.io", None),
    ("escalate", "clusterroles.rbac.authorization.k8s.io", None),
    ("create", "clusterrolebindings.rbac.authorization.k8s.io", None),
    ("impersonate", "serviceaccounts", SOMEWHERE),
    ("delete", "apiservices.apiregistration.k8s.io/v1beta1.external.metrics.k8s.io", None),
    ("list", "events", SOMEWHERE),
    ("list", "namespaces", None),
    ("patch", "customresourcedefinitions.apiextensions.k8s.io", None),
    ("patch", "apiservices.apiregistration.k8s.io/v1.apps", None),
    ("delete", "apiservices.apiregistration.k8s.io/v1beta1.metrics.k8s.io", None),
    ("get", "nodes", None),
    ("delete", "namespaces", None),
    ("create", "mutatingwebhookconfigurations.admissionregistration.k8s.io", None),
]


Question = tuple[str, str, str | None]


def allowed(cluster: ApiServer, account: str, questions: list[Question]) -> list[bool]:
    """What the API server says of each; not kubectl auth can-i, which knows only the kinds that the cluster serves.

    A name follows a kind, or a subresource, after a slash.
    """
    reviews = []
    for verb, what, namespace in questions:
        kind, _, rest = what.partition("/")
        resource, _, group = kind.partition(".")
        inner = "subresource" if rest in ("status", "finalizers", "exec", "token", "scale") else "name"
        asked = {"verb": verb, "group": group, "resource": resource, "namespace": namespace or "", inner: rest}
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview"}
        groups = ["system:serviceaccounts", "system:authenticated"]
        reviews.append(review | {"spec": {"user": account, "groups": groups, "resourceAttributes": asked}})
    given = yaml.safe_dump({"apiVersion": "v1", "kind": "List", "items": reviews})
    answers = cluster.kubectl("create", "-f", "-", "-o", "jsonpath={.status.allowed} ", given=given)
    return [answer == "true" for answer in answers.split()]


def test_the_operator_may_do_its_work_and_nothing_else(cluster: ApiServer, release: Install, namespace: str) -> None:
    release("install", CHART)
    account = f"system:serviceaccount:{namespace}:podpair-operator"
    places = {SOMEWHERE: "kube-public", OWN: namespace, None: None}
    questions = [(verb, what, places[place]) for verb, what, place in [*MAY, *MAY_NOT]]
    answers = dict(zip(questions, allowed(cluster, account, questions), strict=True))
    wanted = dict(zip(questions, [True] * len(MAY) + [False] * len(MAY_NOT), strict=True))
    assert answers == wanted


def test_namespaces_that_are_named_bound_its_rights(cluster: ApiServer, release: Install, namespace: str) -> None:
    release("install", CHART, values={"watchNamespaces": [namespace]})
    account = f"system:serviceaccount:{namespace}:podpair-operator"
    kinds = ("secrets", "configmaps", "pods", "deployments.apps", "inferencegateways.podpair.dev")
    assert all(allowed(cluster, account, [("get", kind, namespace) for kind in kinds]))
    assert not any(allowed(cluster, account, [("get", kind, "kube-public") for kind in kinds]))


def test_the_metrics_api_asks_for_no_right_where_it_is_off(helm: Helm) -> None:
    def about_it(enabled: str) -> bool:
        objects = helm.template("podpair-operator", values={"metricsApi": {"enabled": enabled}})
        told = yaml.safe_dump_all(one for one in objects if "Role" in one["kind"])
        return any(word in told for word in ("apiservices", "external.metrics.k8s.io", "auth-reader", "clusterroles,"))

    assert about_it("auto")
    assert about_it("always")
    assert not about_it("never")


def test_what_owns_the_api_service_goes_with_the_release(helm: Helm) -> None:
    """The operator makes the APIService owned by this ClusterRole; the garbage collector then takes it along."""
    objects = helm.template("podpair-operator")
    owner = env(objects)["PODPAIR_OPERATOR_METRICS_API__OWNER"]
    assert owner in [one["metadata"]["name"] for one in of_kind(objects, "ClusterRole")]
    without = helm.template("podpair-operator", values={"rbac": {"create": False}})
    assert of_kind(without, "ClusterRole") == []
    assert "PODPAIR_OPERATOR_METRICS_API__OWNER" not in env(without)


def test_autoscalers_read_external_metrics_by_kubernetes_own_roles(cluster: ApiServer) -> None:
    metric = ("list", "podpairs.external.metrics.k8s.io", "kube-public")
    for account in ("system:serviceaccount:kube-system:horizontal-pod-autoscaler", "system:kube-controller-manager"):
        assert allowed(cluster, account, [metric]) == [True]


def test_the_broker_to_try_with_passes_the_restricted_standard(cluster: ApiServer) -> None:
    file = ROOT / "examples" / "kafka.yaml"
    cluster.kubectl("apply", "--validate=strict", "-f", str(file))
    (stateful,) = of_kind(list(yaml.safe_load_all(file.read_text())), "StatefulSet")
    spec = stateful["spec"]["template"]["spec"]
    cluster.apply(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "kafka", "namespace": "kafka"}, "spec": spec}
    )


def test_the_json_schema_takes_the_examples_and_refuses_what_is_misspelt() -> None:
    said = CliRunner().invoke(cli, ["crd", "--format", "json-schema"])
    validator = jsonschema.Draft7Validator(json.loads(said.output))
    example = yaml.safe_load(EXAMPLE.read_text())
    assert validator.is_valid(example)
    example["spec"]["scaling"]["maximum"] = 3
    (error,) = validator.iter_errors(example)
    assert "'maximum' was unexpected" in error.message


def test_it_can_be_kept_to_namespaces(helm: Helm) -> None:
    given = {"watchNamespaces": ["models"], "metricsApi": {"enabled": "never"}, "crds": {"install": False}}
    objects = helm.template("podpair-operator", values=given)
    assert {one["metadata"].get("namespace") for one in objects} == {"podpair", "models"}
