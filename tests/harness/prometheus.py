"""Prometheus: rules in its own unit tests (promtool), and a server that scrapes processes of a test."""

import json
import re
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from harness.machine import require
from harness.processes import Child, completed, free_port

Alerts = set[tuple[str, ...]]
"""Alerts that fire, each told by its name and its severity unless something else is asked for."""


def check_rules(folder: Path, spec: Mapping[str, Any]) -> str:
    """What `promtool check rules` says of a PrometheusRule's spec. Raises AssertionError where it finds fault."""
    (promtool,) = require("promtool")
    file = folder / "checked.yaml"
    file.write_text(yaml.safe_dump(spec, sort_keys=False))
    done = completed(promtool, "check", "rules", "--lint=all", "--lint-fatal", file)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def firing(
    folder: Path, spec: Mapping[str, Any], series: Mapping[str, str], minutes: Sequence[int], *, by: str = "severity"
) -> list[Alerts]:
    """Which alerts fire at these minutes of series in promtool's notation, a value a minute: their names and label `by`.

    promtool has no way to print them: it is asked for nothing at all, and says what it found instead.
    """
    expression = f'count by (alertname, {by}) (ALERTS{{alertstate="firing"}})'
    (promtool,) = require("promtool")
    (folder / "rules.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    test = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "promql_expr_test": [
                    {
                        "expr": expression,
                        "eval_time": f"{minute}m",
                        "exp_samples": [{"labels": "{nothing=''}", "value": -1}],
                    }
                    for minute in minutes
                ],
            }
        ],
    }
    (folder / "test.yaml").write_text(yaml.safe_dump(test, sort_keys=False))
    done = completed(promtool, "test", "rules", "test.yaml", cwd=folder)
    said = done.stdout + done.stderr
    found = re.findall(r"exp: .*-1E\+00\s+got: (.*)", said)
    assert len(found) == len(minutes), said
    return [set(re.findall(rf'alertname="(\w+)", {by}="(\w+)"', one)) for one in found]


class Prometheus(Child):
    """A server that scrapes `targets` (address → labels) each second, and evaluates rules."""

    def __init__(self, folder: Path, targets: Mapping[str, Mapping[str, str]], spec: Mapping[str, Any]) -> None:
        (program,) = require("prometheus")
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        (folder / "rules.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
        self._targets = folder / "targets.json"
        self.set_targets(targets)
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yaml"],
            "scrape_configs": [
                {"job_name": "pods", "file_sd_configs": [{"files": ["targets.json"], "refresh_interval": "1s"}]}
            ],
        }
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
        super().__init__(
            program,
            f"--config.file={folder / 'prometheus.yaml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        )
        self.wait_for(lambda line: "Server is ready to receive web requests" in line)

    def set_targets(self, targets: Mapping[str, Mapping[str, str]]) -> None:
        """Scrape these from now on."""
        groups = [{"targets": [address], "labels": dict(labels)} for address, labels in targets.items()]
        new = self._targets.with_suffix(".new")
        new.write_text(json.dumps(groups))
        new.rename(self._targets)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples of an instant vector. Raises HTTPError where Prometheus refuses the expression."""
        asked = urllib.parse.urlencode({"query": expression})
        found: list[dict[str, Any]] = self._get(f"/api/v1/query?{asked}")["result"]
        return found

    def alerts(self) -> list[dict[str, Any]]:
        """The alerts that fire, with their labels and annotations."""
        return [one for one in self._get("/api/v1/alerts")["alerts"] if one["state"] == "firing"]

    def firing(self) -> Alerts:
        """Names and severities of the alerts that fire."""
        return {(one["labels"]["alertname"], one["labels"]["severity"]) for one in self.alerts()}

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return json.load(answer)["data"]
