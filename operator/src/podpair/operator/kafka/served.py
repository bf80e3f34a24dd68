"""What a child process does for the operator: the only place where a Kafka client is made.

A child has one broker, or one way to it; its clients are kept between two calls. Functions here are asynchronous, take what can
be pickled and return what is JSON: see `podpair.operator.processes`.
"""

from typing import Any

from podpair.operator.core.kafka_state import KafkaSeen
from podpair.operator.kafka.topics import Topics

_topics = Topics()


async def keep(*args: Any) -> KafkaSeen:
    """`Topics.keep`."""
    return await _topics.keep(*args)


async def forget(*args: Any) -> None:
    """`Topics.forget`."""
    await _topics.forget(*args)
