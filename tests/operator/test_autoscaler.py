"""Who decides the number of pods, and by which metrics."""

from harness.desired_objects import SASL_AND_TLS, objects


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


def test_the_last_pod_goes_after_the_time_that_scaling_down_waits() -> None:
    scaling = {"min": 0, "max": 3, "provider": "keda", "metrics": [{"lag": 5}]}
    spec = objects(scaling=scaling)["ScaledObject"]["spec"]
    assert (spec["minReplicaCount"], spec["cooldownPeriod"]) == (0, 300)
    sooner = {"scaleDown": {"stabilizationWindowSeconds": 20}}
    assert objects(scaling=scaling | {"behavior": sooner})["ScaledObject"]["spec"]["cooldownPeriod"] == 20
    assert "cooldownPeriod" not in objects(scaling=scaling | {"min": 1})["ScaledObject"]["spec"]


def test_the_metrics_that_keda_asks_for_are_the_gateway_s() -> None:
    from prometheus_client import generate_latest

    from podpair.gateway.metrics import Metrics

    exposed = generate_latest(Metrics().registry).decode()
    for name in ("sessions", "direct_in_flight", "queue_in_flight", "request_duration_seconds"):
        assert f"# TYPE podpair_gateway_{name} " in exposed
