"""An operator's way to its brokers, for the tests of this folder."""

from collections.abc import AsyncIterator

import pytest

from podpair.operator.kafka.topics import Topics


@pytest.fixture
async def topics() -> AsyncIterator[Topics]:
    """One operator's topics, on all brokers."""
    made = Topics()
    yield made
    await made.close()
