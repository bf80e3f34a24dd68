"""The resource at a real API server: the schema, CEL rules, defaults, columns and subresources."""

import json
import time
from typing import Any

import pytest
import yaml

from cluster.conftest import CRD
from harness.kubernetes import ApiServer, Refused
from harness.resources import EXAMPLE, REMOVED, WRONG, Wrong, resource
from podpair.operator.core.crd import NAME
from podpair.operator.core.manifest_loader import load_manifests

QUANTITIES = ("1e9", "1E9", ".5", "100u", "5n", "1.", "+1Gi", "0.1m", "0", 0, 1 << 40)
NULLS = (
    "replicas", "scaling", "scaling__metrics", "gateway__drain", "gateway__sessions", "inference__env", "inference__podTemplate",
    "gateway__auth__issuer", "kafka__tls", "network", "monitoring",
)  # fmt: skip


def apply(cluster: ApiServer, namespace: str, made: dict[str, Any], *options: str) -> str:
    return cluster.kubectl("apply", "-n", namespace, *options, "-f", "-", given=yaml.safe_dump(made))


def test_client_side_apply_takes_the_crd_and_finds_nothing_to_change_the_second_time(bare_cluster: ApiServer) -> None:
    bare_cluster.kubectl("apply", "-f", str(CRD))
    assert "unchanged" in bare_cluster.kubectl("apply", "-f", str(CRD))
    bare_cluster.await_kind(NAME)
    stored = bare_cluster.read("crd", NAME)
    conditions = {one["type"]: one for one in stored["status"]["conditions"]}
    assert "NonStructuralSchema" not in conditions
    assert conditions["NamesAccepted"]["status"] == "True"


def test_the_example_is_accepted_and_shows_its_defaults(cluster: ApiServer, namespace: str) -> None:
    cluster.kubectl("apply", "-n", namespace, "-f", str(EXAMPLE))
    spec = cluster.read("igw", "digits", "-n", namespace)["spec"]
    assert spec["kafka"]["results"] == {"partitions": 16, "retention": "1h", "users": False}
    assert spec["kafka"]["deletionPolicy"] == "Retain"
    assert spec["gateway"]["drain"] == "30s"
    assert spec["scaling"]["provider"] == "hpa"
    assert "replicas" not in spec
    # What the API server filled in is what the models would: reading it back changes nothing.
    (local,) = load_manifests(EXAMPLE.read_text()).resources
    (stored,) = load_manifests(yaml.safe_dump(resource() | {"spec": spec})).resources
    assert stored.spec == local.spec


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_resource_is_refused_with_the_words_that_validate_uses(
    cluster: ApiServer, namespace: str, wrong: Wrong
) -> None:
    with pytest.raises(Refused) as refused:
        apply(cluster, namespace, resource(**wrong.changed))
    assert wrong.words in str(refused.value)
    (fault,) = load_manifests(yaml.safe_dump(resource(**wrong.changed))).faults
    assert fault.message in str(refused.value)


@pytest.mark.parametrize(
    "changed",
    [
        {"scaling": {"min": 4, "max": 4}},
        {"scaling": {"min": 0, "max": 4, "metrics": [{"cpu": 50}, {"lag": 5}]}},
        {
            "scaling": {"min": 0, "max": 4, "metrics": [{"lag": 5}]},
            "amqp": {"urlRef": {"name": "r", "key": "u"}},
            "replicas": 1,
        },
        {"scaling": REMOVED},
        {"replicas": 0},
        {"gateway__auth": {"disabled": True}},
        {"gateway__auth": {"secretRef": {"name": "jwt", "key": "secret"}}},
        {"gateway__drain": "1m", "gateway__terminationGracePeriod": "95s"},
        {"inference__models": REMOVED},
        {"inference__models": [{"name": "d", "versions": []}]},
        {"kafka__client": {"socket.keepalive.enable": "true"}},
        {"kafka__tls": {}, "kafka__sasl": {"secretName": "kafka"}},
        {"inference__resources": {"requests": {"memory": 1073741824}, "limits": {"cpu": 2}}, "scaling": {"max": 3}},
        {"inference__volumes": [{"name": "models", "mountPath": "/models", "source": {"emptyDir": {}}}]},
        {"inference__podTemplate": {"spec": {"nodeSelector": {"gpu": "yes"}}}},
        {"network": {"route": {"parentRefs": [{"name": "public"}]}}},
        {"disruptionBudget": {"minAvailable": "50%"}},
        {"rollout": {"maxSurge": 0, "maxUnavailable": "10%"}},
        {"rollout": {"maxUnavailable": 0}},
        {"rollout": {"strategy": "recreate", "progressDeadline": "500ms"}},
        {"gateway__admission": {"rules": [{"claim": "tenant", "requestsPerSecond": 5, "burst": 9, "models": ["a-*"]}]}},
        {"gateway__tls": {"certificateRef": {"name": "public"}}},
        {"tracing": {"endpoint": "http://collector:4318/v1/traces"}},
        *({"inference__resources": {"requests": {"cpu": 1, "memory": amount}}} for amount in QUANTITIES),
        *({"gateway__limits": {"message": amount}} for amount in ("1e4", "1.5Ki", "+1M", "2000000000u", 1024)),
        {"inference__resources": {"limits": {"cpu": "100m", "memory": "64Mi", "nvidia.com/gpu": 1}}},
        {"inference__resources": {"limits": {"hugepages-2Mi": "4Mi"}}},
        *({path: None} for path in NULLS),
        {"inference__resources": {"requests": {"cpu": None, "memory": 1}, "limits": {"cpu": 1}}},
        {"kafka__client": {"linger.ms": None}},
        {"disruptionBudget": {"maxUnavailable": 0}},
        *({"network": {"ingress": {"host": host}}} for host in ("*.example", "a-b.c", "1.a", "a")),
        *(
            {"network": {"ingress": {"host": "a", "path": path}}}
            for path in ("/a/b/", "/a%20b", "/...", "/.well-known")
        ),
        *({"kafka__bootstrapServers": servers} for servers in ("a_b:1,127.0.0.1:65535", "[::1]:9092", "kafka.:9092")),
        {"inference__server": "other", "inference__models": [{"name": "d"}], "scaling": {"metrics": [{"lag": 5}]}},
        {"inference__image": "seldonio/mlserver:1.7.1", "inference__models": [{"name": "d"}], "scaling": {"max": 3}},
        {"inference__image": "nvcr.io/nvidia/tritonserver:25.08-py3", "inference__server": "podpair"},
        {"inference__metricsPort": 9100, "inference__runAsUser": 1000},
        {"inference__probes": {"startup": {"httpGet": {}}, "liveness": {"httpGet": {"path": "/live", "port": 9}}}},
        {"network": {"networkPolicy": {"from": [{"ipBlock": {"cidr": "::/0", "except": ["fd00::/8"]}}]}}},
    ],
    ids=str,
)
def test_what_validate_takes_the_api_server_takes(cluster: ApiServer, namespace: str, changed: dict[str, Any]) -> None:
    made = resource(**changed)
    assert load_manifests(yaml.safe_dump(made)).faults == []
    apply(cluster, namespace, made, "--dry-run=server")


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"kafka__bootstrapServers": "kafka"}, "spec.kafka.bootstrapServers"),
        ({"gateway__drain": "soon"}, "spec.gateway.drain"),
        ({"gateway__auth__jwksUrl": "login.example"}, "spec.gateway.auth.jwksUrl"),
        ({"gateway": REMOVED}, "spec.gateway"),
        ({"inference__image": ""}, "spec.inference.image"),
        ({"inference__port": 70_000}, "spec.inference.port"),
        ({"inference__env": [{"name": "A"}, {"name": "A"}]}, "spec.inference.env"),
        ({"inference__volumes": [{"name": "m", "mountPath": "/m", "source": {}}]}, "spec.inference.volumes[0].source"),
        ({"inference__resources": {"requests": {"cpu": 0.5}}}, "spec.inference.resources.requests.cpu"),
        ({"scaling__metrics": []}, "spec.scaling.metrics"),
        ({"disruptionBudget": {"minAvailable": "half"}}, "spec.disruptionBudget.minAvailable"),
        ({"inference__resources": {"limits": {"memory": "1Gb"}}}, "spec.inference.resources.limits.memory"),
        ({"inference__podTemplate": {"nodeSelector": {}}}, "spec.inference.podTemplate.nodeSelector"),
        ({"scaling__minimum": 3}, "spec.scaling.minimum"),
        ({"kafka__consumerGroup": {"protocol": "eager"}}, "spec.kafka.consumerGroup.protocol"),
        *(
            ({"inference__resources": {"requests": {"cpu": amount}}}, "spec.inference.resources.requests.cpu")
            for amount in (-1, "-1", "-1m", 0.1, "1e100", "1K", "1 Gi", "one", "", ".", True)
        ),
        *(({"gateway__limits": {"message": amount}}, "spec.gateway.limits.message") for amount in (-1, "-1Gi", 2048.5)),
        *(
            ({"disruptionBudget": {"maxUnavailable": amount}}, "spec.disruptionBudget.maxUnavailable")
            for amount in (-1, "-1", "101%", "1", "%", 0.5)
        ),
        ({"disruptionBudget": {"minAvailable": -5}}, "spec.disruptionBudget.minAvailable"),
        *(
            ({"kafka__bootstrapServers": servers}, "spec.kafka.bootstrapServers")
            for servers in (
                "ka!fka:9092",
                "a..b:9092",
                "kafka:0",
                "kafka:65536",
                "a:1,,b:2",
                "a:1, b:2",
                "-a:1",
                "[::1:1",
            )
        ),
        *(
            ({"network": {"ingress": {"host": "a", "path": path}}}, "spec.network.ingress.path")
            for path in ("a", "//", "/a//b", "/a b", "/a#b", "/a?b", "/a/..", "/./a", "/a%2Fb", "/%zz", "/é")
        ),
        *(
            ({"network": {"route": {"parentRefs": [{"name": "p"}], "path": path}}}, "spec.network.route.path")
            for path in ("/a//b", "/a b", "/a#b")
        ),
        *(
            ({"network": {"ingress": {"host": host}}}, "spec.network.ingress.host")
            for host in ("a..b", ".a", "a-.b", "A", "1.2.3.4", "*", "a_b", "*.*.a")
        ),
        ({"network": {"route": {"parentRefs": [{"name": "a..b"}]}}}, "spec.network.route.parentRefs[0].name"),
        ({"kafka__sasl": {"secretName": "a..b"}}, "spec.kafka.sasl.secretName"),
        ({"kafka__sasl": {"secretName": "a", "usernameKey": "a b"}}, "spec.kafka.sasl.usernameKey"),
        *(
            ({"monitoring": {"interval": interval}}, "spec.monitoring.interval")
            for interval in ("1s1m", "1m1m", "0s", "1.5s")
        ),
        ({"gateway__drain": "1ms1s"}, "spec.gateway.drain"),
        ({"inference__timeout": "999999h"}, "spec.inference.timeout"),
        *(
            ({"gateway__auth": {"jwksUrl": url}}, "spec.gateway.auth.jwksUrl")
            for url in ("http:///x", "http://a b", "http://[::1", "http://a:99999", "http://a..b", "ftp://a")
        ),
        ({"replicas": "5"}, "spec.replicas"),
        ({"gateway__console": "yes"}, "spec.gateway.console"),
        ({"gateway__console": 1}, "spec.gateway.console"),
        ({"inference__port": True}, "spec.inference.port"),
        ({"inference__image_pull_policy": "Always"}, "spec.inference.image_pull_policy"),
        ({"inference__image": "digits :3"}, "spec.inference.image"),
        ({"kafka__bootstrapServers": None}, "spec.kafka.bootstrapServers"),
        ({"inference__env": [None]}, "spec.inference.env[0]"),
        ({"kafka__requests": {"name": ".."}}, "spec.kafka.requests.name"),
        ({"kafka__requests": {"name": "a" * 246}}, "spec.kafka.requests.name"),
        ({"topologySpread": {"keys": ["zone", "zone"]}}, "spec.topologySpread.keys"),
        ({"topologySpread": {"keys": ["a b"]}}, "spec.topologySpread.keys[0]"),
        ({"scaling__behavior": {"scaleUp": {"policies": []}}}, "spec.scaling.behavior.scaleUp.policies"),
        ({"network": {"networkPolicy": {"from": [{"ipBlock": {"cidr": "10.0.0.0/33"}}]}}}, "ipBlock.cidr"),
        ({"monitoring": {"labels": {"a": "b c"}}}, "spec.monitoring.labels.a"),
    ],
    ids=str,
)
def test_what_the_schema_refuses_validate_refuses_at_the_same_field(
    cluster: ApiServer, namespace: str, changed: dict[str, Any], field: str
) -> None:
    made = resource(**changed)
    (fault,) = load_manifests(yaml.safe_dump(made)).faults
    assert fault.field.endswith(field)
    with pytest.raises(Refused) as refused:
        apply(cluster, namespace, made, "--validate=strict", "--dry-run=server")
    assert field in str(refused.value)


@pytest.mark.parametrize("topic", ["requests", "results"])
def test_the_name_of_a_topic_can_t_change(cluster: ApiServer, namespace: str, topic: str) -> None:
    apply(cluster, namespace, resource(**{f"kafka__{topic}": {"name": "first"}}))
    apply(cluster, namespace, resource(**{f"kafka__{topic}": {"name": "first", "partitions": 32}}))
    for changed in ({"name": "second"}, {}):
        with pytest.raises(Refused, match=f"the name of the {topic} topic can't change"):
            apply(cluster, namespace, resource(**{f"kafka__{topic}": changed}))


def test_get_shows_the_columns_and_an_unknown_lag_stays_empty(cluster: ApiServer, namespace: str) -> None:
    cluster.kubectl("apply", "-n", namespace, "-f", str(EXAMPLE))
    ready = {"type": "Ready", "status": "True", "reason": "Serving", "message": "", "lastTransitionTime": _now()}
    status = {"conditions": [ready], "ready": "2/2", "sessions": 118, "lag": 0, "version": "3", "replicas": 2}
    patch = ("patch", "igw", "digits", "-n", namespace, "--subresource=status", "--type=merge", "-p")
    cluster.kubectl(*patch, json.dumps({"status": status}))
    heading, row = cluster.kubectl("get", "igw", "-n", namespace).splitlines()
    assert heading.split() == ["NAME", "READY", "REPLICAS", "SESSIONS", "LAG", "VERSION", "AGE"]
    assert row.split()[:6] == ["digits", "True", "2/2", "118", "0", "3"]
    cluster.kubectl(*patch, json.dumps({"status": {"lag": None}}))
    _, row = cluster.kubectl("get", "igw", "-n", namespace).splitlines()
    assert row.split()[:5] == ["digits", "True", "2/2", "118", "3"]


def test_scale_fixes_the_number_of_pods_and_keeps_the_rules(cluster: ApiServer, namespace: str) -> None:
    cluster.kubectl("apply", "-n", namespace, "-f", str(EXAMPLE))
    cluster.kubectl("scale", "igw", "digits", "-n", namespace, "--replicas=3")
    assert cluster.read("igw", "digits", "-n", namespace)["spec"]["replicas"] == 3
    with pytest.raises(Refused, match="replicas is greater than"):
        cluster.kubectl("scale", "igw", "digits", "-n", namespace, "--replicas=17")


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
