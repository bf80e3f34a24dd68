"""What the operator needs for many resources: time to converge, requests to the API server, CPU and memory, and a takeover.

    python tests/bench/reconciled.py [--resources 200] [--seconds 60]

A real API server and a real broker, no nodes: no pod starts. Two operators with the chart's settings, but that every resource is
reconciled anew each `--seconds` (600 by default). Resources are applied at once; they have converged when each has its objects,
its topics and a status that says so. Then nothing changes for twice `--seconds`, in which every resource is reconciled twice:
whatever is written is a fault, and ends the bench. Then the one that leads is killed (SIGKILL).
"""

import argparse
import json
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.measuring import cpu_seconds, memory_bytes, tree
from bench.recording import Recording
from harness.kafka import Broker
from harness.kubernetes import ApiServer
from harness.operator import Operator, writes
from harness.processes import ROOT
from harness.resources import resource
from harness.waiting import until
from podpair.operator.core.crd import NAME

NAMESPACE = "many"
CRD = ROOT / "charts" / "podpair-crds" / "templates" / "crd.yaml"
SETTINGS = {"lease__duration_seconds": 15, "watch_seconds": 60, "kafka_seconds": 15, "scrape_seconds": 15}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resources", type=int, default=200)
    parser.add_argument("--seconds", type=int, default=60, help="after which every resource is reconciled anew")
    options = parser.parse_args()
    with ExitStack() as stack:
        broker = Broker()
        stack.callback(broker.stop)
        cluster = ApiServer()
        stack.callback(cluster.stop)
        recording = Recording("operator")
        stack.callback(recording.close)
        cluster.kubectl("apply", "--server-side", "-f", str(CRD))
        cluster.await_kind(NAME)
        cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        settings = {**SETTINGS, "namespace": "default", "resync_seconds": options.seconds}
        first = Operator(cluster, NAMESPACE, identity="first", **settings)
        stack.callback(first.kill)
        first.wait_for_message("first leads")
        second = Operator(cluster, NAMESPACE, identity="second", **settings)
        stack.callback(second.kill)
        name = f"{options.resources} resources"
        idle = megabytes(first)
        recording.row({"what": f"{name}: from apply to converged"}, converge(cluster, first, broker, options.resources))
        recording.row(
            {"what": f"{name}: unchanged, a minute"},
            rest(cluster, first, 2 * options.seconds) | {"MB": megabytes(first)},
        )
        recording.row({"what": f"{name}: the one that waits"}, {"MB": megabytes(second)})
        recording.row({"what": "no resource"}, {"MB": idle})
        recording.row({"what": f"{name}: takeover after SIGKILL"}, take_over(cluster, first, second))


def converge(cluster: ApiServer, operator: Operator, broker: Broker, count: int) -> dict[str, float]:
    """Apply the resources, and wait until they are as they should be."""
    topics: dict[str, Any] = {"requests": {"partitions": 1}, "results": {"partitions": 1}}
    made = []
    for number in range(count):
        one = resource(
            name=f"model-{number}",
            kafka={"bootstrapServers": broker.address, **topics},
            gateway__auth={"disabled": True},
            scaling={"min": 1, "max": 1},
        )
        one["metadata"]["namespace"] = NAMESPACE
        made.append(one)
    before = (requests(operator), cpu(operator))
    begun = time.monotonic()
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({"apiVersion": "v1", "kind": "List", "items": made}, file)
        file.flush()
        cluster.kubectl("apply", "--server-side", "-f", file.name)
        applied = time.monotonic() - begun
        until(lambda: len(converged(cluster)) == count, lambda: f"{len(converged(cluster))} of {count}", timeout=900)
    asked = requests(operator)
    return {
        "seconds": time.monotonic() - begun,
        "of which kubectl": applied,
        "reads": asked["GET"] - before[0]["GET"],
        "writes": sum(asked.values()) - asked["GET"] - sum(before[0].values()) + before[0]["GET"],
        "CPU s": cpu(operator) - before[1],
        "MB": megabytes(operator),
    }


def rest(cluster: ApiServer, operator: Operator, seconds: float) -> dict[str, float]:
    """Let nothing change. Raises SystemExit if anything is written."""
    # A Deployment's first status, topics' events and the like settle first.
    settled = writes(cluster)
    while True:
        time.sleep(20)
        now = writes(cluster)
        if now == settled:
            break
        settled = now
    before, cpu_before, begun = requests(operator), cpu(operator), time.monotonic()
    reconciled = operator.metric("controller_runtime_reconcile_total")
    time.sleep(seconds)
    minutes = (time.monotonic() - begun) / 60
    if (now := writes(cluster)) != settled:
        raise SystemExit(
            f"written though nothing changed: { {name: now[name] - settled.get(name, 0) for name in now} }"
        )
    asked = requests(operator)
    leases = asked["PUT"] - before["PUT"]
    return {
        "reads": (asked["GET"] - before["GET"]) / minutes,
        "writes": (sum(asked.values()) - asked["GET"] - sum(before.values()) + before["GET"] - leases) / minutes,
        "of the Lease": leases / minutes,
        "reconciled": (operator.metric("controller_runtime_reconcile_total") - reconciled) / minutes,
        "CPU s": (cpu(operator) - cpu_before) / minutes,
    }


def take_over(cluster: ApiServer, first: Operator, second: Operator) -> dict[str, float]:
    """Kill the one that leads, and wait until the other has reconciled all."""
    before = writes(cluster)
    first.kill()
    killed = time.monotonic()
    second.wait_for_message("second leads", 60)
    leads = time.monotonic() - killed
    until(
        lambda: second.metric("workqueue_depth") + second.metric("controller_runtime_active_workers") == 0, timeout=120
    )
    written = sum(writes(cluster).values()) - sum(before.values())
    if written:
        raise SystemExit(f"{written:.0f} writes though nothing changed")
    return {"seconds": leads, "writes": written, "MB": megabytes(second)}


def converged(cluster: ApiServer) -> list[str]:
    """The resources that are as they should be."""
    found = json.loads(cluster.get(f"/apis/podpair.dev/v1alpha1/namespaces/{NAMESPACE}/inferencegateways"))["items"]
    deployments = json.loads(cluster.get(f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"))["items"]
    there = {one["metadata"]["name"] for one in deployments}
    names = []
    for one in found:
        status = one.get("status") or {}
        states = {condition["type"]: condition["status"] for condition in status.get("conditions") or []}
        current = status.get("observedGeneration") == one["metadata"]["generation"]
        if current and states.get("KafkaReady") == "True" and states.get("Degraded") == "False":
            names.append(one["metadata"]["name"])
    return [name for name in names if name in there]


def requests(operator: Operator) -> dict[str, float]:
    """The requests to the API server so far, by method."""
    return {
        method: operator.metric("rest_client_requests_total", method=method)
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE")
    }


def cpu(operator: Operator) -> float:
    """Seconds that the operator and the processes that ask brokers have computed."""
    return sum(map(cpu_seconds, tree(operator.pid)))


def megabytes(operator: Operator) -> float:
    """Their memory (PSS)."""
    return sum(memory_bytes(pid)[1] for pid in tree(operator.pid)) / 1e6


if __name__ == "__main__":
    main()
