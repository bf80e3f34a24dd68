"""Applies the invalidation topic to the cache, and says until when answers that are kept may be given.

Every quarter of `cache.lease_seconds` the brokers are asked where the topic ends. Once all up to there has been applied, nothing
that was acknowledged before the question is unknown here, and answers may be given for a lease from then on. A gateway that can't
ask, or lags, gives none that are kept: it asks the model.

Invariant: an answer that is kept is given at a time t only if all that the brokers had acknowledged `lease_seconds` before t has
been applied. So an invalidation is in force everywhere that long after its acknowledgement, whoever died, started or lagged.
"""

import asyncio
import logging
import threading
import time
from typing import cast

from confluent_kafka import KafkaError, KafkaException, Message

from podpair.common.gateway_config.model import Config
from podpair.gateway.core.answer_cache import AnswerCaches, cache_clock
from podpair.gateway.core.cloud_events import Headers
from podpair.gateway.core.invalidations import Invalidation, InvalidInvalidation, decode_invalidation
from podpair.gateway.kafka.invalidation_topic import QUERY_SECONDS, TopicReader
from podpair.gateway.kafka.supervisor import CallDeadlines, Supervisor, is_dead
from podpair.gateway.kafka.threads import post_to_loop
from podpair.gateway.metrics import Metrics

_log = logging.getLogger(__name__)
_MARGIN = 0.95  # of a lease: clocks do not run equally fast
_SOON = 0.02  # seconds until more is read
_LONG = 5.0  # seconds that answers may not be given until that is logged
_QUIET = 60.0  # seconds between two log lines about the same trouble


class Invalidator:
    """Reads on a thread of its own, applies on the loop's."""

    def __init__(self, config: Config, caches: AnswerCaches, metrics: Metrics, supervisor: Supervisor) -> None:
        topic = config.cache.topic
        assert topic is not None  # noqa: S101 - there is nothing to read without one
        self._config = config
        self._topic = topic
        self._lease = config.cache.lease_seconds * _MARGIN
        self._caches = caches
        self._trouble = f"topic {topic} has not been read yet"
        self._logged_at = -_QUIET
        self._current_at = time.monotonic()
        self._invalidations = metrics.cache_invalidations
        self._loop = asyncio.get_running_loop()
        self._wake = threading.Condition()
        self._stopping = False
        self._client = supervisor.watch("invalidations", self._replace)
        metrics.cache_current.set_function(lambda: self._current)
        self._thread = self._begin()

    @property
    def _current(self) -> bool:
        return self._caches.is_current(cache_clock())

    @property
    def trouble(self) -> str | None:
        """Why answers that are kept are not given, for operators; None: they are."""
        return None if self._current else f"answers that are kept are not given: {self._trouble}"

    def _begin(self) -> threading.Thread:
        self._turn = turn = object()  # identifies the current thread: an abandoned one sees another turn
        calls = self._client.calls()
        thread = threading.Thread(target=self._run, args=(turn, calls), name="kafka-invalidations", daemon=True)
        thread.start()
        return thread

    def _replace(self) -> None:
        """Read with other clients: these are dead, or stuck."""
        with self._wake:
            self._thread = self._begin()
            self._wake.notify_all()
        self._client.works()

    def _run(self, turn: object, calls: CallDeadlines) -> None:
        reader = TopicReader(self._config, self._topic)
        pause = 0.0
        while self._wait(turn, pause):
            began = cache_clock()
            try:
                with calls.within(4 * QUERY_SECONDS):
                    messages, anew, complete = reader.read()
            except KafkaException as error:
                pause = self._lease / 4
                going = post_to_loop(self._loop, self._on_error, turn, error.args[0])
            else:
                pause = self._lease / 4 if complete else _SOON
                until = began + self._lease if complete else None
                going = post_to_loop(self._loop, self._on_read, turn, messages, anew, until)
            if not going:
                break
        reader.close()

    def _wait(self, turn: object, seconds: float) -> bool:
        """Wait until it is time to read. Return False if this thread is to end."""
        with self._wake:
            self._wake.wait_for(lambda: self._stopping or self._turn is not turn, seconds)
            return not self._stopping and self._turn is turn

    def _on_read(self, turn: object, messages: list[Message], anew: bool, until: float | None) -> None:
        if self._turn is not turn:
            return
        if anew:
            self._caches.clear("invalidated")
        for message in messages:
            self._apply(message)
        if until is None:
            self._trouble = f"topic {self._topic} is being read"
            self._log_if_it_lasts()
        else:
            self._caches.until = max(self._caches.until, until)

    def _apply(self, message: Message) -> None:
        try:
            invalidation = decode_invalidation(message.value(), cast("Headers | None", message.headers()))
        except Exception as error:  # whatever can't be read; the client library's own are of no one type
            self._invalidations.labels("malformed").inc()
            place = {"partition": message.partition(), "offset": message.offset()}
            why = error if isinstance(error, InvalidInvalidation) else "its headers can't be read"
            _log.warning("an invalidation can't be read, so all answers are removed: %s", why, extra=place)
            invalidation = Invalidation()
        else:
            self._invalidations.labels("applied").inc()
        self._caches.invalidate(invalidation.model, invalidation.subject)

    def _on_error(self, turn: object, error: KafkaError) -> None:
        if self._turn is not turn:
            return
        self._trouble = f"topic {self._topic} can't be read: {error.str()}"
        if is_dead(error):
            self._client.died(error)
        self._log_if_it_lasts()

    def _log_if_it_lasts(self) -> None:
        now = time.monotonic()
        if self._current:
            self._current_at = now
        elif now - self._current_at >= _LONG and now - self._logged_at >= _QUIET:
            self._logged_at = now
            _log.warning("%s", self.trouble)

    async def close(self) -> None:
        """Stop reading."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        self._client.close()
        await self._loop.run_in_executor(None, self._thread.join, 2 * QUERY_SECONDS)
