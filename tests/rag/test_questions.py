"""Questions with known passages over podpair's own docs, ingested through Kafka: how many are among the first five."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.processes import ROOT
from harness.rag import ingest
from rag.asking import passages, session
from rag.conftest import Application

pytestmark = pytest.mark.process

QUESTIONS: list[dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("questions.yaml").read_text())
FOUND = 0.9
DOCS = sorted((ROOT / "docs").glob("*.md"))


def flat(text: str) -> str:
    return " ".join(text.split())


def answers(passage: dict[str, Any], question: dict[str, Any]) -> bool:
    """Return whether a passage is one that answers the question."""
    text = flat(f"{passage['heading']} {passage['content']}")
    return any(
        passage["source"] == f"docs/{known['page']}" and known["phrase"] in text
        for known in (question, *question.get("or", ()))
    )


def test_there_are_forty_questions_whose_passages_are_in_the_docs() -> None:
    assert len({question["question"] for question in QUESTIONS}) == 40
    gone = [
        known["phrase"]
        for question in QUESTIONS
        for known in (question, *question.get("or", ()))
        if known["phrase"] not in flat((ROOT / "docs" / known["page"]).read_text())
    ]
    assert gone == []


@pytest.mark.timeout(900)
async def test_nine_of_ten_questions_find_their_passage_among_the_first_five(application: Application) -> None:
    done = ingest(application.kafka, *DOCS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" stored, ") == len(DOCS)
    missed = []
    async with session(application) as reader:
        for question in QUESTIONS:
            found = await passages(reader, question["question"], deadline=30.0)
            assert len(found) == 5
            if not any(answers(passage, question) for passage in found):
                missed.append({question["question"]: [f"{p['source']}#{p['heading']}" for p in found]})
    assert 1 - len(missed) / len(QUESTIONS) >= FOUND, yaml.safe_dump(missed)
