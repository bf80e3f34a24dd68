"""A resource's labels and annotations reach the objects that it owns, and never its pods or a selector."""

from typing import Any

import pytest

from harness.resources import resource
from podpair.operator.core.api.igw import InferenceGateway
from podpair.operator.core.builders.naming import labels
from podpair.operator.core.builders.propagation import KEPT_BACK_DOMAINS
from podpair.operator.core.crd import crd
from podpair.operator.core.desired import Dependencies, desired
from podpair.operator.core.resource_doc import document

DEPENDENCIES = Dependencies("podpair-gateway:test", "k" * 43, pod_monitors=True, prometheus_rules=True)
KINDS = {
    "hpa": {"network": {"ingress": {"host": "d.example"}}},
    "keda": {
        "scaling": {"min": 1, "max": 2, "provider": "keda", "metrics": [{"lag": 5}]},
        "kafka__sasl": {"secretName": "kafka"},
        "network": {"route": {"parentRefs": [{"name": "public"}]}},
    },
}
KEPT_BACK = {
    "kubectl.kubernetes.io/last-applied-configuration",
    "applyset.kubernetes.io/part-of",
    "app.kubernetes.io/instance",
    "app.kubernetes.io/managed-by",
    "app.kubernetes.io/version",
    "service.beta.kubernetes.io/aws-load-balancer-type",
    "config.k8s.io/owning-inventory",
    "helm.sh/chart",
    "meta.helm.sh/release-name",
    "argocd.argoproj.io/instance",
    "argocd.argoproj.io/tracking-id",
    "kustomize.toolkit.fluxcd.io/name",
    "helm.toolkit.fluxcd.io/namespace",
    "kapp.k14s.io/app",
    "objectset.rio.cattle.io/hash",
    "configsync.gke.io/declared-version",
    "skaffold.dev/run-id",
    "kopf.zalando.org/last-handled-configuration",
    "podpair.dev/paused",
    "podpair.dev/kafka-credentials",
    "podpair.dev/applied",
}


def objects(
    metadata: dict[str, Any] | None = None, around: Dependencies = DEPENDENCIES, **changed: Any
) -> dict[tuple[str, str], dict[str, Any]]:
    """The objects by kind and name."""
    made = resource(**changed)
    made["metadata"] |= {"uid": "u", **(metadata or {})}
    wanted = desired(InferenceGateway.model_validate(made), around)
    return {(one["kind"], one["metadata"]["name"]): one for one in wanted}


@pytest.mark.parametrize("changed", KINDS.values(), ids=KINDS.keys())
def test_all_objects_that_it_owns_have_its_labels_and_all_but_secrets_its_annotations(changed: dict[str, Any]) -> None:
    given = {"team": "ml", "example.com/cost-center": "7", "app.kubernetes.io/part-of": "shop"}
    made = objects({"labels": given, "annotations": {"example.com/contact": "a b"}}, **changed)
    assert len(made) >= 11
    for (kind, _), one in made.items():
        assert given.items() <= one["metadata"]["labels"].items(), kind
        found = one["metadata"].get("annotations", {})
        assert (found.get("example.com/contact") == "a b") is (kind != "Secret"), kind


def test_neither_pods_nor_selectors_change_with_them() -> None:
    """A changed label must not move all clients to new pods."""
    given = {"labels": {"team": "ml"}, "annotations": {"example.com/contact": "a"}}
    for changed in KINDS.values():
        without, with_them = objects(**changed), objects(given, **changed)
        assert without.keys() == with_them.keys()
        for place, one in without.items():
            assert {**one, "metadata": None} == {**with_them[place], "metadata": None}, place


@pytest.mark.parametrize("name", sorted(KEPT_BACK))
def test_what_tools_track_what_they_applied_by_stays_at_the_resource(name: str) -> None:
    given = {"labels": {name: "x"}, "annotations": {name: "x"}}
    assert objects(given) == objects()


def test_a_name_that_only_ends_like_a_tool_s_is_propagated() -> None:
    given = {"labels": {"nothelm.sh/a": "x", "helm.sh.example/b": "x", "helm.sh": "x"}}
    (found,) = {tuple(sorted(set(one["metadata"]["labels"]) & set(given["labels"]))) for one in objects(given).values()}
    assert found == ("helm.sh", "helm.sh.example/b", "nothelm.sh/a")


def test_podpair_s_own_labels_and_what_a_section_says_come_over_the_resource_s() -> None:
    network = {
        "service": {"annotations": {"a": "service"}},
        "ingress": {"host": "d.example", "annotations": {"a": "in"}},
    }
    given = {
        "labels": {"podpair.dev/gateway": "other", "app.kubernetes.io/name": "mine", "release": "mine"},
        "annotations": {"a": "resource"},
    }
    made = objects(given, network=network, monitoring={"labels": {"release": "prometheus"}})
    own = labels(InferenceGateway.model_validate(resource()))
    assert all(own.items() <= one["metadata"]["labels"].items() for one in made.values())
    assert made["PodMonitor", "digits"]["metadata"]["labels"]["release"] == "prometheus"
    assert made["Service", "digits"]["metadata"]["labels"]["release"] == "mine"
    assert made["Service", "digits"]["metadata"]["annotations"] == {"a": "service"}
    assert made["Ingress", "digits"]["metadata"]["annotations"] == {"a": "in"}
    assert made["Deployment", "digits"]["metadata"]["annotations"] == {"a": "resource"}


def test_an_annotation_turns_it_off() -> None:
    given = {"labels": {"team": "ml"}, "annotations": {"a": "b", "podpair.dev/propagate": "false"}}
    assert objects(given) == objects()


def test_the_page_on_the_resource_names_all_that_is_kept_back() -> None:
    page = document(crd())
    assert [one for one in KEPT_BACK_DOMAINS if f"`{one}`" not in page] == []


def test_labels_that_are_null_are_none() -> None:
    """As the API server takes them, and as charts write them that have nothing to say."""
    assert objects({"labels": None, "annotations": None}) == objects()
