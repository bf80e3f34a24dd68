"""Follows the results topic, which may be replaced or widened while clients are connected.

Invariant: positions of one incarnation of the topic are never taken for those of another, and connected clients get every record
of the new one.
"""

import asyncio
import logging
from typing import Any

from podpair.common.gateway_config.model import Config
from podpair.gateway.core.topic_state import TopicState
from podpair.gateway.kafka.log_reader import ResultsLog
from podpair.gateway.kafka.topics import Topics, epochs
from podpair.gateway.sessions.channels import Subscriptions
from podpair.gateway.sessions.registry import Registry
from podpair.gateway.sessions.resume import ResumeService

_log = logging.getLogger(__name__)


class ResultsTopic:
    """Follows the topic. `changing`: clients are catching up with the changed topic."""

    def __init__(
        self,
        config: Config,
        topics: Topics,
        log: ResultsLog,
        resume_service: ResumeService,
        registry: Registry,
    ) -> None:
        self._topic = config.results.topic
        self._cluster_id = topics.cluster_id
        self._state = topics.results
        self.homes = log.homes
        self._reader = log.reader
        self._log_reader = log.log_reader
        self._resume_service = resume_service
        self._registry = registry
        self.subscriptions: Subscriptions | None = None  # to channels
        self._following: asyncio.Future[Any] | None = None

    @property
    def changing(self) -> bool:
        return self._following is not None and not self._following.done()

    def changed(self, state: TopicState) -> None:
        """Apply the state of the topic, which may be another one."""
        before = self._state
        if state == before:
            return  # it was only missing for a while
        self._state = state
        widened = state.topic_id == before.topic_id and state.partitions > before.partitions
        epoch = self.homes.epoch
        self.homes.change(*epochs(self._topic, state, self._cluster_id))
        _log.warning("positions of epoch %s are not valid any more: the epoch is %s now", epoch, self.homes.epoch)
        sessions = list(self._registry.sessions.values())
        for ledger in self._registry.retained_ledgers:
            ledger.on_log_moved()
        self._log_reader.changed()
        # The sessions first: records that were already read are for the sessions whose home it is now.
        self._following = self._resume_service.topic_changed(sessions, widened=widened, before=epoch)
        if self.subscriptions is not None:
            self.subscriptions.topic_changed(widened=widened, before=epoch)
        self._reader.changed(widened_from=before.partitions if widened else None)
