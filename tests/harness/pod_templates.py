"""Golden pod templates of a version that landed: `python pod_templates.py CHECKOUT > pod_templates.jsonl`, where PYTHONPATH
leads to the packages and tests of CHECKOUT.

A line is a resource, its pods' template, and the texts of the ConfigMaps whose checksum the template has. The resources are the
examples', what the chart makes of its values, and generated ones that the operator takes.
"""

import json
import sys
import tempfile
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import yaml

from harness.generated_resources import generated
from harness.helm import Helm, program_4
from podpair.operator.core.api.igw import InferenceGateway
from podpair.operator.core.config_faults import config_faults
from podpair.operator.core.desired import Dependencies, desired

GENERATED = 20
DEPENDENCIES = Dependencies(gateway_image="podpair-gateway:test", resume_key="k" * 43)


def line(resource: dict[str, Any]) -> dict[str, Any] | None:
    """A resource and what it becomes; None: the operator doesn't take it."""
    try:
        gateway = InferenceGateway.model_validate(resource)
    except ValueError:
        return None
    if list(config_faults(gateway)):
        return None
    objects = desired(gateway, DEPENDENCIES)
    (template,) = (one["spec"]["template"] for one in objects if one["kind"] == "Deployment")
    texts = {one["metadata"]["name"]: one["data"] for one in objects if one["kind"] == "ConfigMap"}
    return {"resource": resource, "template": template, "texts": texts}


def written(checkout: Path) -> Iterator[dict[str, Any]]:
    """The resources that people wrote, in the examples and the chart's values."""
    for page in sorted(checkout.glob("examples/**/*.yaml")):
        yield from yaml.safe_load_all(page.read_text())
    with tempfile.TemporaryDirectory() as home:
        helm = Helm(Path(home), None, program_4)
        for values in sorted(checkout.glob("charts/inference-gateway/ci/*.yaml")):
            yield from helm.template("inference-gateway", values=yaml.safe_load(values.read_text()))


def main(checkout: Path) -> None:
    wanted = (one for one in written(checkout) if one and one.get("kind") == "InferenceGateway")
    made = [line(one) for one in wanted]
    taken = (found for number in count() if (found := line(generated(number))) is not None)
    for one in [*made, *islice(taken, GENERATED)]:
        sys.stdout.write(json.dumps(one, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
