"""Headers of records that others wrote.

confluent-kafka gives a message's headers as text and bytes; a name that isn't UTF-8, which other clients can write, is an error
of its `headers()`, and the message may not be asked for them again.
"""

import logging
from collections.abc import Iterable
from operator import methodcaller

from confluent_kafka import Message

from podpair.common.logs import Throttle
from podpair.gateway.core.cloud_events import Headers

_log = logging.getLogger(__name__)
_log_throttle = Throttle()
_headers = methodcaller("headers")


def headers_of(messages: Iterable[Message]) -> list[Headers | None]:
    """Return the headers of each message, which are None also where they can't be read. To be called once for a message."""
    found: list[Headers | None] = []
    rest = map(_headers, messages)
    while True:
        try:
            found.extend(rest)
        except Exception as error:
            _log_throttle.log(_log, logging.WARNING, "a record's headers can't be read: %s", error)
            found.append(None)
        else:
            return found
