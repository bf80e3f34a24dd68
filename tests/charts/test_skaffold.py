"""skaffold.yaml: right by its published schema, and what it names is there and fits together.

The schema is not in the repository and no package registry serves it. It is taken from PODPAIR_SKAFFOLD_SCHEMA, or from
../shared/schemas; where neither has it the one test that needs it is skipped by name, also with PODPAIR_TEST_REQUIRE=all. The
other tests here never are.
"""

import copy
import json
import os
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from harness.helm import CHARTS, Helm
from harness.processes import ROOT

pytestmark = pytest.mark.process

FILE = ROOT / "skaffold.yaml"
Config = dict[str, Any]


def config() -> Config:
    loaded: Config = yaml.safe_load(FILE.read_text())
    return loaded


def dev() -> Config:
    """The configuration with its profile `dev`: patches (each an `add`), then what the profile states itself."""
    made = config()
    (profile,) = (one for one in made["profiles"] if one["name"] == "dev")
    for patch in profile["patches"]:
        assert patch["op"] == "add"
        *path, last = patch["path"].removeprefix("/").split("/")
        below: Any = made
        for step in path:
            below = below[int(step)] if isinstance(below, list) else below[step]
        if last == "-":
            below.append(patch["value"])
        else:
            assert last not in below
            below[last] = patch["value"]
    made["deploy"] |= profile["deploy"]
    return made | {key: value for key, value in profile.items() if key in ("manifests", "portForward")}


@pytest.fixture(params=[config, dev], ids=["default", "dev"])
def chosen(request: pytest.FixtureRequest) -> Config:
    made: Config = request.param()
    return made


def schema() -> Config:
    version = config()["apiVersion"].removeprefix("skaffold/")
    places = [ROOT.parent / "shared" / "schemas" / f"skaffold-{version}.json"]
    if given := os.environ.get("PODPAIR_SKAFFOLD_SCHEMA"):
        places = [Path(given)]
    for place in places:
        if place.exists():
            found: Config = json.loads(place.read_text())
            return found
    pytest.skip(f"Skaffold's schema {version} is not on this machine: name its file in PODPAIR_SKAFFOLD_SCHEMA")


def test_it_is_right_by_its_published_schema(chosen: Config) -> None:
    validator = jsonschema.Draft7Validator(schema())
    assert [error.message for error in validator.iter_errors(chosen)] == []
    wrong = copy.deepcopy(chosen)
    wrong["build"]["artifacts"][0]["docker"]["file"] = wrong["build"]["artifacts"][0]["docker"].pop("dockerfile")
    assert not validator.is_valid(wrong)


def test_every_image_is_built_from_a_file_that_takes_its_base_by_argument(chosen: Config) -> None:
    built = set()
    for artifact in chosen["build"]["artifacts"]:
        text = (ROOT / artifact["docker"]["dockerfile"]).read_text()
        arguments = set(re.findall(r"^ARG (\w+)", text, re.MULTILINE))
        assert "BASE" in arguments
        assert re.search(r"^FROM \$\{BASE\}$", text, re.MULTILINE)
        for needed in artifact.get("requires", []):
            assert needed["image"] in built
            assert needed["alias"] in arguments
        built.add(artifact["image"])
    assert {"podpair-gateway", "podpair-inference", "podpair-operator"} <= built


@pytest.mark.parametrize("digest", ["", "sha256:" + "a" * 64], ids=["local", "pushed"])
def test_the_charts_deploy_the_images_that_were_built(helm: Helm, chosen: Config, digest: str) -> None:
    known = {artifact["image"].replace("-", "_"): artifact["image"] for artifact in chosen["build"]["artifacts"]}

    def evaluated(template: str) -> str:
        """As Skaffold does, which knows a digest only of what was pushed."""
        values = {f"IMAGE_REPO_{name}": f"registry.example/{image}" for name, image in known.items()}
        values |= {f"IMAGE_TAG_{name}": "v7" for name in known} | {f"IMAGE_DIGEST_{name}": digest for name in known}
        chosen = re.sub(r"\{\{if \.(\w+)}}(.*?)\{\{end}}", lambda m: m[2] if values[m[1]] else "", template)
        return re.sub(r"\{\{\.(\w+)}}", lambda m: values[m[1]], chosen)

    deployed: set[str] = set()
    for release in chosen["deploy"]["helm"]["releases"]:
        given = {**release.get("setValues", {})}
        given |= {name: evaluated(template) for name, template in release["setValueTemplates"].items()}
        arguments = [f"--set={name}={value}" for name, value in given.items()]
        arguments += [f"--values={ROOT / file}" for file in release.get("valuesFiles", [])]
        assert (ROOT / release["chartPath"]).parent == CHARTS
        rendered = helm("template", release["name"], ROOT / release["chartPath"], *arguments)
        deployed |= set(re.findall(r"registry\.example/[^\s\"]+", rendered))
    served = {image for image in known.values() if image != "podpair-inference"}  # the base of podpair-digits
    forms = {f"registry.example/{image}{separator}" for image in served for separator in (":v7", f"@{digest}")}
    forms |= {f"registry.example/{image}:v7@{digest}" for image in served}
    assert deployed <= forms
    assert {re.split("[:@]", one)[0].removeprefix("registry.example/") for one in deployed} == served
    assert all(digest in one for one in deployed)


def test_dev_brings_the_broker_that_its_example_names() -> None:
    made = dev()
    (file,) = made["manifests"]["rawYaml"]
    objects = [one for one in yaml.safe_load_all((ROOT / file).read_text()) if one]
    (service,) = (one for one in objects if one["kind"] == "Service")
    (release,) = (one for one in made["deploy"]["helm"]["releases"] if one["name"] == "digits")
    (values,) = (yaml.safe_load((ROOT / name).read_text()) for name in release["valuesFiles"])
    address = (
        f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc:{service['spec']['ports'][0]['port']}"
    )
    assert values["kafka"]["bootstrapServers"] == address
    example = yaml.safe_load((ROOT / "examples" / "digits" / "inferencegateway.yaml").read_text())
    assert example["spec"]["kafka"]["bootstrapServers"] == address
    (forwarded,) = made["portForward"]
    assert (forwarded["resourceName"], forwarded["namespace"]) == (release["name"], release["namespace"])
