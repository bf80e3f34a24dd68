"""The example as a whole: PostgreSQL, its three models, a gateway on embedded Kafka."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.pair import Gateway
from harness.rag import EXAMPLE, Database, Models, database_folder


@dataclass
class Application:
    """What runs of it. The database may be stopped, and started again in its folder."""

    folder: Path
    database: Database
    models: Models
    gateway: Gateway

    @property
    def kafka(self) -> str:
        """The broker's address."""
        return str(self.gateway.wait_for_message("embedded Kafka")["kafka"])

    def stop_database(self) -> None:
        self.database.stop()

    def start_database(self) -> None:
        self.database = Database(self.folder)


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    """The example with an empty store, for one module's tests."""
    config: dict[str, Any] = yaml.safe_load((EXAMPLE / "rag.yaml").read_text())
    with database_folder() as folder:
        database = Database(folder)
        models = Models(database.url)
        gateway = Gateway(
            tmp_path_factory.mktemp("gateway"),
            config | {"kafka": {"embedded": True}, "inference": config["inference"] | {"url": models.url}},
        )
        gateway.wait_ready()
        running = Application(folder, database, models, gateway)
        yield running
        gateway.stop()
        models.stop()
        running.database.stop()
