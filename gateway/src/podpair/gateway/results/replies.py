"""Replies: the terminal records of requests that other gateways have sent, written to the topic that they wait at, too."""

import logging
from collections.abc import Iterable, Sequence

from podpair.common.logs import Throttle
from podpair.gateway.kafka.producer import Outgoing

_log = logging.getLogger(__name__)


class ReplyWriter:
    """Makes replies. allowed: the topics that get them, as `requests.reply_topics` has them."""

    def __init__(self, allowed: Sequence[str]) -> None:
        self._exact = frozenset(name for name in allowed if not name.endswith("*"))
        self._prefixes = tuple(name[:-1] for name in allowed if name.endswith("*"))
        self._throttle = Throttle()

    def to_each(self, addresses: Iterable[tuple[str, int] | None], answer: Outgoing) -> list[Outgoing]:
        """Return the replies to requests with these addresses, as `to` does for one."""
        return [reply for address in addresses for reply in self.to(address, answer)]

    def to(self, address: tuple[str, int] | None, answer: Outgoing) -> list[Outgoing]:
        """Return the reply to a request with this address (topic, partition); nothing if nobody asked for one, or may get one."""
        if address is None:
            return []
        topic, partition = address
        if topic not in self._exact and not (self._prefixes and topic.startswith(self._prefixes)):
            why = "a request wants its answer on topic %s: allow it in requests.reply_topics"
            self._throttle.log(_log, logging.WARNING, why, topic)
            return []
        # Nobody else's requests wait for a topic that is gone, or that was made anew with fewer partitions.
        return [answer._replace(topic=topic, fallback=None, partition=partition, optional=True)]
