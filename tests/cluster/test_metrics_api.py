"""The external metrics API, asked through a real API server's aggregation, and by those who may not."""

import asyncio
import datetime as dt
import json
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509

from harness.certificates import Authority, Issued
from harness.kubernetes import ApiServer, Refused
from harness.processes import own_address
from harness.waiting import soon
from podpair.operator.core.api_service import NAME, PATH, Place, api_service
from podpair.operator.core.external_metrics_values import MetricValues
from podpair.operator.metrics import Metrics
from podpair.operator.metrics_api.registration import ExternalMetricsApi, Registration
from podpair.operator.metrics_api.server import MetricsServer

ROOT = "/apis/external.metrics.k8s.io/v1beta1"
KNOWN = {
    ("shop", "digits"): MetricValues(lag=120, latency=0.0425, sessions=7, inflight=3),
    ("shop", "letters"): MetricValues(lag=None, latency=None, sessions=2, inflight=0),
}
SELECTED = "labelSelector=podpair.dev%2Fgateway%3D"


class Kubectl:
    """What the API needs of the cluster, through kubectl."""

    def __init__(self, cluster: ApiServer) -> None:
        self.cluster = cluster
        self.written: list[str] = []

    async def get(self, path: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads(await asyncio.to_thread(self.cluster.kubectl, "get", "--raw", path))
        except Refused as refused:
            if "NotFound" in str(refused):
                return None
            raise
        return found

    async def apply(self, path: str, manifest: dict[str, Any]) -> dict[str, Any]:
        self.written.append(path)
        options = ("--server-side", "--force-conflicts", "--field-manager=podpair-operator")
        await asyncio.to_thread(self.cluster.apply, manifest, options=options)
        found = await self.get(path)
        assert found is not None
        return found


async def known(namespace: str, name: str, metric: str) -> MetricValues | None:
    return KNOWN.get((namespace, name))


class Running:
    """One operator's metrics API, in front of which a Service stands."""

    def __init__(self, cluster: ApiServer, namespace: str, **options: Any) -> None:
        self.kube = Kubectl(cluster)
        self.server = MetricsServer(own_address(), 0, known, Metrics())
        self.place = Place(namespace, "metrics")
        hooks = {name: options.pop(name) for name in ("leading", "now") if name in options}
        registration = Registration(self.place, "metrics-certificate", **options)
        self.api = ExternalMetricsApi(self.kube, self.server, registration, **hooks)

    async def serve(self) -> None:
        await self.api.sync()
        assert self.server.port, self.api.state
        cluster, place = self.kube.cluster, self.place
        await asyncio.to_thread(cluster.lead_to, place.namespace, place.service, own_address(), self.server.port)

    async def reached(self) -> None:
        """Until the API server has found its way. It looks again every few seconds."""

        async def served() -> bool:
            await self.api.sync()
            return bool(self.api.state.served)

        await soon(served)

    async def ask(self, path: str) -> Any:
        return json.loads(await asyncio.to_thread(self.kube.cluster.kubectl, "get", "--raw", f"{ROOT}{path}"))


@pytest.fixture
def nobody_serves(cluster: ApiServer) -> Iterator[None]:
    """There is one such API in a cluster."""
    yield
    cluster.kubectl("delete", "apiservice", NAME, "--ignore-not-found")


@pytest.fixture
async def running(cluster: ApiServer, namespace: str, nobody_serves: None) -> AsyncIterator[Running]:
    made = Running(cluster, namespace)
    await made.serve()
    yield made
    await made.server.stop()


async def test_autoscalers_are_answered_through_the_api_server(running: Running) -> None:
    await running.reached()
    resources = (await running.ask(""))["resources"]
    assert {one["name"] for one in resources} == {
        "podpair_lag", "podpair_latency_seconds", "podpair_sessions", "podpair_inflight",
    }  # fmt: skip
    values = {}
    for one in resources:
        (item,) = (await running.ask(f"/namespaces/shop/{one['name']}?{SELECTED}digits"))["items"]
        assert item["metricLabels"] == {"podpair.dev/gateway": "digits"}
        values[one["name"]] = item["value"]
    assert values == {
        "podpair_lag": "120", "podpair_latency_seconds": "42500u", "podpair_sessions": "7", "podpair_inflight": "3",
    }  # fmt: skip

    both = await running.ask(f"/namespaces/shop/podpair_sessions?{SELECTED[:-3]}%20in%20(digits,letters)")
    assert [item["value"] for item in both["items"]] == ["7", "2"]
    # What isn't known is an error: an autoscaler then scales down for nothing.
    with pytest.raises(Refused, match=r"ServiceUnavailable.*shop/letters isn't known now: kubectl describe igw"):
        await running.ask(f"/namespaces/shop/podpair_lag?{SELECTED}letters")
    with pytest.raises(Refused, match="no InferenceGateway other/digits"):
        await running.ask(f"/namespaces/other/podpair_lag?{SELECTED}digits")
    with pytest.raises(Refused, match="no metric lag; there are podpair_lag"):
        await running.ask(f"/namespaces/shop/lag?{SELECTED}digits")
    with pytest.raises(Refused, match="select InferenceGateways by name"):
        await running.ask("/namespaces/shop/podpair_lag")

    running.kube.written.clear()
    await running.api.sync()
    assert running.kube.written == []


async def test_only_the_api_server_is_answered(running: Running, cluster: ApiServer, tmp_path: Path) -> None:
    address = f"https://{own_address()}:{running.server.port}"
    stranger = Authority("stranger")

    async def status(shown: Issued | None, path: str = ROOT) -> int:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if shown is not None:
            file = tmp_path / "client.pem"
            file.write_text(shown.key + shown.certificate)
            context.load_cert_chain(file)
        headers = {"X-Remote-User": "system:admin", "X-Remote-Group": "system:masters"}
        async with aiohttp.ClientSession() as http, http.get(address + path, ssl=context, headers=headers) as response:
            return response.status

    assert await status(None) == 401
    assert await status(cluster.front_proxy.issue("somebody-else")) == 401
    assert await status(cluster.front_proxy.issue("front-proxy-client")) == 200
    with pytest.raises(aiohttp.ClientError):
        await status(stranger.issue("front-proxy-client"))
    assert await status(None, "/healthz") == 200


async def test_the_api_server_asks_only_for_those_who_may_read_external_metrics(
    running: Running, cluster: ApiServer, namespace: str
) -> None:
    await running.reached()
    path = f"{ROOT}/namespaces/shop/podpair_lag?{SELECTED}digits"

    async def ask(who: str) -> str:
        return await asyncio.to_thread(cluster.kubectl, "get", "--raw", path, "--as", who)

    for who in ("nobody", f"system:serviceaccount:{namespace}:default", "system:anonymous"):
        with pytest.raises(Refused, match="Forbidden"):
            await ask(who)
    autoscaler = "system:serviceaccount:kube-system:horizontal-pod-autoscaler"
    assert json.loads(await ask(autoscaler))["items"][0]["value"] == "120"


async def test_an_api_that_belongs_to_somebody_else_is_left_alone_until_it_goes(
    cluster: ApiServer, namespace: str, nobody_serves: None
) -> None:
    keda = {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": NAME},
        "spec": {
            "group": "external.metrics.k8s.io", "version": "v1beta1", "groupPriorityMinimum": 100,
            "versionPriority": 100, "insecureSkipTLSVerify": True,
            "service": {"namespace": "keda", "name": "keda-operator-metrics-apiserver", "port": 443},
        },
    }  # fmt: skip
    await asyncio.to_thread(cluster.apply, keda)
    running = Running(cluster, namespace)
    try:
        await running.api.sync()
        assert (running.api.state.served, running.api.state.reason) == (False, "ExternalMetricsOwnedByOther")
        assert "keda/keda-operator-metrics-apiserver" in running.api.state.message
        assert running.kube.written == []
        await asyncio.to_thread(cluster.kubectl, "delete", "apiservice", NAME)
        await running.serve()
        await running.reached()
    finally:
        await running.server.stop()


async def test_never_is_off_and_always_takes_it_over(cluster: ApiServer, namespace: str, nobody_serves: None) -> None:
    never = Running(cluster, namespace, enabled="never")
    await never.api.run()
    assert (never.api.state.reason, never.kube.written) == ("ExternalMetricsOff", [])

    before = Running(cluster, "elsewhere")
    other = Place("elsewhere", "adapter")

    await before.kube.apply(PATH, api_service(other, before.kube.cluster.front_proxy.certificate, None))
    always = Running(cluster, namespace, enabled="always")
    try:
        await always.serve()
        await always.reached()
    finally:
        await always.server.stop()


async def test_an_operator_that_does_not_lead_serves_what_the_leader_wrote(
    running: Running, cluster: ApiServer, namespace: str
) -> None:
    follower = Running(cluster, namespace, leading=lambda: False)
    try:
        await follower.api.sync()
        assert follower.kube.written == []
        assert await shown(follower) == await shown(running)
    finally:
        await follower.server.stop()


async def test_an_operator_that_does_not_lead_waits_for_a_certificate(
    cluster: ApiServer, namespace: str, nobody_serves: None
) -> None:
    follower = Running(cluster, namespace, leading=lambda: False)
    await follower.api.sync()
    assert (follower.api.state.served, follower.kube.written) == (False, [])
    assert f"Secret {namespace}/metrics-certificate has no certificate yet" in follower.api.state.message


async def test_the_certificate_is_exchanged_before_it_ends_without_a_restart(
    cluster: ApiServer, namespace: str, nobody_serves: None
) -> None:
    now = dt.datetime.now(dt.UTC)
    clock = [now - dt.timedelta(days=61)]
    running = Running(cluster, namespace, now=lambda: clock[0])
    try:
        await running.serve()
        await running.reached()
        port, first = running.server.port, await shown(running)
        clock[0] = now - dt.timedelta(days=2)
        await running.api.sync()
        assert await shown(running) == first
        clock[0] = now
        await running.api.sync()
        assert running.server.port == port
        assert await shown(running) != first
        assert (await running.ask(""))["resources"]
    finally:
        await running.server.stop()


async def test_the_apiservice_goes_with_the_chart_s_cluster_role_and_is_mended(
    cluster: ApiServer, namespace: str, nobody_serves: None
) -> None:
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": namespace}}
    await asyncio.to_thread(cluster.apply, role)
    running = Running(cluster, namespace, owner=namespace)
    try:
        await running.serve()
        (owner,) = (await asyncio.to_thread(cluster.read, "apiservice", NAME))["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"]) == ("ClusterRole", namespace)
        secrets = await asyncio.to_thread(cluster.read, "secrets", "-n", namespace)
        assert [one["metadata"]["ownerReferences"] for one in secrets["items"]] == [[owner]]
        patch = json.dumps({"spec": {"caBundle": "Zm9v", "versionPriority": 7}})
        await asyncio.to_thread(cluster.kubectl, "patch", "apiservice", NAME, "--type=merge", "-p", patch)
        await running.api.sync()
        await running.reached()
        assert (await asyncio.to_thread(cluster.read, "apiservice", NAME))["spec"]["versionPriority"] == 100
    finally:
        await running.server.stop()


async def test_nothing_is_written_without_the_cluster_role_that_would_take_it_along(
    cluster: ApiServer, namespace: str, nobody_serves: None
) -> None:
    """`helm uninstall` has deleted the role, and the operator still runs."""
    running = Running(cluster, namespace, owner=f"{namespace}-gone")
    try:
        await running.api.sync()
        assert running.kube.written == []
        assert running.api.state.reason == "ExternalMetricsNotYetServed"
        assert f"ClusterRole {namespace}-gone, which owns" in running.api.state.message

        role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": namespace}}
        await asyncio.to_thread(cluster.apply, role)
        late = Running(cluster, namespace, owner=namespace)
        await late.api.sync()
        await late.server.stop()
        assert len(late.kube.written) == 2
        await asyncio.to_thread(cluster.kubectl, "delete", "apiservice", NAME)
        await asyncio.to_thread(cluster.kubectl, "delete", "clusterrole", namespace)
        late = Running(cluster, namespace, owner=namespace)
        await late.api.sync()
        await late.server.stop()
        assert late.kube.written == []
    finally:
        await running.server.stop()


async def shown(running: Running) -> int:
    """The serial number of the certificate that a new connection is shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection(own_address(), running.server.port, ssl=context)
    certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()  # closing TLS goes on in the background
    return x509.load_der_x509_certificate(certificate).serial_number
