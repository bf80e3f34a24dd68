"""Which spans are recorded, and below which span of another process."""

import pytest
from opentelemetry.trace import get_current_span

from podpair.common.otlp import context_below, is_sampled
from podpair.common.trace_context import Parent


@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.parametrize("sampled", [False, True])
def test_a_trace_that_has_begun_is_recorded_as_its_beginning_was(share: float, sampled: bool) -> None:
    assert is_sampled(Parent(1, 2, sampled), share) is sampled


def test_of_new_traces_so_large_a_share_is_recorded() -> None:
    assert not any(is_sampled(None, 0.0) for _ in range(100))
    assert all(is_sampled(None, 1.0) for _ in range(100))
    assert {is_sampled(None, 0.5) for _ in range(100)} == {False, True}


def test_a_span_is_below_its_parent_or_begins_a_trace() -> None:
    above = get_current_span(context_below(Parent(1, 2, sampled=True))).get_span_context()
    assert (above.trace_id, above.span_id, above.is_remote) == (1, 2, True)
    assert above.trace_flags.sampled
    assert not get_current_span(context_below(None)).get_span_context().is_valid
