"""A question over a WebSocket: passages and sentences stream in, and every sentence stands in the passage that it cites."""

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from harness.processes import ROOT
from harness.rag import ingest
from podpair import client
from rag.asking import passages_of, session
from rag.conftest import Application

pytestmark = pytest.mark.process

QUESTION = "Are sticky sessions needed at the load balancer?"


@pytest.fixture(scope="module")
def documents(application: Application) -> Application:
    """Return the example with two pages of the docs."""
    done = ingest(application.kafka, ROOT / "docs/proxies.md", ROOT / "docs/operating.md")
    assert done.returncode == 0, done.stderr
    return application


@pytest.fixture
async def reader(documents: Application) -> AsyncIterator[client.Session]:
    async with session(documents) as connected:
        yield connected


def plain(text: str) -> str:
    """Return letters and digits alone: an answer's sentences are without Markdown."""
    return re.sub(r"[^\w]+", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text))


@pytest.mark.parametrize("route", ["direct", "queue"])
async def test_an_answer_streams_in_and_cites_its_passages(reader: client.Session, route: Any) -> None:
    stream = reader.stream("answer", QUESTION, route=route)
    chunks: list[dict[str, str]] = [chunk async for chunk in stream]
    # Passages first, then the answer, and the result has both.
    assert [bool(chunk["answer"]) for chunk in chunks] == [False, True]
    joined = {name: "".join(chunk[name] for chunk in chunks) for name in ("passages", "answer")}
    assert stream.result.data == joined
    found = passages_of(joined)
    assert [passage["number"] for passage in found] == [1, 2, 3, 4, 5]
    cited = re.findall(r"(.+?) \[(\d+)\](?: |$)", joined["answer"])
    assert cited
    assert "sticky sessions aren't needed" in joined["answer"]
    for sentence, number in cited:
        assert plain(sentence) in plain(found[int(number) - 1]["content"])


async def test_a_question_that_no_sentence_answers_says_so(reader: client.Session) -> None:
    result = await reader.infer("answer", "qwzx vkjh plmn")
    assert isinstance(result.data, dict)
    assert "No sentence of the documents answers that" in result.data["answer"]
    assert len(passages_of(result.data)) == 5


@pytest.mark.parametrize(
    ("question", "parameters", "complaint"),
    [
        (" ", {}, "a question has 1 to 2000 characters, this one 0"),
        ("x" * 2001, {}, "this one 2001"),
        (QUESTION, {"passages": 0}, "parameters.passages is a number from 1 to 20, not 0"),
        (QUESTION, {"passages": "five"}, "not 'five'"),
    ],
)
async def test_what_is_no_question_is_refused(
    reader: client.Session, question: str, parameters: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(client.Invalid, match=re.escape(complaint)):
        await reader.infer("answer", question, parameters=parameters)


async def test_fewer_passages_are_as_many_as_were_asked_for(reader: client.Session) -> None:
    result = await reader.infer("answer", QUESTION, parameters={"passages": 2})
    assert isinstance(result.data, dict)
    assert len(passages_of(result.data)) == 2
