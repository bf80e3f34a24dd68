"""A file of settings is a mapping, or says why it is none; a wrong name is answered with the right one."""

from pathlib import Path

import pytest
from pydantic import BaseModel, Field

from podpair.common.faults import FaultsError
from podpair.common.field_names import closest, names_at
from podpair.common.settings import read_mapping


class Step(BaseModel):
    top_k: int = Field(alias="topK")


class Other(BaseModel):
    labels: list[str]


class Model(BaseModel):
    steps: list[Step | Other] = []
    named: dict[str, Step] | None = None


@pytest.mark.parametrize(("content", "holds"), [(b"", {}), (b"# a: 1", {}), (b"a: {b: 1}", {"a": {"b": 1}})])
def test_a_mapping(tmp_path: Path, content: bytes, holds: object) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    assert read_mapping(path, "a: …") == holds


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"a: [", "not YAML: "),
        (b"\xff\xfe\xff", "not UTF-8"),
        (b"- 1", "a mapping is needed at the top (`a: …`), not a list"),
    ],
)
def test_a_file_that_is_none_says_why_in_a_line(tmp_path: Path, content: bytes, fault: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    with pytest.raises(FaultsError) as refused:
        read_mapping(path, "a: …")
    (said,) = refused.value.faults
    assert said.startswith(f"{path}: {fault}")
    assert "\n" not in said


def test_every_key_that_is_there_twice(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("a: &x\n  b: 1\n  c: [{d: 1, d: 2}]\n  b: 2\nx: *x\n'1': 1\n1: 2\na: 3\n")
    with pytest.raises(FaultsError) as refused:
        read_mapping(path, "a: …")
    assert refused.value.faults == [
        f"{path}: line 8: a is there twice, first in line 1",
        f"{path}: line 4: b is there twice, first in line 2",
        f"{path}: line 3: d is there twice, first in line 3",
    ]


def test_an_alias_of_what_it_stands_in(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("a: &x [1, *x]\n")
    assert read_mapping(path, "a: …")["a"][0] == 1


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FaultsError, match=r"x\.yaml: No such file or directory$"):
        read_mapping(tmp_path / "x.yaml", "a: …")


def test_faults_show_no_password() -> None:
    error = FaultsError(["http://u:hunter2@m: gone", "and more"])
    assert error.faults == ["http://**********@m: gone", "and more"]
    assert str(error) == "\n".join(error.faults)


def test_names_are_those_that_users_write() -> None:
    assert names_at(Model, ()) == ["steps", "named"]
    assert names_at(Model, ("steps", 0)) == ["topK", "labels"]
    assert names_at(Model, ("named", "a")) == ["topK"]


def test_the_closest_name() -> None:
    assert closest("topk", ["topK", "labels"]) == "topK"
    assert closest("elsewhere", ["topK", "labels"]) is None
