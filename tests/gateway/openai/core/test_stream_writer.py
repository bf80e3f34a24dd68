"""What a stream's writer makes of events that come while the broker is slow."""

import asyncio
from typing import Any, cast

from podpair.gateway.openai.core.stream_ids import StreamId
from podpair.gateway.openai.core.stream_records import Begin, StreamState, encode_record
from podpair.gateway.openai.stream_log import StreamLog, StreamWriter

_MOST_BYTES = 1 << 20  # of a record, as brokers have it unless they are told otherwise


class SlowLog:
    """Keeps records, and acknowledges them once `open` is set."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.values: list[bytes] = [encode_record(Begin("user"))]

    async def append(self, _: StreamId, record: Any) -> None:
        await self.open.wait()
        self.values.append(encode_record(record))


async def test_events_that_wait_make_no_record_that_is_too_large() -> None:
    log = SlowLog()
    writer = StreamWriter(cast("StreamLog", log), StreamId("resp", 0, 0, "name"))
    events = [b'"%d %b"' % (number, b"x" * 20_000) for number in range(200)]
    for event in events[:-1]:
        await writer.add([event])
    await writer.add([events[-1]], last=True)
    log.open.set()
    await writer.finish()
    assert max(map(len, log.values)) < _MOST_BYTES
    state = StreamState()
    for value in log.values:
        state.add(value)
    assert list(map(bytes, state.events)) == events
    assert state.ending is not None
    assert state.ending.how == "whole"


async def test_an_event_that_is_large_is_a_record_of_its_own() -> None:
    log = SlowLog()
    log.open.set()
    writer = StreamWriter(cast("StreamLog", log), StreamId("resp", 0, 0, "name"))
    events = [b'"%b"' % (b"x" * 300_000)] * 3
    await writer.add(events, last=True)
    await writer.finish()
    assert len(log.values) == 1 + len(events)
