"""The retrieval example on the node, with people who ask while its pods are replaced: their questions are answered in time."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from e2e.installed import Installed
from e2e.space import Space
from e2e.stage import Stage
from harness.images import PrivateDocker
from harness.pair import SECRET
from harness.processes import BIN, ROOT, Child, free_port, output_of
from harness.rag import EXAMPLE, Database, database_folder

pytestmark = [pytest.mark.process, pytest.mark.slow]
HERE = Path(__file__).parent
IMAGE, BASE = "podpair-rag:test", "podpair-inference:e2e"  # the base is the stage's
PEOPLE, PACE, DEADLINE = 60, 2.0, 10.0  # seconds
QUESTIONS = [one["question"] for one in yaml.safe_load((ROOT / "tests/rag/questions.yaml").read_text())]
DOCUMENTS = [ROOT / "docs" / name for name in ("operating.md", "protocol.md", "models.md", "scaling.md", "topics.md")]


@pytest.fixture(scope="module")
def image(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The example's image, loaded into the node."""
    if stage.node is None:
        pytest.skip("builds its image for the throw-away node only")
    docker = PrivateDocker()
    saved = tmp_path_factory.mktemp("image") / "rag.tar"
    try:
        base = ("--build-arg", f"BASE={BASE}")
        docker.docker("build", "-q", "--network=host", "-f", str(EXAMPLE / "Dockerfile"), *base, "-t", IMAGE, str(ROOT))
        docker.docker("save", "--output", str(saved), IMAGE)
    finally:
        docker.close()
    stage.node.load(saved)
    return IMAGE


@pytest.fixture(scope="module")
def database(stage: Stage) -> Iterator[str]:
    """PostgreSQL's URL, at an address that pods reach."""
    assert stage.node is not None
    with database_folder() as folder:
        postgres = Database(folder)
        (socket,) = parse_qs(urlsplit(postgres.url).query)["host"]
        port = free_port()
        relay = Child(
            *stage.node.entrance, sys.executable, HERE / "relay.py", stage.node.address, str(port),
            f"{socket}/.s.PGSQL.5432",
        )  # fmt: skip
        try:
            relay.wait_for_message("ready")
            yield f"postgresql://postgres@{stage.node.address}:{port}/postgres"
        finally:
            relay.stop()
            postgres.stop()


def rag(space: Space, image: str, database: str) -> dict[str, Any]:
    """The example as a resource, two pods of it."""
    pair = space.gateway("rag", scaling={"min": 2, "max": 2}, gateway__drain="10s")
    inference = pair["spec"]["inference"]
    inference |= {"image": image, "env": [{"name": "RAG_DATABASE_URL", "value": database}]}
    inference["models"] = [{"name": "answer"}, {"name": "embedding"}, {"name": "ingest", "timeout": "120s"}]
    pair["spec"]["gateway"]["env"] = [
        {"name": "PODPAIR_REQUESTS__MODELS", "value": '[{"model": "ingest", "busy_seconds": 3600}]'},
    ]
    return pair


def test_questions_are_answered_in_time_while_the_pods_are_replaced(
    stage: Stage, space: Space, operator: Installed, image: str, database: str
) -> None:
    space.client()
    space.jwt()
    space.apply(rag(space, image, database))
    space.ready(240, "rag")
    assert stage.node is not None
    topics = ("--requests", f"{space.name}.rag.requests", "--results", f"{space.name}.rag.results")
    output_of(
        *stage.node.entrance, BIN / "python", EXAMPLE / "ingest.py", "--kafka", stage.kafka.address, *topics, *DOCUMENTS
    )
    people = space.start(
        "questions", url="ws://rag/v1/ws", secret=SECRET, people=PEOPLE, questions=QUESTIONS, pace=PACE,
        deadline=DEADLINE, timeout=400,
    )  # fmt: skip
    people.wait_for(lambda line: line == "began", 120)

    for _ in range(2):
        before = {pod["metadata"]["name"] for pod in space.items("pods", "-l", "podpair.dev/gateway=rag")}
        space.kubectl("rollout", "restart", "deployment/rag")
        space.kubectl("rollout", "status", "deployment/rag", "--timeout=180s")
        space.until(
            lambda before=before: (
                not before & {pod["metadata"]["name"] for pod in space.items("pods", "-l", "podpair.dev/gateway=rag")}
            ),
            "the old pods are gone",
            180,
        )
    space.kubectl("exec", "client", "--", "touch", "/tmp/stop")
    verdict: dict[str, Any] = json.loads(people.wait_for(lambda line: line.startswith("{"), 120))

    print(json.dumps(verdict))  # noqa: T201
    assert verdict["asked"] >= 1000, verdict
    assert verdict["answered"] >= 0.999 * verdict["asked"], verdict
