"""What a feature costs: the same load with and without it, in turn; the ratio of each round.

Each side is a gateway of its own, beside the plain one: tracing (with a collector that takes everything), metrics that are
scraped every second, TLS, exactly-once, and what is kept in memory for clients that come back.
"""

import argparse
import ssl
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import paths
from bench.asking import Side, arguments, in_turn, ratios, stage
from bench.measuring import spread
from bench.recording import Recording
from harness.certificates import Authority
from harness.pair import Gateway

_SCRAPE = 1.0  # seconds; Prometheus' own default is 60


class _Collector(BaseHTTPRequestHandler):
    """Takes every span, and looks at none."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """It has nothing to say."""


@contextmanager
def collector() -> Iterator[str]:
    """The address of a collector."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Collector)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1/traces"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def scraping(gateway: Gateway) -> Iterator[None]:
    """Ask for the metrics again and again."""
    over = threading.Event()

    def scrape() -> None:
        while not over.wait(_SCRAPE):
            gateway.get("/metrics")

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def direct_sides(folder: Path, endpoint: str) -> list[Side]:
    """What touches the direct route."""
    authority = Authority("podpair bench")
    issued = authority.issue("gateway", ("127.0.0.1",))
    ca, certificate, key = (folder / name for name in ("ca.pem", "gateway.pem", "gateway.key"))
    ca.write_text(authority.certificate)
    certificate.write_text(issued.certificate)
    key.write_text(issued.key)
    tls = {"http": {"certificate_file": str(certificate), "key_file": str(key)}}
    trust = ssl.create_default_context(cafile=str(ca))

    def traced(sample: float) -> Mapping[str, Any]:
        return {"tracing": {"endpoint": endpoint, "sample": sample}}

    return [
        Side("plain"),
        Side("tracing, 1 % of requests", dict(traced(0.01))),
        Side("tracing, all requests", dict(traced(1.0))),
        Side("metrics, scraped every second", beside=scraping),
        Side("no answers remembered for who asks again", {"sessions": {"idempotency_bytes": 0}}),
        Side("TLS", tls, client=("--ca", str(ca)), context=trust),
    ]


def queued_sides(endpoint: str) -> list[Side]:
    """What touches the queued route."""
    return [
        Side("plain"),
        Side("exactly once", {"requests": {"exactly_once": True}}),
        Side("tracing, all requests", {"tracing": {"endpoint": endpoint, "sample": 1.0}}),
        Side("no tail for who resumes, no answers remembered",
             {"results": {"tail_cache_bytes": 1}, "requests": {"idempotency_bytes": 0}, "sessions": {"idempotency_bytes": 0}}),
    ]  # fmt: skip


def compare(recording: Recording, route: str, sides: list[Side], options: argparse.Namespace) -> None:
    """Each side beside the plain one."""
    with stage(sides, route, embedded=route == "direct") as where:
        found = in_turn(where, sides, options)
    for (load, name), lines in found.items():
        if name == "plain":
            continue
        plain = found[load, "plain"]
        wrong = sum(sum(line["errors"].values()) + line["strays"] + line["wrong"] for line in [*lines, *plain])
        values = {
            "requests/s, of plain": ratios(lines, plain, "requests_per_s"),
            "gateway µs, of plain": ratios(lines, plain, "gateway"),
            "p99, of plain": ratios(lines, plain, "p99_ms"),
            "errors, strays, wrong": wrong,
        }
        recording.row({"route": f"{route}, {load}", "feature": name}, values)


def tails(recording: Recording, rounds: int) -> None:
    """Fan-out without sockets, with the tail for who resumes and without."""
    both = [
        (paths.measured(paths.fan_out, 20_000), paths.measured(partial(paths.fan_out, tail=1), 20_000))
        for _ in range(2 * rounds)
    ]
    values = {"gateway µs, of plain": spread([without / kept for kept, without in both])}
    recording.row({"route": "fan-out, without sockets", "feature": "no tail for who resumes"}, values)


def main() -> None:
    parser = arguments(__doc__, "64x16")
    parser.add_argument("--routes", default="direct,queue,fan-out")
    options = parser.parse_args()
    if options.against or options.config or options.hold:
        parser.error("features are measured beside the plain gateway of this checkout")
    recording = Recording("features")
    with tempfile.TemporaryDirectory() as folder, collector() as endpoint:
        if "fan-out" in options.routes:
            tails(recording, options.rounds)
        if "direct" in options.routes:
            compare(recording, "direct", direct_sides(Path(folder), endpoint), options)
        if "queue" in options.routes:
            compare(recording, "queue", queued_sides(endpoint), options)
    recording.close()


if __name__ == "__main__":
    main()
