"""What a resource says reaches the gateway's configuration, which the gateway itself reads."""

import base64
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.desired_objects import ALL_OF_A_RULE, DEPENDENCIES, SASL_AND_TLS, gateway_config, objects, pod
from harness.resources import REMOVED
from podpair.common.gateway_config.cache import CachedModel
from podpair.common.gateway_config.channels import ChannelRule, Channels, Presence, PresenceRule
from podpair.common.gateway_config.clients import AdmissionRule
from podpair.common.gateway_config.deliveries import Deliveries, DeliveryRule, Email, WebPush
from podpair.common.gateway_config.workflows import Workflows
from podpair.inference.config.settings import load_settings


def test_the_gateway_reads_its_configuration(tmp_path: Path) -> None:
    auth = {"jwksUrl": "https://login.example/jwks", "audience": "digits", "sessionClaim": "tab"}
    config = gateway_config(tmp_path, gateway__auth=auth)
    assert (config.cache.models, config.workflows.enabled) == ((), False)
    assert (config.http.host, config.http.port) == ("0.0.0.0", 8080)
    assert (config.operations.enabled, config.operations.host, config.operations.port) == (True, None, 8083)
    assert (config.auth.jwks_url, config.auth.audience) == ("https://login.example/jwks", "digits")
    assert config.auth.session_claim == "tab"
    assert (config.kafka.bootstrap_servers, config.kafka.client) == ("kafka.kafka.svc:9092", {})
    assert (config.requests.topic, config.requests.group) == ("default.digits.requests", "default.digits")
    assert (config.results.topic, config.results.partitions) == ("default.digits.results", 16)
    assert config.inference.url == "http://127.0.0.1:8081"
    assert config.console.model == "digits"


WISHES: dict[str, Any] = {
    "gateway": {
        "auth": {"secretRef": {"name": "jwt", "key": "secret"}, "leeway": "0s", "requiredClaims": ["sub"]},
        "sessions": {"max": 5, "idle": "0s", "heartbeat": "500ms", "resume": "1h30m", "buffer": "64Ki"},
        "limits": {
            "message": "2M",
            "inFlight": 3,
            "maxDirectInFlight": 4,
            "maxQueuedInFlight": 6,
            "maxAttempts": 7,
        },
        "admission": {"rules": [{}, ALL_OF_A_RULE], "loadShedding": False},
        "cache": {
            "models": [
                {"model": "embed", "scope": "shared", "ttl": "0s", "memory": "1Ki"},
                {"model": "digits"},
            ],
            "lease": "500ms",
        },
        "channels": {
            "rules": [{"claim": "role", "value": "editor", "subscribe": ["*"], "publish": ["news"]}],
            "automatic": ["all"],
            "perSession": 16,
            "publishesPerSecond": 3,
        },
        "presence": {"rules": [{}, {"claim": "role", "subjects": ["*"]}], "lease": "1m", "watches": 4},
        "workflows": {"maxInstances": 8, "maxCalls": 9, "remember": "2m"},
        "origins": ["https://app.example"],
        "trustedProxies": ["10.0.0.0/8"],
        "drain": "1m",
        "console": True,
        "logLevel": "debug",
    },
    "kafka": {
        "bootstrapServers": "a:1,b:2",
        "client": {"socket.keepalive.enable": "true"},
        "createTopics": False,
        "requests": {
            "name": "in",
            "partitions": 32,
            "replication": 3,
            "ordering": "session",
            "exactlyOnce": True,
            "replyTopics": ["shop.orders.requests", "team.*"],
        },
        "results": {"name": "out", "partitions": 64, "replication": 2, "retention": "2h", "users": True},
        "deadLetters": {"enabled": False, "retention": "1h"},
        "consumerGroup": {"id": "g", "sessionTimeout": "6s"},
        **{name.removeprefix("kafka__"): value for name, value in SASL_AND_TLS.items()},
    },
    "deliveries": {
        "topic": "out.deliveries",
        "replication": 2,
        "rules": [{"claim": "roles", "value": "chat", "kinds": ["slack", "email"], "subscriptions": 3}, {}],
        "email": {
            "host": "mail.example",
            "port": 465,
            "security": "tls",
            "caRef": {"name": "mail", "key": "ca.crt"},
            "login": {"username": "podpair", "passwordRef": {"name": "mail", "key": "password"}},
            "sender": "podpair@example.com",
            "senderName": "Models",
            "claim": "mail",
            "verifiedClaim": "",
        },
        "webPush": {
            "privateKeyRef": {"name": "push", "key": "key.pem"},
            "contact": "mailto:ops@example.com",
            "ttl": "1h",
        },
        "timeout": "5s",
        "absentAfter": "30s",
        "maxAge": "2h",
        "maxTtl": "48h",
        "deadLetterRetention": "1h",
        "perHost": 2,
        "inFlight": 3,
        "slackHosts": ["chat.example"],
        "allowHttp": True,
        "ports": [443, 8443],
        "allowedNetworks": ["10.0.0.0/8"],
    },
    "inference__port": 9000,
    "inference__grpcPort": 9001,
    "inference__timeout": "2s",
    "inference__models": REMOVED,
}
"""A resource in which everything is set."""


def test_every_wish_reaches_the_gateway(tmp_path: Path) -> None:
    config = gateway_config(tmp_path, **WISHES)
    assert str(config.auth.secret_file) == "/run/secrets/podpair/podpair-auth/secret"
    assert (config.auth.leeway_seconds, config.auth.required_claims) == (0, ("sub",))
    sessions = config.sessions
    assert (sessions.idle_seconds, sessions.heartbeat_seconds, sessions.resume_seconds) == (0, 0.5, 5400)
    assert (sessions.buffer_bytes, sessions.drain_seconds) == (65_536, 60)
    limits = config.limits
    assert (limits.sessions, limits.message_bytes, limits.in_flight, limits.max_direct_in_flight) == (
        5,
        2_000_000,
        3,
        4,
    )
    first, second = config.admission.rules
    assert (first, config.admission.load_shedding) == (AdmissionRule(), False)
    assert second == AdmissionRule(
        claim="tenant", value="acme", sessions=1, requests_per_second=2, burst=3, in_flight=4, models=("chat-*",),
        routes=("queue",), priority="low",
    )  # fmt: skip
    assert (config.requests.in_flight, config.requests.max_attempts, config.requests.group) == (6, 7, "g")
    assert (config.requests.topic, config.requests.partitions, config.requests.replication) == ("in", 32, 3)
    assert (config.requests.ordering, config.requests.exactly_once) == ("session", True)
    assert config.requests.reply_topics == ("shop.orders.requests", "team.*")
    assert (config.results.topic, config.results.partitions, config.results.replication) == ("out", 64, 2)
    assert config.results.users
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
    assert (config.cache.topic, config.cache.lease_seconds) == ("in.cache", 0.5)
    assert config.cache.models == (
        CachedModel(model="embed", scope="shared", ttl_seconds=0, max_bytes=1024),
        CachedModel(model="digits", scope="subject", ttl_seconds=300, max_bytes=64 << 20),
    )
    assert config.workflows == Workflows(
        enabled=True, topic="in.workflows", max_instances=8, max_calls=9, remember_seconds=120
    )
    assert (config.kafka.create_topics, config.kafka.await_topics) == (False, True)
    assert (config.inference.url, config.inference.timeout_seconds) == ("http://127.0.0.1:9000", 2)
    assert (config.http.origins, config.console.enabled, config.log.level) == (("https://app.example",), True, "debug")
    assert config.http.trusted_proxies == ("10.0.0.0/8",)


def test_wishes_about_channels_and_presence_reach_it(tmp_path: Path) -> None:
    config = gateway_config(tmp_path, **WISHES)
    assert config.channels == Channels(
        enabled=True,
        rules=(ChannelRule(claim="role", value="editor", subscribe=("*",), publish=("news",)),),
        automatic=("all",),
        per_session=16,
        publishes_per_second=3,
    )
    assert config.presence == Presence(
        enabled=True,
        topic="in.presence",
        rules=(PresenceRule(), PresenceRule(claim="role", subjects=("*",))),
        heartbeat_seconds=18.75,
        lease_seconds=60,
        watches=4,
    )


def test_every_wish_for_deliveries_reaches_the_gateway(tmp_path: Path) -> None:
    assert gateway_config(tmp_path, **WISHES).deliveries == Deliveries(
        enabled=True, topic="out.deliveries", replication=2,
        rules=(
            DeliveryRule(claim="roles", value="chat", kinds=("slack", "email"), subscriptions=3),
            DeliveryRule(),
        ),
        email=Email(
            host="mail.example", port=465, security="tls", username="podpair",
            ca_file=Path("/run/secrets/podpair/podpair-email-ca/ca.crt"),
            password_file=Path("/run/secrets/podpair/podpair-email-password/password"),
            sender="podpair@example.com", sender_name="Models", claim="mail", verified_claim="",
        ),
        web_push=WebPush(
            private_key_file=Path("/run/secrets/podpair/podpair-web-push/key.pem"),
            contact="mailto:ops@example.com", ttl_seconds=3600,
        ),
        timeout_seconds=5, absent_seconds=30, max_age_seconds=7200, max_ttl_seconds=172_800, dead_letter_retention_seconds=3600,
        per_host=2, in_flight=3, slack_hosts=("chat.example",), allow_http=True, ports=(443, 8443),
        allowed_networks=("10.0.0.0/8",),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("way_in", "base"),
    [
        ({"ingress": {"host": "models.example", "path": "/digits"}}, "/digits"),
        ({"ingress": {"host": "models.example", "path": "/a%20b/digits/"}}, "/a%20b/digits"),
        ({"route": {"parentRefs": [{"name": "public"}], "path": "/digits"}}, "/digits"),
        ({"ingress": {"host": "models.example"}}, ""),
        ({"route": {"parentRefs": [{"name": "public"}]}}, ""),
        ({}, ""),
    ],
)
def test_the_gateway_serves_below_the_path_that_leads_to_it(tmp_path: Path, way_in: dict[str, Any], base: str) -> None:
    assert gateway_config(tmp_path, network=way_in).http.base_path == base
    written = objects(network=way_in)["ConfigMap"]["data"]["gateway.yaml"]
    assert ("base_path" in written) == bool(base)  # where nothing is to be said, an upgrade rolls no pods


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
    made = objects(replace(DEPENDENCIES, pod_monitors=True), **changed)
    assert made["Service"]["spec"]["ports"][0]["appProtocol"] == "https"
    # The operators' port is plain HTTP all the same.
    for probe in ("readinessProbe", "startupProbe", "livenessProbe"):
        assert container[probe] == pod()["containers"][0][probe]
    assert made["PodMonitor"]["spec"] == objects(replace(DEPENDENCIES, pod_monitors=True))["PodMonitor"]["spec"]


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


def test_the_gateway_asks_over_grpc_where_it_is_told_to(tmp_path: Path) -> None:
    changed = {"inference__protocol": "grpc", "inference__grpcPort": 9001, "scaling__metrics": [{"lag": 5}]}
    config = gateway_config(tmp_path, **changed)
    assert config.inference.url == "grpc://127.0.0.1:9001"
    (inference,) = pod(**changed)["initContainers"]
    told = {one["name"]: one["value"] for one in inference["env"]}
    assert (told["PODPAIR_SERVER__PORT"], told["PODPAIR_GRPC__PORT"]) == ("8081", "9001")
