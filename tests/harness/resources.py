"""InferenceGateways for the tests: a good one, and wrong ones with what each must be told."""

import copy
from enum import Enum
from typing import Any, NamedTuple

import yaml

from harness.processes import ROOT
from podpair.operator.core.api.igw import InferenceGateway

EXAMPLE = ROOT / "examples" / "digits" / "inferencegateway.yaml"
REMOVED = Enum("Change", ["REMOVED"]).REMOVED  # it reads the same in every test process, as the names of tests must


def resource(**changed: Any) -> dict[str, Any]:
    """The digits example; `scaling__min=3` changes spec.scaling.min, REMOVED takes a field away, `name` names it."""
    made: dict[str, Any] = copy.deepcopy(yaml.safe_load(EXAMPLE.read_text()))
    for path, value in changed.items():
        if path == "name":
            made["metadata"]["name"] = value
            continue
        *sections, last = path.split("__")
        below = made["spec"]
        for section in sections:
            below = below.setdefault(section, {})
        if value is REMOVED:
            del below[last]
        else:
            below[last] = value
    return made


def gateway_at(servers: str, name: str, **changed: Any) -> InferenceGateway:
    """A resource whose topics, two partitions each, are at a broker; `changed` as for `resource`, kafka__… goes below."""
    kafka = {"bootstrapServers": servers, "requests": {"partitions": 2}, "results": {"partitions": 2}}
    scaling = {"min": 1, "max": 2, "metrics": [{"lag": 5}]}
    return InferenceGateway.model_validate(resource(name=name, **{"kafka": kafka, "scaling": scaling} | changed))


class Wrong(NamedTuple):
    """A resource that must be refused, where, and with which words."""

    changed: dict[str, Any]
    field: str
    words: str


_OTHER = {"inference__server": "other", "inference__models": [{"name": "digits"}]}
_SCALING = {"min": 2, "max": 4}
WRONG = {
    "an objective beyond the histogram": Wrong(
        {"monitoring__slo": {"latency": {"p99": "40s"}}}, "spec.monitoring.slo.latency", "p99 (40s) must be 30s at most"
    ),
    "workflows without a queue": Wrong(
        {"gateway__workflows": {}, "amqp": {"urlRef": {"name": "rabbitmq", "key": "url"}, "source": "amqp"}},
        "spec",
        "gateway.workflows needs Kafka's requests topic",
    ),
    "min over max": Wrong({"scaling": {"min": 9, "max": 4}}, "spec.scaling", "min (9) is greater than max (4)"),
    "too few request partitions": Wrong(
        {"kafka__requests": {"partitions": 4}},
        "spec",
        "kafka.requests.partitions (4) is less than scaling.max (10): pods beyond the partitions would get no queued work",
    ),
    "too few result partitions": Wrong(
        {"kafka__results": {"partitions": 4}}, "spec", "kafka.results.partitions (4) is less than scaling.max (10)"
    ),
    "replicas over partitions": Wrong(
        {"replicas": 17}, "spec", "replicas is greater than kafka.requests.partitions (16)"
    ),
    "one port for two protocols": Wrong(
        {"inference__grpcPort": 8081},
        "spec.inference",
        "port and grpcPort are the same (8081): give each protocol a port",
    ),
    "the gateway's public port": Wrong(
        {"inference__port": 8080},
        "spec.inference",
        "port (8080) and grpcPort (8082) must not be 8080 or 8083, which are the gateway's in the same pod: choose others",
    ),
    "the gateway's operators' port": Wrong(
        {"inference__grpcPort": 8083},
        "spec.inference",
        "port (8081) and grpcPort (8083) must not be 8080 or 8083, which are the gateway's in the same pod: choose others",
    ),
    "a burst of no rate": Wrong(
        {"gateway__admission": {"rules": [{"burst": 5}]}},
        "spec.gateway.admission.rules[0]",
        "burst says how far requestsPerSecond may be passed for a moment: set that too",
    ),
    "two kinds of auth": Wrong(
        {"gateway__auth__jwksUrl": "https://login.example/jwks"},
        "spec.gateway.auth",
        "exactly one of jwksUrl, secretRef, publicKeyRef must be set",
    ),
    "no kind of auth": Wrong({"gateway__auth": {"audience": "digits"}}, "spec.gateway.auth", "exactly one of jwksUrl"),
    "disabled auth beside a kind": Wrong(
        {"gateway__auth__disabled": True}, "spec.gateway.auth", "exactly one of jwksUrl"
    ),
    "drain over the grace period": Wrong(
        {"gateway__drain": "1m", "gateway__terminationGracePeriod": "1m10s"},
        "spec.gateway",
        "drain (1m) and shutdownTimeout (20s) must end 15s before terminationGracePeriod",
    ),
    "work in hand over the grace period": Wrong(
        {"gateway__shutdownTimeout": "10m", "gateway__terminationGracePeriod": "10m40s"},
        "spec.gateway",
        "drain (30s) and shutdownTimeout (10m) must end 15s before terminationGracePeriod",
    ),
    "a tiny message": Wrong(
        {"gateway__limits": {"message": 1000}}, "spec.gateway.limits", "message must be 1Ki at least"
    ),
    "a tiny buffer": Wrong(
        {"gateway__sessions": {"buffer": "1k"}}, "spec.gateway.sessions", "buffer must be 1Ki at least"
    ),
    "weights": Wrong(
        {"inference__models": [{"name": "d", "versions": [{"version": "1"}, {"version": "2"}]}]},
        "spec.inference.models[0]",
        "the weights of a model's versions must add up to 100",
    ),
    "one topic for both": Wrong(
        {"kafka__requests": {"name": "t"}, "kafka__results": {"name": "t"}},
        "spec.kafka",
        "requests and results need a topic each",
    ),
    "podpair's own properties": Wrong({"kafka__client": {"acks": "1"}}, "spec.kafka", "are podpair's own to set"),
    "podpair's own in capitals": Wrong({"kafka__client": {"GROUP.ID": "g"}}, "spec.kafka", "are podpair's own to set"),
    "a property under two spellings": Wrong(
        {"kafka__client": {"linger.ms": "5", "LINGER_MS": "6"}}, "spec.kafka", "a property is set twice"
    ),
    "podpair's own, underscored": Wrong({"kafka__client": {"Group_Id": "g"}}, "spec.kafka", "are podpair's own to set"),
    "adopting what may not be altered": Wrong(
        {"kafka__adoptTopics": True, "kafka__createTopics": False}, "spec.kafka", "may not alter can't be adopted"
    ),
    "no pods, and nothing that would bring them back": Wrong(
        {"scaling": {"min": 0, "max": 4, "metrics": [{"cpu": 50}, {"sessions": 9}]}},
        "spec.scaling",
        "with min: 0 lag must be among the metrics",
    ),
    "no pods, and a queue that only they see": Wrong(
        {
            "amqp": {"urlRef": {"name": "rabbitmq", "key": "url"}},
            "scaling": {"min": 0, "max": 4, "metrics": [{"lag": 5}]},
        },
        "spec",
        "with no pods nobody sees what waits in RabbitMQ",
    ),
    "no pods, and a workflow's next attempt is due": Wrong(
        {"gateway__workflows": {}, "scaling": {"min": 0, "max": 4, "metrics": [{"lag": 5}]}},
        "spec",
        "with no pods workflows stand still and deliveries aren't tried again",
    ),
    "no pods, and deliveries that wait for another attempt": Wrong(
        {"deliveries": {}, "scaling": {"min": 0, "max": 4, "metrics": [{"lag": 5}]}},
        "spec",
        "with no pods workflows stand still and deliveries aren't tried again",
    ),
    "two metrics in one": Wrong(
        {"scaling": {**_SCALING, "metrics": [{"cpu": 50, "lag": 10}]}},
        "spec.scaling.metrics[0]",
        "each metric has exactly one of cpu, lag, latency, sessions, inflight",
    ),
    "KEDA without Prometheus": Wrong(
        {"scaling": {**_SCALING, "metrics": [{"sessions": 9}], "provider": "keda"}},
        "spec.scaling",
        "KEDA reads latency, sessions and inflight from Prometheus: set prometheusUrl",
    ),
    "cpu without a request": Wrong(
        {"scaling": {**_SCALING, "metrics": [{"cpu": 50}]}, "inference__resources": {"requests": {"memory": "1Gi"}}},
        "spec",
        "set inference.resources.requests.cpu",
    ),
    "ingress and route": Wrong(
        {"network": {"ingress": {"host": "a.example"}, "route": {"parentRefs": [{"name": "public"}]}}},
        "spec.network",
        "ingress and route are both set: choose one",
    ),
    "a rollout that replaces no pod": Wrong(
        {"rollout": {"maxSurge": "0%"}}, "spec.rollout", "maxSurge and maxUnavailable are both 0"
    ),
    "a rollout of no pod more and none less": Wrong(
        {"rollout": {"maxSurge": 0, "maxUnavailable": "00%"}}, "spec.rollout", "no pod could be replaced"
    ),
    "a surge of what is recreated": Wrong(
        {"rollout": {"strategy": "recreate", "maxSurge": 1}}, "spec.rollout", "are for strategy: rolling"
    ),
    "two budgets": Wrong(
        {"disruptionBudget": {"minAvailable": 1, "maxUnavailable": "50%"}},
        "spec.disruptionBudget",
        "minAvailable and maxUnavailable are both set: choose one",
    ),
    "a limit under the request": Wrong(
        {"inference__resources": {"requests": {"cpu": "1.5"}, "limits": {"cpu": "1e0"}}},
        "spec.inference.resources",
        "requests may not be more than limits",
    ),
    "what no container has": Wrong(
        {"gateway__resources": {"requests": {"cpu": 1, "Memory": "1Gi"}}},
        "spec.gateway.resources",
        "a container has cpu, memory",
    ),
    "a part of a device": Wrong(
        {"inference__resources": {"limits": {"nvidia.com/gpu": ".5"}}},
        "spec.inference.resources",
        "huge pages and devices are counted in whole numbers",
    ),
    "a device that is only requested": Wrong(
        {"inference__resources": {"requests": {"cpu": 1, "nvidia.com/gpu": 1}}},
        "spec.inference.resources",
        "are requested by their limits",
    ),
    "half a huge page": Wrong(
        {"inference__resources": {"limits": {"hugepages-2Mi": "3Mi"}}},
        "spec.inference.resources",
        "huge pages are requested in multiples of their size",
    ),
    "cpu without the gateway's request": Wrong(
        {"scaling": {**_SCALING, "metrics": [{"cpu": 50}]}, "gateway__resources": {"requests": {"memory": "1Gi"}}},
        "spec",
        "set gateway.resources.requests.cpu",
    ),
    "cpu with a request of none": Wrong(
        {"scaling": {**_SCALING, "metrics": [{"cpu": 50}]}, "inference__resources": {"requests": {"cpu": "0.0"}}},
        "spec",
        "set inference.resources.requests.cpu",
    ),
    "too short a time to stop": Wrong(
        {"gateway__drain": "500ms", "inference__podTemplate": {"spec": {"terminationGracePeriodSeconds": 35}}},
        "spec",
        "is less than gateway.drain (500ms), gateway.shutdownTimeout (20s) and 15 s more take",
    ),
    "a variable with two values": Wrong(
        {"inference__env": [{"name": "A", "value": "1", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]},
        "spec.inference.env[0]",
        "value and valueFrom are both set: choose one",
    ),
    "two volumes at one place": Wrong(
        {"inference__volumes": [{"name": n, "mountPath": "/m", "source": {"emptyDir": {}}} for n in "ab"]},
        "spec.inference",
        "two are mounted at one place",
    ),
    "a volume of podpair's": Wrong(
        {"inference__volumes": [{"name": "podpair-tmp", "mountPath": "/m", "source": {"emptyDir": {}}}]},
        "spec.inference.volumes[0]",
        "are podpair's own: choose others",
    ),
    "the name of the other topic": Wrong(
        {"kafka__requests": {"name": "default.digits.results"}}, "spec.kafka", "ends as the results topic is called"
    ),
    "the name of the workflows' topic": Wrong(
        {"kafka__requests": {"name": "a"}, "kafka__results": {"name": "a.workflows"}},
        "spec.kafka",
        "that of the workflows' topic",
    ),
    "the name of the topic of presence": Wrong(
        {"kafka__requests": {"name": "a"}, "kafka__results": {"name": "a.presence"}},
        "spec.kafka",
        "that of the topic of presence",
    ),
    "a lease of presence that ends between two heartbeats": Wrong(
        {"gateway__presence": {"lease": "2s"}},
        "spec.gateway.presence",
        "lease (2s) must be between 3s and 1h",
    ),
    "workflows forgotten too soon": Wrong(
        {"gateway__workflows": {"remember": "59s"}},
        "spec.gateway.workflows",
        "remember (59s) must be between 1m and 8784h",
    ),
    "the name of the dead letters": Wrong(
        {"kafka__requests": {"name": "a"}, "kafka__results": {"name": "a.dlq"}},
        "spec.kafka",
        "that of the dead letters",
    ),
    "the name of the cache's topic": Wrong(
        {"kafka__requests": {"name": "a"}, "kafka__results": {"name": "a.cache"}},
        "spec.kafka",
        "that of the cache's topic",
    ),
    "a lease that is too long": Wrong(
        {"gateway__cache": {"models": [{"model": "m"}], "lease": "61s"}},
        "spec.gateway.cache",
        "must be between 200ms and 1m",
    ),
    "a cache without memory": Wrong(
        {"gateway__cache": {"models": [{"model": "m", "memory": "1"}]}},
        "spec.gateway.cache.models[0]",
        "memory must be 1Ki at least",
    ),
    "a property under both its names": Wrong(
        {"kafka__client": {"linger.ms": "5", "QUEUE_buffering.max.ms": "6"}}, "spec.kafka", "a property is set twice"
    ),
    "a session that outlasts Kafka's": Wrong(
        {"kafka__consumerGroup": {"sessionTimeout": "1h1s"}},
        "spec.kafka.consumerGroup",
        "sessionTimeout (1h1s) is more than 1h",
    ),
    "an annotation without a name": Wrong(
        {"network": {"service": {"annotations": {"a/": "b"}}}}, "spec.network.service", "annotations: a name is"
    ),
    "one Gateway twice": Wrong(
        {"network": {"route": {"parentRefs": [{"name": "a"}, {"name": "a", "sectionName": "b"}]}}},
        "spec.network.route",
        "one Gateway is named twice",
    ),
    "a peer of no kind": Wrong(
        {"network": {"networkPolicy": {"from": [{}]}}}, "spec.network.networkPolicy.from[0]", "a peer is an ipBlock, or"
    ),
    "a selector's operator without values": Wrong(
        {
            "network": {
                "networkPolicy": {"from": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}]}
            }
        },
        "spec.network.networkPolicy.from[0].podSelector.matchExpressions[0]",
        "values go with the operators In and NotIn",
    ),
    "versions of another's server": Wrong(
        {"inference__server": "other"},
        "spec.inference",
        "only podpair-inference keeps weights, and the server is another",
    ),
    "versions of Triton": Wrong(
        {"inference__image": "nvcr.io/nvidia/tritonserver:25.08-py3"}, "spec.inference", "only podpair-inference keeps"
    ),
    "versions of MLServer by digest": Wrong(
        {"inference__image": "seldonio/mlserver@sha256:0123"}, "spec.inference", "only podpair-inference keeps weights"
    ),
    "latency of another's server": Wrong(
        {**_OTHER, "scaling": {**_SCALING, "metrics": [{"latency": "50ms"}]}},
        "spec",
        "scaling by latency needs what only",
    ),
    "latency over gRPC": Wrong(
        {"inference__protocol": "grpc", "scaling": {**_SCALING, "metrics": [{"lag": 5}, {"latency": "50ms"}]}},
        "spec",
        "scaling by latency needs what only podpair-inference exports, over REST",
    ),
    "metrics at the model's port": Wrong(
        {"inference__metricsPort": 8081}, "spec.inference", "metricsPort must be a port of its own"
    ),
    "metrics at the gateway's port": Wrong(
        {"inference__metricsPort": 8083}, "spec.inference", "metricsPort must be a port of its own"
    ),
    "a probe of two kinds": Wrong(
        {"inference__probes": {"startup": {"command": ["true"], "httpGet": {}}}},
        "spec.inference.probes.startup",
        "command and httpGet are both set: choose one",
    ),
    "a long name": Wrong({"name": "d" * 53}, "", "metadata.name must be at most 52 lower-case letters"),
    "a name that begins with a digit": Wrong({"name": "3d"}, "", "and begin with a letter"),
}
