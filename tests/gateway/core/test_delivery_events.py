"""What is delivered of an event, whatever its producer wrote."""

import json
import tracemalloc

import pytest

from podpair.gateway.core.deliveries.events import Place, event_of
from podpair.gateway.core.deliveries.slack import message

pytestmark = pytest.mark.pure


@pytest.mark.parametrize(
    ("milliseconds", "said"),
    [
        (1_764_525_600_000_000, "9999-12-31T23:59:59.999+00:00"),
        (-(1 << 62), "1000-01-01T00:00:00.000+00:00"),
        (0, "1970-01-01T00:00:00.000+00:00"),
    ],
)
def test_a_record_of_any_time_is_an_event(milliseconds: int, said: str) -> None:
    found = event_of("ann/s", b'{"a":1}', None, Place("", 0, 1, milliseconds))
    assert found is not None
    assert json.loads(found.body)["timestamp"] == said


def test_a_template_that_repeats_a_large_result_takes_no_memory_for_what_is_cut() -> None:
    body = json.dumps({"type": "podpair.result", "data": {"data": "x" * 1_000_000}}).encode()
    text = {"type": "mrkdwn", "text": "{{data.data}}" * 100}
    tracemalloc.start()
    try:
        made = message(body, [{"type": "section", "text": text}])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert made["blocks"][0]["text"]["text"] == "x" * 2999 + "…"
    assert peak < 20_000_000


def test_what_a_template_says_between_members_is_kept() -> None:
    body = b'{"type":"podpair.result","data":{"id":"<q>"}}'
    text = {"type": "mrkdwn", "text": "a {{data.id}} b {{type}} c"}
    made = message(body, [{"type": "section", "text": text}])
    assert made["blocks"][0]["text"]["text"] == "a &lt;q&gt; b podpair.result c"
