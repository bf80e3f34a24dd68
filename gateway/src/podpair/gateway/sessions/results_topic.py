"""What the results topic is at the moment, and what follows where it becomes another one while clients are connected.

Invariant: positions of one incarnation of the topic are never taken for those of another, and nothing that stands in the new one
is kept from a client that is there.
"""

import asyncio
import logging
from typing import Any

from podpair.gateway.config.model import Config
from podpair.gateway.core.partitions import HomePartitions
from podpair.gateway.core.topic_state import TopicState
from podpair.gateway.kafka.history import History
from podpair.gateway.kafka.results import ResultsReader
from podpair.gateway.kafka.topics import Topics, epochs
from podpair.gateway.sessions.joining import Joining
from podpair.gateway.sessions.registry import Registry

_log = logging.getLogger(__name__)


class ResultsTopic:
    """Follows the topic. `changing`: clients are being brought up to date with what it is now."""

    def __init__(
        self,
        config: Config,
        topics: Topics,
        homes: HomePartitions,
        reader: ResultsReader,
        history: History,
        joining: Joining,
        registry: Registry,
    ) -> None:
        self._topic = config.results.topic
        self._cluster_id = topics.cluster_id
        self._state = topics.results
        self.homes = homes
        self._reader = reader
        self._history = history
        self._joining = joining
        self._registry = registry
        self._going_on: asyncio.Future[Any] | None = None

    @property
    def changing(self) -> bool:
        return self._going_on is not None and not self._going_on.done()

    def changed(self, state: TopicState) -> None:
        """The topic is there, and perhaps another one."""
        before = self._state
        if state == before:
            return  # it was missed for a while only
        self._state = state
        widened = state.topic_id == before.topic_id and state.partitions > before.partitions
        epoch = self.homes.epoch
        self.homes.change(*epochs(self._topic, state, self._cluster_id))
        _log.warning("positions of epoch %s mean nothing any more: it is %s now", epoch, self.homes.epoch)
        sessions = list(self._registry.sessions.values())
        for ledger in self._registry.ledgers_of_left:
            ledger.moved()
        self._history.changed()
        # The sessions first: what is read already is for those whose home it is.
        self._going_on = self._joining.topic_changed(sessions, widened=widened, before=epoch)
        self._reader.changed(widened_from=before.partitions if widened else None)
