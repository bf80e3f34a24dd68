"""Every field of the resource does something: changed alone, it changes an object, a topic, or the way to the broker."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from harness.resources import resource
from podpair.operator.core.api.igw import InferenceGateway
from podpair.operator.core.broker_access import broker_access
from podpair.operator.core.crd import crd
from podpair.operator.core.credentials import Credentials
from podpair.operator.core.desired import Dependencies, desired
from podpair.operator.core.ownership import Origin, RecordedOwnership, Topic, TopicRecord, claim
from podpair.operator.core.topics import FoundTopic, plan_topics
from podpair.operator.core.wanted_topics import wanted_topics

DEPENDENCIES = Dependencies("podpair-gateway:test", "k" * 43, pod_monitors=True, prometheus_rules=True)
FULL: dict[str, Any] = {
    "inference": {
        "image": "digits:3",
        "imagePullSecrets": [{"name": "registry"}],
        "models": [{"name": "digits", "versions": [{"version": "3", "weight": 100}]}],
        "env": [{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
        "volumes": [{"name": "models", "mountPath": "/models", "source": {"emptyDir": {}}}],
    },
    "gateway": {
        "auth": {"secretRef": {"name": "jwt", "key": "secret"}},
        "env": [{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
        "terminationGracePeriod": "5m",
        "tls": {"certificateRef": {"name": "public"}},
        "admission": {"rules": [{"claim": "tenant", "requestsPerSecond": 5}]},
        "cache": {"models": [{"model": "digits"}]},
        "channels": {"rules": [{"subscribe": ["news"]}]},
        "presence": {"rules": [{"subjects": ["*"]}]},
        "workflows": {},
    },
    "kafka": {
        "bootstrapServers": "kafka:9092",
        "tls": {"caRef": {"name": "ca", "key": "ca.crt"}, "clientCertificateRef": {"name": "client"}},
        "sasl": {"secretName": "kafka"},
        "requests": {"partitions": 64},
        "results": {"partitions": 64},
    },
    "amqp": {
        "urlRef": {"name": "rabbitmq", "key": "url"},
        "caRef": {"name": "rabbitmq-ca", "key": "ca.crt"},
        "clientCertificateRef": {"name": "rabbitmq-client"},
        "queueType": "classic",
        "exchange": "events",
        "routingKeys": ["digits"],
    },
    "deliveries": {
        "rules": [{"claim": "roles"}],
        "email": {
            "host": "mail",
            "sender": "podpair@example.com",
            "login": {"username": "podpair", "passwordRef": {"name": "mail", "key": "password"}},
            "caRef": {"name": "mail-ca", "key": "ca.crt"},
        },
        "webPush": {"privateKeyRef": {"name": "push", "key": "key.pem"}, "contact": "mailto:ops@example.com"},
    },
    "scaling": {
        "min": 2,
        "max": 32,
        "behavior": {
            direction: {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 30}]}
            for direction in ("scaleUp", "scaleDown")
        },
    },
    "network": {
        "ingress": {"host": "digits.example", "tlsSecretName": "tls"},
        "networkPolicy": {"from": [{"podSelector": {}}], "operationsFrom": [{"podSelector": {}}]},
    },
    "rollout": {"maxSurge": 1, "maxUnavailable": 1},
    "disruptionBudget": {"maxUnavailable": 1},
    "tracing": {"endpoint": "http://collector:4318/v1/traces"},
}
ROUTE = {"parentRefs": [{"name": "public"}]}
KEDA = {"provider": "keda", "prometheusUrl": "http://one", "metrics": [{"sessions": 5}]}
# What else a field needs to be there, or not to be, by how its path begins.
BESIDES: dict[str, dict[str, Any]] = {
    "amqp.declare": {"amqp": {"urlRef": {"name": "rabbitmq", "key": "url"}}},
    "amqp.source": {"gateway": {"auth": {"secretRef": {"name": "jwt", "key": "secret"}}}},
    "gateway.auth.jwksUrl": {"gateway.auth": {"jwksUrl": "https://one"}},
    "gateway.auth.publicKeyRef": {"gateway.auth": {"publicKeyRef": {"name": "jwt", "key": "pem"}}},
    "network.route": {"network": {"route": ROUTE}},
    "disruptionBudget.minAvailable": {"disruptionBudget": {"minAvailable": 1}},
    "scaling.prometheusUrl": {"scaling": KEDA},
    "inference.server": {"inference.models": [{"name": "d"}]},
}
PEERS: dict[str, tuple[Any, Any]] = {
    **{
        f"{selector}.{path}": ({selector: one}, {selector: other})
        for selector in ("podSelector", "namespaceSelector")
        for path, one, other in (
            ("matchLabels", {}, {"matchLabels": {"a": "b"}}),
            *(
                (f"matchExpressions[].{name}", *({"matchExpressions": [{"key": "a", **it}]} for it in both))
                for name, both in {
                    "key": ({"operator": "Exists"}, {"key": "b", "operator": "Exists"}),
                    "operator": ({"operator": "Exists"}, {"operator": "DoesNotExist"}),
                    "values": ({"operator": "In", "values": ["a"]}, {"operator": "In", "values": ["b"]}),
                }.items()
            ),
        )
    },
    "ipBlock.cidr": ({"ipBlock": {"cidr": "10.0.0.0/8"}}, {"ipBlock": {"cidr": "11.0.0.0/8"}}),
    "ipBlock.except": (
        {"ipBlock": {"cidr": "10.0.0.0/8"}}, {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}
    ),
}  # fmt: skip
# What can't be told from the schema: both values, of the field or of what it is part of.
VALUES: dict[str, tuple[str, Any, Any]] = {
    "rollout.strategy": ("rollout", {"strategy": "rolling"}, {"strategy": "recreate"}),
    "gateway.auth.disabled": ("gateway.auth", {"jwksUrl": "https://one"}, {"disabled": True}),
    "inference.models[].versions[].weight": (
        "inference.models",
        [{"name": "d", "versions": [{"version": "1", "weight": 10}, {"version": "2", "weight": 90}]}],
        [{"name": "d", "versions": [{"version": "1", "weight": 90}, {"version": "2", "weight": 10}]}],
    ),
    "inference.server": ("inference.server", "podpair", "other"),
    "inference.podTemplate.metadata": ("inference.podTemplate.metadata", {}, {"labels": {"team": "ml"}}),
    "inference.env[].valueFrom": ("inference.env[1].valueFrom", {"fieldRef": {"fieldPath": "a"}}, {"b": {}}),
    "gateway.env[].valueFrom": ("gateway.env[1].valueFrom", {"fieldRef": {"fieldPath": "a"}}, {"b": {}}),
    "inference.volumes[].source": ("inference.volumes[0].source", {"emptyDir": {}}, {"hostPath": {}}),
    "gateway.admission.rules[].routes": ("gateway.admission.rules[0].routes", ["auto"], ["direct", "queue"]),
    "kafka.client": ("kafka.client", {}, {"socket.keepalive.enable": "true"}),
    "gateway.trustedProxies": ("gateway.trustedProxies", ["10.0.0.0/8"], ["10.0.0.0/16"]),
    "gateway.workflows.remember": ("gateway.workflows.remember", "1m", "2m"),
    "deliveries.email.sender": ("deliveries.email.sender", "a@example.com", "b@example.com"),
    "deliveries.email.security": ("deliveries.email.security", "starttls", "tls"),
    "deliveries.webPush.contact": ("deliveries.webPush.contact", "mailto:a@example.com", "https://b.example"),
    "deliveries.absentAfter": ("deliveries.absentAfter", "1m", "2m"),
    "deliveries.webPush.ttl": ("deliveries.webPush.ttl", "1m", "2m"),
    "deliveries.rules[].kinds": ("deliveries.rules[0].kinds", ["slack"], ["email", "web_push"]),
    "deliveries.ports": ("deliveries.ports", [443], [8443]),
    "deliveries.allowedNetworks": ("deliveries.allowedNetworks", ["10.0.0.0/8"], ["11.0.0.0/8"]),
    "gateway.origins": ("gateway.origins", ["https://one"], ["https://two"]),
    "gateway.terminationGracePeriod": ("gateway.terminationGracePeriod", "100s", "101s"),
    "inference.resources.requests": ("inference.resources.requests", {"cpu": 1}, {"cpu": 2}),
    "gateway.resources.requests": ("gateway.resources.requests", {"cpu": 1}, {"cpu": 2}),
    "inference.podTemplate.spec.terminationGracePeriodSeconds": (
        "inference.podTemplate.spec",
        {},
        {"terminationGracePeriodSeconds": 600},
    ),
    **{
        f"network.networkPolicy.{field}[].{path}": (f"network.networkPolicy.{field}[0]", *both)
        for field in ("from", "operationsFrom")
        for path, both in PEERS.items()
    },
    **{path: (path, 64, 65) for path in ("kafka.requests.partitions", "kafka.results.partitions")},
    "monitoring.slo.availability": ("monitoring.slo.availability", 99.5, 99.9),
    "monitoring.slo.lagAge": ("monitoring.slo.lagAge", "5m", "6m"),
    "monitoring.slo.window": ("monitoring.slo.window", "720h", "360h"),
    "kafka.bootstrapServers": ("kafka.bootstrapServers", "one:1", "two:2"),
    "scaling.behavior.scaleUp.policies[].type": ("scaling.behavior.scaleUp.policies[0].type", "Pods", "Percent"),
    "scaling.metrics[].cpu": ("scaling.metrics", [{"cpu": 50}], [{"cpu": 60}]),
    "scaling.metrics[].latency": ("scaling.metrics", [{"latency": "50ms"}], [{"latency": "60ms"}]),
    **{
        f"scaling.metrics[].{name}": ("scaling.metrics", [{name: 5}], [{name: 6}])
        for name in ("lag", "sessions", "inflight")
    },
}
AT_THE_END = {"kafka.deletionPolicy"}  # shows only when the resource is deleted: tests/cluster/test_finalizer.py


def fields(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field that holds a value rather than other fields, and its schema."""
    if properties := schema.get("properties"):
        for name, below in properties.items():
            yield from fields(below, f"{path}.{name}" if path else name)
    elif schema.get("type") == "array" and schema["items"].get("properties"):
        yield from fields(schema["items"], f"{path}[]")
    else:
        yield path, schema


ALL = dict(fields(crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]))
CHOICES = [path for path, schema in ALL.items() if len(schema.get("enum", "two")) > 1 and path not in AT_THE_END]


def put(spec: dict[str, Any], path: str, value: Any) -> None:
    """Sets what is at `a.b[0].c`; [] is [0]."""
    *way, last = path.replace("[]", ".0").replace("[", ".").replace("]", "").split(".")
    below: Any = spec
    for step in way:
        below = below[int(step)] if isinstance(below, list) else below.setdefault(step, {})
    below[int(last) if isinstance(below, list) else last] = value


def values(path: str, schema: dict[str, Any]) -> tuple[str, Any, Any]:
    """Where to put something, and two values that the schema takes there."""
    if path in VALUES:
        return VALUES[path]
    if "enum" in schema:
        return path, schema["enum"][0], schema["enum"][-1]
    if schema.get("x-kubernetes-int-or-string"):
        return path, 2000, 3000
    if schema["type"] == "boolean":
        return path, False, True
    if schema["type"] == "number":
        return path, 0.25, 0.75
    if schema["type"] == "integer":
        return path, 17, 18
    if schema["type"] == "array":
        return path, ["one"], ["two", "three"]
    if schema["type"] == "object":
        return path, {}, {"nvidia.com/gpu": "1"}
    pattern = schema.get("pattern", "")
    if "ms)?" in pattern:
        return path, "6s", "7s"
    start = {"^/": "/", "^https?": "https://"}
    begin = next((text for sign, text in start.items() if pattern.startswith(sign)), "")
    return path, f"{begin}one", f"{begin}two"


def footprint(spec: dict[str, Any]) -> list[Any]:
    """All that follows from a resource."""
    gateway = InferenceGateway.model_validate(resource() | {"spec": spec})
    found = {topic.name: FoundTopic(1, 1, {}) for topic in wanted_topics(gateway)}
    credentials = Credentials("me", "secret", "ca", "certificate", "key")
    claims = [
        {
            name: claim(gateway, name, Topic("id", {}), None, known, adopt=gateway.spec.kafka.adopt_topics)
            for name in found
        }
        for known in (
            RecordedOwnership(),
            RecordedOwnership(tuple(TopicRecord(name, "id", Origin.CREATED) for name in found)),
        )
    ]
    plans = [plan_topics(gateway, found, one, RecordedOwnership()) for one in claims]
    plans += [plan_topics(gateway, {}, {}, RecordedOwnership())]
    return [desired(gateway, DEPENDENCIES), wanted_topics(gateway), plans, broker_access(gateway, credentials)]


@pytest.mark.parametrize("path", CHOICES)
def test_a_field_that_changes_changes_something(path: str) -> None:
    at, *both = values(path, ALL[path])
    made = []
    for value in both:
        spec = copy.deepcopy(FULL)
        for begins, besides in BESIDES.items():
            if path.startswith(begins):
                for place, section in besides.items():
                    put(spec, place, copy.deepcopy(section))
        put(spec, at, value)
        made.append(footprint(spec))
    assert made[0] != made[1], f"{at}: {both[0]} or {both[1]}, it is all the same"
