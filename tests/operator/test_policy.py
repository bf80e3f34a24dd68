"""What an installation doesn't let resources do, whichever way they say it; and what to do about it."""

from typing import Any

import pytest

from harness.resources import gateway_at
from podpair.common.faults import FaultsError
from podpair.operator.config.settings import load
from podpair.operator.core.policy import LABEL, Policy, credential_faults, pod_field_faults

LABELS = {"kafka": {LABEL: "true"}, "client": {LABEL: "true"}}
PLAIN: dict[str, Any] = {"kafka__sasl": {"secretName": "kafka", "mechanism": "PLAIN"}}
SCRAM: dict[str, Any] = {"kafka__sasl": {"secretName": "kafka"}}
TLS: dict[str, Any] = {"kafka__tls": {}}


def client(**properties: str) -> dict[str, Any]:
    return {"kafka__client": {name.replace("__", "."): value for name, value in properties.items()}}


READABLE: dict[str, tuple[dict[str, Any], str]] = {
    "PLAIN": (PLAIN, "SASL PLAIN sends its credentials in the clear to kafka.default.svc:9092, and there is no TLS"),
    "PLAIN by a property": (SCRAM | client(sasl__mechanism="PLAIN"), "SASL PLAIN"),
    "plain by the property's other name": (SCRAM | client(sasl__mechanisms="plain"), "SASL PLAIN"),
    "OAUTHBEARER": (SCRAM | client(SASL_MECHANISM="OAUTHBEARER"), "SASL OAUTHBEARER"),
    "a mechanism that is not known yet": (SCRAM | client(sasl__mechanisms="CLEARTEXT"), "SASL CLEARTEXT"),
    "TLS taken back by a property": (PLAIN | TLS | client(security__protocol="SASL_PLAINTEXT"), "there is no TLS"),
    "in small letters": (PLAIN | TLS | client(security__protocol="sasl_plaintext"), "there is no TLS"),
    "a certificate that nobody checks": (
        PLAIN | TLS | client(enable__ssl__certificate__verification="False"),
        "whoever answers at kafka.default.svc:9092, for enable.ssl.certificate.verification is off",
    ),
    "without kafka.sasl": (
        client(security__protocol="SASL_PLAINTEXT", sasl__mechanism="PLAIN", sasl__username="u", sasl__password="p"),
        "SASL PLAIN",
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", READABLE)
def test_what_others_could_read_is_refused_unless_the_installation_allows_it(how: str) -> None:
    changed, words = READABLE[how]
    gateway = gateway_at("kafka:9092", "digits", **changed)
    (told,) = credential_faults(gateway, LABELS, Policy())
    assert words in told
    assert "set spec.kafka.tls, or a SCRAM mechanism" in told
    assert "brokers.allowReadableCredentials: true" in told
    assert credential_faults(gateway, LABELS, Policy(allow_readable_credentials=True)) == []


@pytest.mark.parametrize(
    "changed",
    [
        {}, TLS, SCRAM, PLAIN | TLS, SCRAM | TLS,
        {"kafka__sasl": {"secretName": "kafka", "mechanism": "SCRAM-SHA-256"}},
        client(sasl__mechanism="PLAIN"),
        SCRAM | client(sasl__mechanism="GSSAPI"),
        PLAIN | TLS | client(enable__ssl__certificate__verification="true"),
    ],
    ids=str,
)  # fmt: skip
def test_what_nobody_else_can_read_is_fine(changed: dict[str, Any]) -> None:
    assert credential_faults(gateway_at("kafka:9092", "digits", **changed), LABELS, Policy()) == []


def test_a_secret_must_be_labelled_or_named_by_the_installation() -> None:
    certificate = {"kafka__tls": {"caRef": {"name": "ca", "key": "ca.crt"}, "clientCertificateRef": {"name": "client"}}}
    gateway = gateway_at("kafka:9092", "digits", **SCRAM, **certificate)
    held: dict[str, dict[str, str]] = {"kafka": {"app": "shop"}, "client": {LABEL: "no"}, "ca": {}}
    kafka, shown = credential_faults(gateway, held, Policy())
    assert kafka == (
        "Secret default/kafka may not be shown to a broker (spec.kafka.sasl names it): label it (kubectl label secret kafka"
        " -n default podpair.dev/kafka-credentials=true), or have the installation name it (chart podpair-operator,"
        " brokers.secrets)"
    )
    assert "Secret default/client" in shown
    assert "spec.kafka.tls.clientCertificateRef" in shown
    # A CA's certificate is no secret; and what isn't there is told elsewhere.
    assert credential_faults(gateway, {"ca": {}}, Policy()) == []
    assert credential_faults(gateway, held | LABELS, Policy()) == []
    for named in (("default/kafka", "default/client"), ("default/*",), ("*",), ("*/client", "def*/kafka")):
        assert credential_faults(gateway, held, Policy(secrets=named)) == []
    for others in (("kafka", "client"), ("other/*",), ("default/kafka2", "default/clien")):
        assert len(credential_faults(gateway, held, Policy(secrets=others))) == 2


FORBIDDEN = (
    "spec.serviceAccountName", "spec.volumes.hostPath", "spec.hostNetwork", "spec.*.securityContext.privileged",
    "spec.*.securityContext.allowPrivilegeEscalation", "spec.securityContext.runAsNonRoot", "spec.containers.env.valueFrom",
)  # fmt: skip
POLICY = Policy(forbidden_pod_fields=FORBIDDEN)


def template(**spec: Any) -> dict[str, Any]:
    return {"inference__podTemplate": {"spec": spec}}


HOST = {"name": "host", "hostPath": {"path": "/"}}
SET: dict[str, tuple[dict[str, Any], str]] = {
    "a service account": (template(serviceAccountName="admin"), "spec.serviceAccountName"),
    "a host path": (template(volumes=[{"name": "a", "emptyDir": {}}, HOST]), "spec.volumes.hostPath"),
    "the host's network": (template(hostNetwork=True), "spec.hostNetwork"),
    "a privileged container": (
        template(containers=[{"name": "gateway", "securityContext": {"privileged": True}}]),
        "spec.*.securityContext.privileged",
    ),
    "a privileged container more": (
        template(initContainers=[{"name": "mine", "image": "x", "securityContext": {"privileged": True}}]),
        "spec.*.securityContext.privileged",
    ),
    "false where that is what counts": (
        template(securityContext={"runAsNonRoot": False}), "spec.securityContext.runAsNonRoot",
    ),
    "a null that takes it away": (template(securityContext=None), "spec.securityContext.runAsNonRoot"),
    "a patch that takes it away": (template(securityContext={"$patch": "replace"}), "spec.securityContext.runAsNonRoot"),
    "a null further down": (
        template(containers=[{"name": "gateway", "securityContext": {"allowPrivilegeEscalation": None}}]),
        "spec.*.securityContext.allowPrivilegeEscalation",
    ),
    "another container's secrets": (
        template(containers=[{"name": "x", "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}]),
        "spec.containers.env.valueFrom",
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", SET)
def test_a_forbidden_field_of_the_pods_is_refused_however_it_is_set(how: str) -> None:
    changed, path = SET[how]
    gateway = gateway_at("kafka:9092", "digits", **changed)
    assert pod_field_faults(gateway, Policy()) == []
    ((field, told),) = pod_field_faults(gateway, POLICY)
    assert field == "spec.inference.podTemplate"
    assert f"{field} sets {path} of the pods, which this installation forbids" in told
    assert "podTemplate.forbidden" in told


def test_volumes_of_the_resource_itself_are_looked_at_too() -> None:
    volume = {"name": "host", "mountPath": "/host", "source": {"hostPath": {"path": "/"}}}
    gateway = gateway_at("kafka:9092", "digits", inference__volumes=[volume])
    ((field, told),) = pod_field_faults(gateway, POLICY)
    assert field == "spec.inference.volumes"
    assert "spec.volumes.hostPath" in told


def test_what_podpair_sets_itself_and_other_fields_are_fine() -> None:
    volume = {"name": "models", "mountPath": "/models", "source": {"persistentVolumeClaim": {"claimName": "models"}}}
    laid = template(
        nodeSelector={"gpu": "yes"}, containers=[{"name": "gateway", "securityContext": {"runAsUser": 1000}}],
        volumes=[{"name": "a", "emptyDir": {}}], hostAliases=[],
    )  # fmt: skip
    gateway = gateway_at("kafka:9092", "digits", inference__volumes=[volume], **laid)
    assert pod_field_faults(gateway, POLICY) == []
    assert pod_field_faults(gateway_at("kafka:9092", "digits"), POLICY) == []


def test_the_policy_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PODPAIR_OPERATOR_GATEWAY_IMAGE", "gateway:1")
    assert load().policy == Policy()
    monkeypatch.setenv("PODPAIR_OPERATOR_BROKERS__ALLOW_READABLE_CREDENTIALS", "true")
    monkeypatch.setenv("PODPAIR_OPERATOR_BROKERS__SECRETS", "shop/kafka, team-*/*")
    monkeypatch.setenv("PODPAIR_OPERATOR_POD_TEMPLATES__FORBIDDEN", "spec.hostNetwork,spec.volumes.hostPath")
    assert load().policy == Policy(True, ("shop/kafka", "team-*/*"), ("spec.hostNetwork", "spec.volumes.hostPath"))
    monkeypatch.setenv("PODPAIR_OPERATOR_POD_TEMPLATES__FORBIDDEN", '["spec.hostNetwork", "spec.volumes.hostPath"]')
    assert load().policy.forbidden_pod_fields == ("spec.hostNetwork", "spec.volumes.hostPath")
    monkeypatch.setenv("PODPAIR_OPERATOR_POD_TEMPLATES__FORBIDDEN", '["spec.hostNetwork"')
    with pytest.raises(FaultsError, match=r"POD_TEMPLATES__FORBIDDEN: .*it begins as JSON does, but is none"):
        load()
    monkeypatch.setenv("PODPAIR_OPERATOR_POD_TEMPLATES__FORBIDDEN", "hostNetwork,spec.volumes[0].hostPath")
    with pytest.raises(FaultsError, match="POD_TEMPLATES__FORBIDDEN"):
        load()
