"""How long streams may go on while their gateway stops."""

import pytest

from podpair.gateway.openai.stream_runner import time_to_end


@pytest.mark.parametrize(("seconds", "expected"), [(600.0, 595.0), (20.0, 15.0), (2.0, 1.0), (-3.0, 0.0)])
def test_a_stream_has_the_time_that_the_resource_gives_but_for_what_its_failure_takes(
    seconds: float, expected: float
) -> None:
    assert time_to_end(seconds) == expected
