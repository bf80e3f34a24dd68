"""The CRD that is committed, and the page on it, are those that the models make."""

from typing import Any

import yaml
from click.testing import CliRunner

from harness.processes import ROOT
from podpair.operator.cli.main import cli
from podpair.operator.core.crd import crd

COMMITTED = ROOT / "charts" / "podpair-crds" / "templates" / "crd.yaml"


def printed(*arguments: str) -> str:
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_committed_crd_is_the_generated_one() -> None:
    assert COMMITTED.read_text() == printed("crd"), "run: make crd"


def test_the_page_on_the_resource_is_the_generated_one() -> None:
    page = ROOT / "docs" / "resource.md"
    assert page.read_text() == printed("crd", "--format", "doc"), "run: make crd"


def test_it_is_small_and_helm_leaves_it_alone() -> None:
    text = COMMITTED.read_text()
    assert len(text) < 180_000  # what kubectl keeps of it in an annotation may be 262,144
    assert "{{" not in text  # nothing for Helm's templates to trip over
    assert yaml.safe_load(text)["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_every_field_says_what_it_means() -> None:
    def silent(schema: dict[str, Any], path: str) -> list[str]:
        found = []
        for name, field in schema.get("properties", {}).items():
            here = f"{path}.{name}"
            found += [here] if not field.get("description") else []
            found += silent(field, here) + silent(field.get("items", {}), here)
        return found

    schema = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    assert silent(schema["spec"], "spec") + silent(schema["status"], "status") == []
