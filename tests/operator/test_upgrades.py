"""An upgrade of the operator alone touches no pod: what a former version made of resources, this one makes, too.

golden/pod_templates.jsonl was written by harness/pod_templates.py with the former version. A change that pods have to follow is
told in CHANGED, with what users are told of it; the file is written anew once that version has landed.
"""

import copy
import json
from typing import Any

import pytest

from harness.pod_templates import line
from harness.processes import ROOT

FORMER = [json.loads(text) for text in (ROOT / "tests/operator/golden/pod_templates.jsonl").read_text().splitlines()]
# Number of the line → why its pods have to roll, as docs/install.md says it under "Upgrade".
CHANGED: dict[int, str] = {}


def differences(former: dict[str, Any]) -> list[str]:
    """What of a resource's pods is another now."""
    now = line(former["resource"])
    if now is None:
        return ["it is refused"]
    found = [name for name, text in former["texts"].items() if now["texts"].get(name) != text]
    was, becomes = former["template"], now["template"]
    found += [
        f"template.metadata.{key}" for key in was["metadata"] if was["metadata"][key] != becomes["metadata"].get(key)
    ]
    spec = was["spec"].keys() | becomes["spec"].keys()
    found += [f"template.spec.{key}" for key in sorted(spec) if was["spec"].get(key) != becomes["spec"].get(key)]
    return found if found or was == becomes else ["template"]


@pytest.mark.parametrize("number", range(len(FORMER)))
def test_pods_stay_as_a_former_version_made_them(number: int) -> None:
    assert bool(differences(FORMER[number])) == (number in CHANGED), differences(FORMER[number])


def test_each_reason_to_roll_is_told_to_those_who_upgrade() -> None:
    page = " ".join((ROOT / "docs" / "install.md").read_text().partition("## Upgrade\n")[2].split())
    assert [reason for reason in CHANGED.values() if reason not in page] == []


def test_many_kinds_of_resources_are_compared() -> None:
    said = [json.dumps(one["resource"]["spec"]) for one in FORMER]
    assert len(said) >= 20
    for field in (
        "tracing",
        "sasl",
        "podTemplate",
        "resources",
        "grpc",
        "consumerGroup",
        "admission",
        "tls",
        "volumes",
    ):
        assert any(f'"{field}"' in one for one in said), field


def test_a_difference_is_seen() -> None:
    texts = copy.deepcopy(FORMER[0])
    texts["texts"]["digits-gateway"]["gateway.yaml"] += "# one more line\n"
    assert differences(texts) == ["digits-gateway"]
    grace = copy.deepcopy(FORMER[0])
    grace["template"]["spec"]["terminationGracePeriodSeconds"] += 1
    assert differences(grace) == ["template.spec.terminationGracePeriodSeconds"]
    annotated = copy.deepcopy(FORMER[0])
    annotated["template"]["metadata"]["annotations"]["podpair.dev/config-checksum"] = "another"
    assert differences(annotated) == ["template.metadata.annotations"]
    refused = copy.deepcopy(FORMER[0])
    refused["resource"]["spec"]["scaling"]["min"] = 99
    assert differences(refused) == ["it is refused"]
