"""What a resource becomes, read as the one who has to run it would."""

import base64
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.processes import free_port
from harness.resources import REMOVED, resource
from podpair.gateway.config.load import load
from podpair.gateway.config.model import AdmissionRule, Config
from podpair.inference.config.settings import load_settings
from podpair.operator.core.desired import Surroundings, desired
from podpair.operator.core.objects.network import operator_namespace_of
from podpair.operator.core.objects.references import missing, named
from podpair.operator.core.resource.igw import InferenceGateway

AROUND = Surroundings(gateway_image="podpair-gateway:test", resume_key="k" * 43)
ALL_OF_A_RULE = {
    "claim": "tenant", "value": "acme", "sessions": 1, "requestsPerSecond": 2, "burst": 3, "inFlight": 4,
    "models": ["chat-*"], "routes": ["queue"], "priority": "low",
}  # fmt: skip
SASL_AND_TLS = {
    "kafka__tls": {"caRef": {"name": "ca", "key": "ca.crt"}, "clientCertificateRef": {"name": "client"}},
    "kafka__sasl": {"secretName": "kafka"},
}


def objects(around: Surroundings = AROUND, **changed: Any) -> dict[str, Any]:
    """The objects by kind; the second ConfigMap, of the models, is `Models`."""
    made = desired(InferenceGateway.model_validate(resource(**changed)), around)
    by_kind = {"Models" if one["metadata"]["name"].endswith("-models") else one["kind"]: one for one in made}
    assert len(by_kind) == len(made)
    return by_kind


def pod(**changed: Any) -> dict[str, Any]:
    spec: dict[str, Any] = objects(**changed)["Deployment"]["spec"]["template"]["spec"]
    return spec


def gateway_config(tmp_path: Path, **changed: Any) -> Config:
    """The ConfigMap's file, read by the gateway itself."""
    file = tmp_path / "gateway.yaml"
    file.write_text(objects(**changed)["ConfigMap"]["data"]["gateway.yaml"])
    return load(file)


def test_the_gateway_reads_its_configuration(tmp_path: Path) -> None:
    auth = {"jwksUrl": "https://login.example/jwks", "audience": "digits", "sessionClaim": "tab"}
    config = gateway_config(tmp_path, gateway__auth=auth)
    assert (config.http.host, config.http.port) == ("0.0.0.0", 8080)
    assert (config.operations.enabled, config.operations.host, config.operations.port) == (True, None, 8083)
    assert (config.auth.jwks_url, config.auth.audience) == ("https://login.example/jwks", "digits")
    assert config.auth.session_claim == "tab"
    assert (config.kafka.bootstrap_servers, config.kafka.client) == ("kafka.kafka.svc:9092", {})
    assert (config.requests.topic, config.requests.group) == ("default.digits.requests", "default.digits")
    assert (config.results.topic, config.results.partitions) == ("default.digits.results", 16)
    assert config.inference.url == "http://127.0.0.1:8081"
    assert config.console.model == "digits"


def test_every_wish_reaches_the_gateway(tmp_path: Path) -> None:
    config = gateway_config(
        tmp_path,
        gateway={
            "auth": {"secretRef": {"name": "jwt", "key": "secret"}, "leeway": "0s", "requiredClaims": ["sub"]},
            "sessions": {"max": 5, "idle": "0s", "heartbeat": "500ms", "resume": "1h30m", "buffer": "64Ki"},
            "limits": {"message": "2M", "inFlight": 3, "direct": 4, "queued": 6, "attempts": 7},
            "admission": {"rules": [{}, ALL_OF_A_RULE], "shed": False},
            "origins": ["https://app.example"],
            "drain": "1m",
            "console": True,
            "logLevel": "debug",
        },
        kafka={
            "bootstrapServers": "a:1,b:2",
            "client": {"socket.keepalive.enable": "true"},
            "createTopics": False,
            "requests": {
                "name": "in",
                "partitions": 32,
                "replication": 3,
                "ordering": "session",
                "exactlyOnce": True,
            },
            "results": {"name": "out", "partitions": 64, "replication": 2, "retention": "2h"},
            "deadLetters": {"enabled": False, "retention": "1h"},
            "consumerGroup": {"id": "g", "sessionTimeout": "6s"},
            **{name.removeprefix("kafka__"): value for name, value in SASL_AND_TLS.items()},
        },
        inference__port=9000,
        inference__grpcPort=9001,
        inference__timeout="2s",
        inference__models=REMOVED,
    )
    assert str(config.auth.secret_file) == "/run/secrets/podpair/podpair-auth/secret"
    assert (config.auth.leeway_seconds, config.auth.required_claims) == (0, ("sub",))
    sessions = config.sessions
    assert (sessions.idle_seconds, sessions.heartbeat_seconds, sessions.resume_seconds) == (0, 0.5, 5400)
    assert (sessions.buffer_bytes, sessions.drain_seconds) == (65_536, 60)
    limits = config.limits
    assert (limits.sessions, limits.message_bytes, limits.in_flight, limits.direct) == (5, 2_000_000, 3, 4)
    first, second = config.admission.rules
    assert (first, config.admission.shed) == (AdmissionRule(), False)
    assert second == AdmissionRule(
        claim="tenant", value="acme", sessions=1, requests_per_second=2, burst=3, in_flight=4, models=("chat-*",),
        routes=("queue",), priority="low",
    )  # fmt: skip
    assert (config.requests.in_flight, config.requests.attempts, config.requests.group) == (6, 7, "g")
    assert (config.requests.topic, config.requests.partitions, config.requests.replication) == ("in", 32, 3)
    assert (config.requests.ordering, config.requests.exactly_once) == ("session", True)
    assert (config.results.topic, config.results.partitions, config.results.replication) == ("out", 64, 2)
    assert (config.results.retention_seconds, config.requests.session_timeout_seconds) == (7200, 6)
    assert (config.requests.dead_letters, config.requests.dead_letter_retention_seconds) == (False, 3600)
    assert config.kafka.client == {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "ssl.ca.location": "/run/secrets/podpair/podpair-kafka-ca/ca.crt",
        "ssl.certificate.location": "/run/secrets/podpair/podpair-kafka-client/tls.crt",
        "ssl.key.location": "/run/secrets/podpair/podpair-kafka-client/tls.key",
        "socket.keepalive.enable": "true",
    }
    assert (config.kafka.create_topics, config.kafka.await_topics) == (False, True)
    assert (config.inference.url, config.inference.timeout_seconds) == ("http://127.0.0.1:9000", 2)
    assert (config.http.origins, config.console.enabled, config.log.level) == (("https://app.example",), True, "debug")


def test_traces_go_from_both_containers_to_the_collector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert gateway_config(tmp_path).tracing.endpoint is None
    endpoint = "http://collector:4318/v1/traces"
    changed: dict[str, Any] = {"tracing": {"endpoint": endpoint, "sample": 0.5}}
    found = gateway_config(tmp_path, **changed).tracing
    assert (found.endpoint, found.sample, found.service) == (endpoint, 0.5, "digits-gateway")
    own = [{"name": "PODPAIR_TRACING__SERVICE", "value": "mine"}]
    variables = pod(inference__env=own, **changed)["initContainers"][0]["env"]
    assert len({one["name"] for one in variables}) == len(variables)
    for one in variables:
        monkeypatch.setenv(one["name"], one["value"])
    inside = load_settings().tracing
    # Which requests are traced is the gateway's to decide.
    assert (inside.endpoint, inside.sample, inside.service) == (endpoint, 0.0, "mine")


def test_a_certificate_of_the_pods_own_is_mounted_and_whoever_asks_them_is_told(tmp_path: Path) -> None:
    changed: dict[str, Any] = {"gateway__tls": {"certificateRef": {"name": "public"}}}
    http = gateway_config(tmp_path, **changed).http
    folder = "/run/secrets/podpair/podpair-tls"
    assert (str(http.certificate_file), str(http.key_file)) == (f"{folder}/tls.crt", f"{folder}/tls.key")
    volumes = {volume["name"]: volume for volume in pod(**changed)["volumes"]}
    assert volumes["podpair-tls"]["secret"]["secretName"] == "public"
    container = pod(**changed)["containers"][0]
    assert folder in [mount["mountPath"] for mount in container["volumeMounts"]]
    made = objects(replace(AROUND, pod_monitors=True), **changed)
    assert made["Service"]["spec"]["ports"][0]["appProtocol"] == "https"
    # The operators' port is plain HTTP all the same.
    for probe in ("readinessProbe", "startupProbe", "livenessProbe"):
        assert container[probe] == pod()["containers"][0][probe]
    assert made["PodMonitor"]["spec"] == objects(replace(AROUND, pod_monitors=True))["PodMonitor"]["spec"]


def test_probes_and_prometheus_ask_at_the_operators_port_and_clients_find_the_public_one() -> None:
    way_in = {"network": {"ingress": {"host": "d.example"}}}
    made = objects(replace(AROUND, pod_monitors=True), **way_in)
    (container,) = made["Deployment"]["spec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": 8080, "operations": 8083}
    asked = {probe: container[probe]["httpGet"] for probe in ("readinessProbe", "startupProbe", "livenessProbe")}
    assert asked == {
        "readinessProbe": {"path": "/readyz", "port": "operations"},
        "startupProbe": {"path": "/healthz", "port": "operations"},
        "livenessProbe": {"path": "/healthz", "port": "operations"},
    }
    (endpoint,) = made["PodMonitor"]["spec"]["podMetricsEndpoints"]
    assert (endpoint["port"], endpoint["path"], "scheme" in endpoint) == ("operations", "/metrics", False)
    (port,) = made["Service"]["spec"]["ports"]
    assert port["targetPort"] == "http"
    (rule,) = made["Ingress"]["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    assert path["backend"]["service"] == {"name": made["Service"]["metadata"]["name"], "port": {"name": port["name"]}}


def test_the_operators_port_is_for_the_operator_and_prometheus() -> None:
    def ingress(around: Surroundings = AROUND, **policy: Any) -> list[dict[str, Any]]:
        rules: list[dict[str, Any]] = objects(around, network={"networkPolicy": policy})["NetworkPolicy"]["spec"][
            "ingress"
        ]
        return rules

    operator = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "podpair"}}}
    prometheus = {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}}}
    public, operations = ingress()
    assert public == {"ports": [{"port": 8080, "protocol": "TCP"}]}  # everybody
    assert operations == {"ports": [{"port": 8083, "protocol": "TCP"}], "from": [operator, prometheus]}
    web = {"podSelector": {"matchLabels": {"app": "web"}}}
    assert ingress(**{"from": [web]}) == [{**public, "from": [web]}, operations]  # which opens the other to nobody
    agent = {"ipBlock": {"cidr": "10.0.0.0/8"}}
    assert ingress(operationsFrom=[agent]) == [public, {**operations, "from": [operator, agent]}]
    assert ingress(operationsFrom=[]) == [public, {**operations, "from": [operator]}]
    elsewhere = ingress(replace(AROUND, operator_namespace="ops"), operationsFrom=[])[1]["from"]
    assert elsewhere == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ops"}}}]


def test_plan_finds_the_operators_namespace_in_the_policy_that_is_there() -> None:
    for changed in ({}, {"operationsFrom": []}, {"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}):
        live = objects(replace(AROUND, operator_namespace="ops"), network={"networkPolicy": changed})["NetworkPolicy"]
        assert operator_namespace_of(live) == "ops"
    rules = [{"ports": [{"port": 8080, "protocol": "TCP"}]}, {}]  # of before, and somebody else's
    assert operator_namespace_of({"spec": {"ingress": rules}}) is None
    assert operator_namespace_of({"spec": {}}) is None


def test_a_renewed_certificate_rolls_no_pods() -> None:
    changed = resource(gateway__tls={"certificateRef": {"name": "public"}}, **SASL_AND_TLS)
    found = {one.name: one for one in named(InferenceGateway.model_validate(changed))}
    assert {one.name for one in found.values() if not one.rolls} == {"public"}
    told = missing(found["public"], "default", {"tls.crt"})
    assert told == "Secret default/public has no tls.key (spec.gateway.tls.certificateRef needs it): add the key"


@pytest.mark.parametrize(
    ("auth", "setting"),
    [
        ({"disabled": True}, {"disabled": True}),
        (
            {"publicKeyRef": {"name": "jwt", "key": "key.pem"}},
            {"public_key_file": "/run/secrets/podpair/podpair-auth/key.pem"},
        ),
    ],
)
def test_each_kind_of_auth(tmp_path: Path, auth: dict[str, Any], setting: dict[str, Any]) -> None:
    found = gateway_config(tmp_path, gateway__auth=auth).auth.model_dump(mode="json")
    assert {name: found[name] for name in setting} == setting


def test_every_file_that_the_configuration_names_is_mounted() -> None:
    changed = {"gateway__auth": {"secretRef": {"name": "jwt", "key": "secret"}}, **SASL_AND_TLS}
    text = objects(**changed)["ConfigMap"]["data"]["gateway.yaml"]
    named = {word for word in text.split() if word.startswith("/run/secrets/")}
    spec = pod(**changed)
    (gateway,) = spec["containers"]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    mounted = {
        f"{mount['mountPath']}/{item['path']}"
        for mount in gateway["volumeMounts"]
        for item in volumes[mount["name"]].get("secret", {}).get("items", [])
    }
    assert len(named) == 5
    assert named == mounted


def test_no_secret_stands_in_the_config_map() -> None:
    made = objects(**SASL_AND_TLS)
    assert "k" * 43 not in yaml.safe_dump(made["ConfigMap"])
    assert base64.b64decode(made["Secret"]["data"]["resume-key"]) == b"k" * 43
    (gateway,) = made["Deployment"]["spec"]["template"]["spec"]["containers"]
    password = {
        "name": "PODPAIR_KAFKA__CLIENT__SASL_PASSWORD",
        "valueFrom": {"secretKeyRef": {"name": "kafka", "key": "password"}},
    }
    assert password in gateway["env"]


def test_the_model_starts_before_the_gateway_and_ends_after_it() -> None:
    spec = pod()
    (inference,) = spec["initContainers"]
    (gateway,) = spec["containers"]
    assert (inference["name"], inference["restartPolicy"]) == ("inference", "Always")
    assert gateway["image"] == "podpair-gateway:test"
    # 5 s to be forgotten, 30 s of drain, 20 s for the work in hand, 10 s for the model.
    assert spec["terminationGracePeriodSeconds"] == 65
    assert pod(gateway__drain="90s")["terminationGracePeriodSeconds"] == 125
    assert pod(gateway__terminationGracePeriod="5m")["terminationGracePeriodSeconds"] == 300


@pytest.mark.parametrize(("status", "well"), [(200, True), (503, False), (None, False)])
def test_probes_ask_the_model_inside_its_container(status: int | None, well: bool) -> None:
    asked: list[str] = []

    class Model(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status or 500)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    with HTTPServer(("127.0.0.1", 0), Model) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,)).start()
        port = server.server_port if status is not None else free_port()
        (inference,) = pod(inference__port=port)["initContainers"]
        for probe in ("startupProbe", "livenessProbe"):
            command = [sys.executable, *inference[probe]["exec"]["command"][1:]]
            assert (subprocess.run(command, capture_output=True, check=False).returncode == 0) == well
        server.shutdown()
    assert asked == ([] if status is None else ["/v2/health/ready", "/v2/health/live"])


def test_the_gateway_asks_over_grpc_where_it_is_told_to(tmp_path: Path) -> None:
    changed = {"inference__protocol": "grpc", "inference__grpcPort": 9001, "scaling__metrics": [{"lag": 5}]}
    config = gateway_config(tmp_path, **changed)
    assert config.inference.url == "grpc://127.0.0.1:9001"
    (inference,) = pod(**changed)["initContainers"]
    told = {one["name"]: one["value"] for one in inference["env"]}
    assert (told["PODPAIR_SERVER__PORT"], told["PODPAIR_GRPC__PORT"]) == ("8081", "9001")


def test_replicas_are_written_only_where_no_autoscaler_owns_them() -> None:
    scaled, fixed, pinned = objects(), objects(scaling={"min": 3, "max": 3}), objects(replicas=5)
    assert "replicas" not in scaled["Deployment"]["spec"]
    assert scaled["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == "digits"
    for made, replicas in ((fixed, 3), (pinned, 5)):
        assert made["Deployment"]["spec"]["replicas"] == replicas
        assert "HorizontalPodAutoscaler" not in made


def test_the_autoscaler_is_quick_up_and_slow_down_and_takes_wishes() -> None:
    metrics = [{"cpu": 60}, {"lag": 100}, {"latency": "50ms"}, {"latency": "2s"}, {"sessions": 5000}, {"inflight": 32}]
    behavior = {"scaleDown": {"stabilizationWindowSeconds": 60}, "scaleUp": {"selectPolicy": "Disabled"}}
    spec = objects(scaling={"max": 9, "metrics": metrics, "behavior": behavior})["HorizontalPodAutoscaler"]["spec"]
    assert spec["behavior"]["scaleDown"]["stabilizationWindowSeconds"] == 60
    assert spec["behavior"]["scaleDown"]["policies"][1] == {"type": "Percent", "value": 10, "periodSeconds": 60}
    assert spec["behavior"]["scaleUp"]["selectPolicy"] == "Disabled"
    cpu, *external = spec["metrics"]
    assert cpu["resource"]["target"] == {"type": "Utilization", "averageUtilization": 60}
    assert [(one["external"]["metric"]["name"], one["external"]["target"]) for one in external] == [
        ("podpair_lag", {"type": "AverageValue", "averageValue": "100"}),
        ("podpair_latency_seconds", {"type": "Value", "value": "50m"}),
        ("podpair_latency_seconds", {"type": "Value", "value": "2"}),
        ("podpair_sessions", {"type": "AverageValue", "averageValue": "5000"}),
        ("podpair_inflight", {"type": "AverageValue", "averageValue": "32"}),
    ]


def test_keda_instead() -> None:
    scaling = {
        "max": 9,
        "provider": "keda",
        "prometheusUrl": "http://prometheus:9090",
        "metrics": [{"cpu": 60}, {"lag": 100}, {"latency": "50ms"}, {"sessions": 10}, {"inflight": 5}],
    }
    made = objects(scaling=scaling, **SASL_AND_TLS)
    assert "HorizontalPodAutoscaler" not in made
    assert "replicas" not in made["Deployment"]["spec"]
    cpu, lag, latency, sessions, inflight = made["ScaledObject"]["spec"]["triggers"]
    assert (cpu["type"], cpu["metadata"]) == ("cpu", {"value": "60"})
    assert lag["metadata"]["topic"] == "default.digits.requests"
    assert (lag["metadata"]["sasl"], lag["metadata"]["tls"]) == ("scram_sha512", "enable")
    assert lag["authenticationRef"] == {"name": made["TriggerAuthentication"]["metadata"]["name"]}
    assert [one["parameter"] for one in made["TriggerAuthentication"]["spec"]["secretTargetRef"]] == [
        "username", "password", "ca", "cert", "key",
    ]  # fmt: skip
    assert (latency["metricType"], latency["metadata"]["threshold"]) == ("Value", "0.05")
    assert 'podpair_gateway_sessions{namespace="default",pod=~"digits-' in sessions["metadata"]["query"]
    assert inflight["metadata"]["threshold"] == "5"
    plain = objects(scaling=scaling | {"metrics": [{"lag": 5}]})
    assert "TriggerAuthentication" not in plain
    assert "authenticationRef" not in plain["ScaledObject"]["spec"]["triggers"][0]


def test_the_metrics_that_keda_asks_for_are_the_gateway_s() -> None:
    from prometheus_client import generate_latest

    from podpair.gateway.metrics import Metrics

    exposed = generate_latest(Metrics().registry).decode()
    for name in ("sessions", "direct_in_flight", "queue_in_flight", "request_seconds"):
        assert f"# TYPE podpair_gateway_{name} " in exposed


def test_a_change_of_configuration_or_of_a_secret_rolls_the_pods() -> None:
    def annotations(around: Surroundings = AROUND, **changed: Any) -> dict[str, str]:
        made = objects(around, **SASL_AND_TLS, **changed)["Deployment"]["spec"]["template"]["metadata"]["annotations"]
        assert isinstance(made, dict)
        return made

    def around(**known: str) -> Surroundings:
        return Surroundings(AROUND.gateway_image, AROUND.resume_key, secrets=known)

    first = annotations()
    assert annotations() == first
    assert annotations(gateway__logLevel="debug")["podpair.dev/config-checksum"] != first["podpair.dev/config-checksum"]
    assert annotations(around(kafka="1"))["podpair.dev/secrets-checksum"] != first["podpair.dev/secrets-checksum"]
    assert annotations(around(kafka="1")) != annotations(around(kafka="2"))
    assert annotations(around(stranger="1")) == first
    assert annotations(Surroundings(AROUND.gateway_image, "l" * 43)) != first


def test_every_object_belongs_to_its_resource() -> None:
    made = resource()
    made["metadata"] |= {"uid": "u-1", "namespace": "ml"}
    for one in desired(InferenceGateway.model_validate(made), AROUND):
        (owner,) = one["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"], owner["uid"], owner["controller"]) == (
            "InferenceGateway",
            "digits",
            "u-1",
            True,
        )
        assert one["metadata"]["namespace"] == "ml"
        assert one["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "podpair-operator"
    assert all("ownerReferences" not in one["metadata"] for one in objects().values())


def test_an_overlay_is_laid_over_the_pods_by_name() -> None:
    over = {
        "metadata": {"labels": {"team": "vision", "podpair.dev/gateway": "stolen"}, "annotations": {"a": "b"}},
        "spec": {
            "nodeSelector": {"gpu": "yes"},
            "topologySpreadConstraints": [{"topologyKey": "kubernetes.io/hostname", "$patch": "delete"}],
            "initContainers": [{"name": "inference", "securityContext": {"runAsUser": 1000}, "livenessProbe": None}],
            "containers": [
                {"name": "gateway", "env": [{"name": "TZ", "value": "UTC"}]},
                {"name": "proxy", "image": "proxy:1"},
            ],
        },
    }
    template = objects(inference__podTemplate=over)["Deployment"]["spec"]["template"]
    assert template["metadata"]["labels"]["team"] == "vision"
    assert template["metadata"]["labels"]["podpair.dev/gateway"] == "digits"
    assert template["metadata"]["annotations"]["a"] == "b"
    spec = template["spec"]
    assert spec["nodeSelector"] == {"gpu": "yes"}
    assert [one["topologyKey"] for one in spec["topologySpreadConstraints"]] == ["topology.kubernetes.io/zone"]
    (inference,) = spec["initContainers"]
    assert inference["securityContext"] == {
        "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsUser": 1000,
    }  # fmt: skip
    assert "livenessProbe" not in inference
    assert "startupProbe" in inference
    gateway, proxy = spec["containers"]
    assert (gateway["name"], gateway["env"]) == ("gateway", [{"name": "TZ", "value": "UTC"}])
    assert gateway["image"] == "podpair-gateway:test"
    assert proxy == {"name": "proxy", "image": "proxy:1"}


def test_only_what_is_wanted_is_made() -> None:
    bare = objects(
        network={"networkPolicy": {"enabled": False}},
        disruptionBudget={"enabled": False},
        topologySpread={"keys": []},
        inference__models=[{"name": "digits"}],
    )
    assert set(bare) == {"ServiceAccount", "Secret", "ConfigMap", "Service", "Deployment", "HorizontalPodAutoscaler"}
    assert "topologySpreadConstraints" not in bare["Deployment"]["spec"]["template"]["spec"]
    watched = Surroundings(AROUND.gateway_image, AROUND.resume_key, pod_monitors=True)
    assert (
        objects(watched, monitoring={"labels": {"release": "p"}})["PodMonitor"]["metadata"]["labels"]["release"] == "p"
    )
    assert "PodMonitor" not in objects(watched, monitoring={"podMonitor": False})
    assert "PodMonitor" not in objects()


def test_a_route_of_the_gateway_api() -> None:
    network = {"route": {"parentRefs": [{"name": "public", "sectionName": "https"}], "hostnames": ["d.example"]}}
    spec = objects(network=network)["HTTPRoute"]["spec"]
    assert spec["parentRefs"] == [{"name": "public", "sectionName": "https"}]
    assert spec["rules"][0]["backendRefs"] == [{"name": "digits", "port": 80}]
    assert spec["hostnames"] == ["d.example"]


def test_weights_of_versions_reach_the_model_in_a_file_and_roll_no_pod() -> None:
    def made(three: int) -> dict[str, Any]:
        versions = [{"version": "3", "weight": three}, {"version": "2", "weight": 100 - three}]
        return objects(inference__models=[{"name": "digits", "versions": versions}, {"name": "other"}])

    first, second = made(90), made(10)
    assert yaml.safe_load(first["Models"]["data"]["weights.yaml"]) == {"digits": {"3": 90, "2": 10}}
    assert first["Models"] != second["Models"]
    assert first["Deployment"] == second["Deployment"]
    pods = first["Deployment"]["spec"]["template"]["spec"]
    (inference,) = pods["initContainers"]
    (file,) = (one["value"] for one in inference["env"] if one["name"] == "PODPAIR_MODELS__WEIGHTS_FILE")
    (mount,) = inference["volumeMounts"]
    (volume,) = (one for one in pods["volumes"] if one["name"] == mount["name"])
    assert file == f"{mount['mountPath']}/weights.yaml"
    assert volume["configMap"]["name"] == first["Models"]["metadata"]["name"]
