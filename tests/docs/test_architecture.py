"""docs/architecture.md and docs/glossary.md name what there is, and a newcomer's word leads to the file that answers."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DISTRIBUTIONS = ("common", "gateway", "inference", "operator")
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text()
GLOSSARY = (ROOT / "docs/glossary.md").read_text()
#: | question | `word` | distribution `file` |
QUESTIONS = re.findall(r"^\| ([^|]+\?) \| `([^`]+)` \| (\w+) `([^`]+)` \|$", ARCHITECTURE, re.MULTILINE)
_FEW = 5


def folder(distribution: str) -> Path:
    return ROOT / distribution / "src/podpair" / distribution


@cache
def first_lines(distribution: str) -> dict[str, str]:
    """Return, for each module of a distribution, its path and the first paragraph of its docstring."""
    found = {}
    for file in folder(distribution).rglob("*.py"):
        text = ast.get_docstring(ast.parse(file.read_text())) or ""
        path = str(file.relative_to(folder(distribution)))
        found[path] = f"{path} {text.split(chr(10) * 2)[0]}".replace("_", " ")
    return found


@pytest.mark.parametrize(("question", "word", "distribution", "file"), QUESTIONS, ids=[q[0] for q in QUESTIONS])
def test_a_word_leads_to_the_file_that_answers(question: str, word: str, distribution: str, file: str) -> None:
    hits = [path for path, text in first_lines(distribution).items() if word.lower() in text.lower()]
    assert file in hits
    assert len(hits) <= _FEW, hits


def test_there_are_ten_questions() -> None:
    assert len(QUESTIONS) >= 10


def test_the_files_of_the_walks_are_there_with_what_is_named_of_them() -> None:
    """A name follows the file that has it, or one of the files named before it in the same paragraph."""
    missing = []
    for paragraph in ARCHITECTURE.split("## Four walks")[1].split("## Where is")[0].split("\n\n"):
        files: list[str] = []
        for name in re.findall(r"`([^`\n]+)`", paragraph):
            if name.endswith(".py"):
                found = [folder(one) / name for one in DISTRIBUTIONS if (folder(one) / name).exists()]
                missing += [] if found else [name]
                files += [file.read_text() for file in found]
            elif re.fullmatch(r"[A-Z]\w+(\.\w+)?", name):
                kind, _, method = name.partition(".")
                if not any(f"class {kind}" in text and f"def {method}" in text for text in files):
                    missing.append(name)
    assert missing == []


def test_the_files_of_the_glossary_are_there() -> None:
    missing = []
    for line in GLOSSARY.splitlines()[6:]:
        distribution = ""
        for plain, quoted in re.findall(r"(common|gateway|inference|operator)(?= `)|`([\w/.]+)`", line.split("|")[-2]):
            distribution = plain or distribution
            if quoted and ("/" in quoted or "." in quoted) and not (folder(distribution) / quoted).exists():
                missing.append(quoted)
    assert missing == []


def test_terms_are_in_order_each_once() -> None:
    terms = [line.split("|")[1].strip().lower() for line in GLOSSARY.splitlines()[7:]]
    assert terms == sorted(set(terms))
