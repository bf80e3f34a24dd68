"""The service that runs in a child process: the only place where Kafka clients are made.

A child has one broker, with one set of credentials; its clients are cached between calls. Arguments are pickled, results are
JSON: see `podpair.operator.processes`.
"""

from typing import Any

from podpair.operator.kafka.topics import Topics

_topics = Topics()


async def run(method: str, *args: Any) -> Any:
    """Call a method of `Topics`."""
    return await getattr(_topics, method)(*args)
