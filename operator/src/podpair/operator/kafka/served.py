"""What a child process does for the operator: the only place where a Kafka client is made.

A child has one broker, or one way to it; its clients are kept between two calls. What goes in can be pickled, what comes out is
JSON: see `podpair.operator.processes`.
"""

from typing import Any

from podpair.operator.kafka.topics import Topics

_topics = Topics()


async def run(method: str, *args: Any) -> Any:
    """Call a method of `Topics`."""
    return await getattr(_topics, method)(*args)
