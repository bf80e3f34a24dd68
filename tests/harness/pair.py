"""The two halves as real processes, started by their own commands."""

import json
import ssl
import time
import urllib.error
import urllib.request
from functools import cached_property
from pathlib import Path
from typing import Any

import jwt
import yaml

from harness.processes import BIN, ROOT, Child
from harness.waiting import until
from podpair.common.gateway_config.environment import merged

SECRET = "test-secret-0123456789-0123456789-abcdef"
RESUME_SECRET = "resume-secret-0123456789-0123456789-abc"
MODELS = ROOT / "examples" / "models"


def token(sub: str = "user", *, secret: str = SECRET, **claims: Any) -> str:
    """A token that the gateways of the tests take, an hour long unless `exp` says otherwise."""
    payload = {"sub": sub, "exp": int(time.time()) + 3600} | claims
    return jwt.encode({k: v for k, v in payload.items() if v is not None}, secret, algorithm="HS256")


class Inference(Child):
    """`podpair-inference serve` on a free port, or on one that it had before."""

    def __init__(self, port: int = 0, models: Path = MODELS, *options: str | Path) -> None:
        super().__init__(BIN / "podpair-inference", "serve", "--models", models, "--port", str(port), *options)
        self.url: str = self.wait_for_message("ready")["url"]
        self.port = int(self.url.rsplit(":", 1)[1])

    @property
    def grpc(self) -> str:
        """Where it answers over gRPC, as the gateway wants it."""
        address: str = self.wait_for_message("gRPC is ready")["address"]
        return address if address.startswith("unix:") else f"grpc://{address}"

    def queue_depth(self, model: str) -> float:
        """How many requests wait in the queue of a model."""
        with urllib.request.urlopen(self.url + "/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return sum(
            float(line.split()[-1]) for line in lines if line.startswith(f'inference_queue_depth{{model="{model}"}}')
        )


#: What is asked of a gateway at its operators' port.
OPERATIONS = ("/healthz", "/readyz", "/metrics")


class Gateway(Child):
    """`podpair-gateway serve` with this configuration (nested), on free ports."""

    context: ssl.SSLContext | None = None  # whom `get` trusts, where it is asked over TLS

    def __init__(
        self,
        folder: Path,
        config: dict[str, Any],
        *,
        wait: bool = True,
        env: dict[str, str] | None = None,
        two_ports: bool = True,
    ) -> None:
        """`two_ports` False: it is one of a checkout from before operators had a port of their own, and `sid` a setting."""
        self._operations_at = OPERATIONS if two_ports else ()
        own: dict[str, Any] = {
            "http": {"port": 0},
            "auth": {"secret": SECRET} | ({"session_claim": "sid"} if two_ports else {}),
            "sessions": {"resume_secret": RESUME_SECRET},
        } | ({"operations": {"port": 0}} if two_ports else {})
        path = folder / f"gateway-{time.monotonic_ns()}.yaml"
        path.write_text(yaml.safe_dump(merged(own, config)))
        super().__init__(BIN / "podpair-gateway", "serve", "--config", path, env=env)
        if wait:
            self.url: str = self.wait_for_message("ready")["address"]

    @property
    def ws(self) -> str:
        return self.url.replace("http", "ws", 1) + "/v1/ws"

    @cached_property
    def operations(self) -> str:
        """The URL of its operators' port."""
        return str(self.wait_for_message("listening")["operations"])

    def get(self, path: str) -> tuple[int, str]:
        """GET without a token: status and body. What operators ask for is asked at their port."""
        return self._get((self.operations if path in self._operations_at else self.url) + path)

    def get_publicly(self, path: str) -> tuple[int, str]:
        """The same at the public port, whatever is asked for."""
        return self._get(self.url + path)

    def _get(self, url: str) -> tuple[int, str]:
        context = self.context if url.startswith("https:") else None
        try:
            with urllib.request.urlopen(url, timeout=30, context=context) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels; 0 where there is none."""
        from prometheus_client.parser import text_string_to_metric_families

        families = text_string_to_metric_families(self.get("/metrics")[1])
        samples = (s for family in families for s in family.samples if s.name == f"podpair_gateway_{name}")
        return sum(s.value for s in samples if labels.items() <= s.labels.items())

    def renewals(self, topic: str) -> float:
        """How often the gateway has noticed that a topic is another one of its name."""
        changes = ("recreated", "created")  # the second where it was missing for a while
        return sum(self.metric("topic_changes_total", topic=topic, change=change) for change in changes)

    def wait_ready(self) -> None:
        """Until /readyz says 200; the log tells when to look again."""
        until(lambda: self.get("/readyz")[0] == 200, lambda: json.loads(self.get("/readyz")[1]))
