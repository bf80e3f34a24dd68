"""How the operator grows with its resources, at a real API server and a real broker: 1 to 100 InferenceGateways.

No node: pods stay wanted. What is written in the quiet time is counted at the API server, and has to be nothing.
"""

import time
from typing import Any

from bench.measuring import cpu_seconds, rss_bytes
from bench.recording import Recording
from harness.kafka import Broker
from harness.kubernetes import ApiServer
from harness.operator import Operator, writes
from harness.pair import SECRET
from harness.processes import ROOT
from harness.resources import resource
from harness.waiting import until
from podpair.operator.core.crd import NAME

_CRD = ROOT / "charts" / "podpair-crds" / "templates" / "crd.yaml"
_OBJECTS = "secrets,configmaps,services,deployments,networkpolicies,poddisruptionbudgets,hpa,serviceaccounts"


def resources(recording: Recording, broker: Broker, numbers: list[int], quiet: float) -> None:
    """A namespace and an operator for each number of resources."""
    cluster = ApiServer()
    try:
        cluster.kubectl("apply", "--server-side", "-f", str(_CRD))
        cluster.await_kind(NAME)
        for many in numbers:
            recording.row({"resources": many}, _measured(cluster, broker, many, quiet))
    finally:
        cluster.stop()


def _measured(cluster: ApiServer, broker: Broker, many: int, quiet: float) -> dict[str, Any]:
    space = f"growth-{many}"
    secret = {"metadata": {"name": "digits-auth"}, "stringData": {"secret": SECRET}}
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": space}})
    cluster.apply({"apiVersion": "v1", "kind": "Secret", **secret}, options=("--server-side", "-n", space))
    # Its own pace, but for the full look at everything, which comes twice in the quiet time.
    own = {"watch_seconds": 60, "kafka_seconds": 15, "scrape_seconds": 15, "resync_seconds": quiet / 2}
    operator = Operator(cluster, space, **own)
    try:
        began, cpu = time.monotonic(), cpu_seconds(operator.pid)
        small = {"requests": {"partitions": 2}, "results": {"partitions": 2}, "bootstrapServers": broker.address}
        scaling = {"min": 1, "max": 2, "metrics": [{"lag": 100}]}
        # Topics of one name in two namespaces would be the same topics.
        wanted = [resource(name=f"{space}-{i}", kafka=small, scaling=scaling) for i in range(many)]
        cluster.apply(*wanted, options=("--server-side", "-n", space))
        until(lambda: _kept(cluster, space) == many, timeout=60 + 2 * many)
        taken, spent = time.monotonic() - began, cpu_seconds(operator.pid) - cpu
        made = len(cluster.kubectl("get", _OBJECTS, "-n", space, "-o", "name").split()) - 1
        _settled(cluster)
        before, cpu = sum(writes(cluster).values()), cpu_seconds(operator.pid)
        time.sleep(quiet)
        return {
            "objects": made,
            "all kept after s": taken,
            "CPU ms a resource, to make it": spent * 1000 / many,
            "CPU ms a resource and minute, afterwards": (cpu_seconds(operator.pid) - cpu) * 1000 / many * 60 / quiet,
            "writes afterwards": sum(writes(cluster).values()) - before,
            "operator MB": rss_bytes(operator.pid) / 1e6,
        }
    finally:
        operator.kill()


def _kept(cluster: ApiServer, space: str) -> int:
    """Resources whose objects are there, and whose topics are."""
    items = cluster.read("igw", "-n", space)["items"]
    told = [{one["type"]: one["status"] for one in item.get("status", {}).get("conditions", [])} for item in items]
    return sum(one.get("KafkaReady") == "True" for one in told)


def _settled(cluster: ApiServer) -> None:
    """Until nothing has been written for a while."""
    last = [-1.0, time.monotonic()]

    def quiet() -> bool:
        now = sum(writes(cluster).values())
        if now != last[0]:
            last[:] = [now, time.monotonic()]
        time.sleep(0.5)
        return time.monotonic() - last[1] > 20

    until(quiet, timeout=180)
