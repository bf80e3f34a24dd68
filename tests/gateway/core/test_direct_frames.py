"""What is written in one piece for direct requests is what their events are, each in its frame."""

from typing import NamedTuple

import pytest

from podpair.gateway.core.direct_frames import direct_frames
from podpair.gateway.core.frames import text_frames
from podpair.gateway.core.records import Event, direct_events, result_event


class Ended(NamedTuple):
    id: str
    accepted: bool


@pytest.mark.parametrize("request_id", ["r", "x" * 61, "x" * 62, "x" * 63, "x" * 128, '"\\é\U0001f600' * 12])
@pytest.mark.parametrize("size", [8, 80, 950, 1000, 1100, 66_000])
def test_the_frames_of_the_events(request_id: str, size: int) -> None:
    members = b'"data":"%b"' % (b"%" * size)
    ended = [(Ended(request_id, accepted), members) for accepted in (False, True, False)]
    events: list[Event] = []
    for request, result in ended:
        made = (result_event(request.id, result),) if request.accepted else direct_events(request.id, result)
        events += made
    assert direct_frames(ended) == text_frames(event.payload for event in events)
