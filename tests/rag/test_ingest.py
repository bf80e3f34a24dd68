"""Documents through Kafka: stored once, replaced whole, removed; whatever is wrong is reported by its name."""

import json
from pathlib import Path

import pytest

from harness.rag import ingest
from rag.asking import passages, session
from rag.conftest import Application

pytestmark = pytest.mark.process

OTTERS = "# Otters\n\nSea otters sleep in rafts and hold each other's paws.\n"
KILNS = "# Kilns\n\nA kiln for stoneware is fired to 1250 degrees.\n"
QUESTION = "Do sea otters hold paws?"


async def sources(application: Application, question: str = QUESTION) -> list[tuple[str, str]]:
    async with session(application) as reader:
        return [(p["source"], p["content"]) for p in await passages(reader, question, parameters={"passages": 20})]


async def test_a_document_is_stored_once_replaced_whole_and_removed(application: Application, tmp_path: Path) -> None:
    page, other = tmp_path / "otters.md", tmp_path / "kilns.md"
    page.write_text(OTTERS)
    other.write_text(KILNS)

    def ingested(*arguments: str | Path) -> str:
        done = ingest(application.kafka, *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "  otters.md: stored, 1 passages (1 embedded)\n" in ingested(page, other)
    before = await sources(application)
    assert before[0] == ("otters.md", "Sea otters sleep in rafts and hold each other's paws.")
    assert ingested(page) == "  otters.md: unchanged, 1 passages (0 embedded)\n"
    assert await sources(application) == before

    page.write_text(f"{OTTERS}\n## Food\n\nThey eat urchins.\n")
    assert ingested(page) == "  otters.md: stored, 2 passages (1 embedded)\n"
    page.write_text("# Otters\n\n## Food\n\nThey eat urchins.\n")
    assert ingested(page) == "  otters.md: stored, 1 passages (0 embedded)\n"
    found = await sources(application)
    assert ("otters.md", "They eat urchins.") in found
    assert before[0] not in found
    assert before[1] in found

    assert ingested("--remove", page) == "  otters.md: removed, 0 passages (0 embedded)\n"
    assert [source for source, _ in await sources(application) if source == "otters.md"] == []


async def test_of_two_versions_the_later_one_stays_in_whatever_order_they_come(application: Application) -> None:
    async with session(application) as writer:

        async def stored(text: str, version: int) -> str:
            inputs = [
                {"name": "source", "datatype": "BYTES", "shape": [1], "data": ["weather.md"]},
                {"name": "text", "datatype": "BYTES", "shape": [1], "data": [text]},
                {"name": "version", "datatype": "INT64", "shape": [1], "data": [version]},
            ]
            stream = writer.stream("ingest", inputs=inputs, route="queue")
            chunks = [json.loads(line) async for chunk in stream for line in chunk.splitlines()]
            return str(chunks[-1]["outcome"])

        assert await stored("# Weather\n\nTomorrow it rains in Bergen.\n", 2) == "stored"
        assert await stored("# Weather\n\nYesterday it was dry in Bergen.\n", 1) == "superseded"
        assert await stored("# Weather\n\nTomorrow it rains in Bergen.\n", 1) == "unchanged"
        found = await passages(writer, "What is the weather in Bergen?")
        assert [p["content"] for p in found if p["source"] == "weather.md"] == ["Tomorrow it rains in Bergen."]


def test_what_can_t_be_ingested_is_named_and_the_rest_is(application: Application, tmp_path: Path) -> None:
    (tmp_path / "latin.md").write_bytes("# Café\n".encode("latin-1"))
    (tmp_path / "nul.md").write_text("# Nothing\n\nA NUL \0 in it.\n")
    (tmp_path / "huge.md").write_text("word " * 400_000)
    (tmp_path / "good.md").write_text("# Good\n\nThis one is as it should be.\n")
    names = ("latin.md", "missing.md", "nul.md", "huge.md", "good.md")
    done = ingest(application.kafka, *(tmp_path / name for name in names), cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == "  good.md: stored, 1 passages (1 embedded)\n"
    lines = {line.split(":")[0].rpartition("/")[2].strip(): line for line in done.stderr.splitlines()}
    assert "can't be read: 'utf-8' codec" in lines["latin.md"]
    assert "No such file" in lines["missing.md"]
    assert "neither it nor text may have a NUL" in lines["nul.md"]
    assert "not written to podpair.requests" in lines["huge.md"]
    assert len(lines) == 4


def test_a_broker_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "good.md").write_text("# Good\n")
    done = ingest("127.0.0.1:1", tmp_path / "good.md")
    assert done.returncode == 1
    assert "the broker at 127.0.0.1:1: " in done.stderr
    assert "Traceback" not in done.stderr
