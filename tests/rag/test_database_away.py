"""The database goes away and comes back: questions say why they fail, documents wait, and neither needs a hand."""

import asyncio
from pathlib import Path

import pytest

from harness.rag import ingest
from harness.waiting import until
from podpair import client
from rag.asking import passages, session
from rag.conftest import Application

pytestmark = pytest.mark.process

FACT = "# Lighthouses\n\nThe lamp of the lighthouse at Kullen is seen for 27 nautical miles.\n"
QUESTION = "How far is the lighthouse at Kullen seen?"


async def test_questions_say_why_they_fail_and_documents_wait(application: Application, tmp_path: Path) -> None:
    first, second = tmp_path / "first.md", tmp_path / "second.md"
    first.write_text("# Lamps\n\nA lamp burns oil, and needs somebody who trims its wick.\n")
    second.write_text(FACT)
    async with session(application) as reader:
        empty = await reader.infer("answer", QUESTION)
        assert empty.data == {"passages": "", "answer": "There are no documents yet."}
        assert ingest(application.kafka, first, cwd=tmp_path).returncode == 0
        assert await passages(reader, QUESTION)
        await asyncio.to_thread(application.stop_database)
        with pytest.raises(client.Upstream, match=r"the document store \(PostgreSQL\) can't be reached"):
            await passages(reader, QUESTION, route="direct")

        waiting = asyncio.create_task(asyncio.to_thread(ingest, application.kafka, second, cwd=tmp_path))
        await asyncio.to_thread(until, lambda: application.gateway.metric("queue_retries_total") >= 3)
        assert not waiting.done()
        assert application.gateway.get("/readyz")[0] == 200

        await asyncio.to_thread(application.start_database)
        done = await waiting
        assert done.stdout == "  second.md: stored, 1 passages (1 embedded)\n"
        found = await passages(reader, QUESTION)
        assert found[0]["source"] == "second.md"
        assert application.gateway.metric("dead_letters_total") == 0
