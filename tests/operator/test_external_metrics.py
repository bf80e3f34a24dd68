"""What the external metrics API says, and who may ask, by itself."""

import json

import pytest

from podpair.operator.core.external_metrics import Refusal, discovery, gateways_wanted, quantity
from podpair.operator.core.front_proxy import FrontProxy, NoFrontProxy, read_front_proxy


@pytest.mark.parametrize(
    ("value", "told"),
    [(0, "0"), (12, "12"), (0.25, "250m"), (1.5, "1500m"), (0.0425, "42500u"), (0.0000004, "0")],
)
def test_quantities_are_those_of_kubernetes(value: float, told: str) -> None:
    assert quantity(value) == told


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("podpair.dev/gateway=digits", ["digits"]),
        (" podpair.dev/gateway == digits ", ["digits"]),
        ("podpair.dev/gateway in (b, a)", ["a", "b"]),
    ],
)
def test_gateways_are_selected_by_name(selector: str, names: list[str]) -> None:
    assert gateways_wanted(selector) == names


@pytest.mark.parametrize(
    "selector", ["", "app=x", "podpair.dev/gateway", "podpair.dev/gateway!=a", "podpair.dev/gateway=a,app=x"]
)
def test_other_selectors_are_refused(selector: str) -> None:
    with pytest.raises(Refusal, match="select InferenceGateways by name"):
        gateways_wanted(selector)


def test_every_document_of_discovery_names_the_same_version() -> None:
    for path in ("/apis", "/apis/external.metrics.k8s.io", "/apis/external.metrics.k8s.io/v1beta1"):
        assert "external.metrics.k8s.io/v1beta1" in json.dumps(discovery(path))
    assert discovery("/api") is None


def test_who_may_ask_is_what_the_cluster_publishes() -> None:
    data = {"requestheader-client-ca-file": "PEM", "requestheader-allowed-names": '["proxy"]'}
    front_proxy = read_front_proxy({"data": data})
    assert front_proxy == FrontProxy("PEM", ("proxy",))
    assert front_proxy.admits({"subject": ((("organizationName", "o"),), (("commonName", "proxy"),))})
    assert not front_proxy.admits({"subject": ((("commonName", "other"),),)})
    assert not front_proxy.admits(None)
    assert not front_proxy.admits({})
    assert FrontProxy("PEM", ()).admits({"subject": ((("commonName", "other"),),)})


@pytest.mark.parametrize(
    "config_map",
    [None, {}, {"data": {"requestheader-client-ca-file": ""}},
     {"data": {"requestheader-client-ca-file": "PEM", "requestheader-allowed-names": "proxy"}}],
)  # fmt: skip
def test_a_cluster_without_aggregation_is_told_what_it_lacks(config_map: dict[str, dict[str, str]] | None) -> None:
    with pytest.raises(NoFrontProxy, match="extension-apiserver-authentication"):
        read_front_proxy(config_map)
