"""One metric family out of another process's metrics."""

from podpair.gateway.core.exposition import filter_family

TEXT = """\
# HELP inference_request_duration_seconds From a request's entry into the queue to its result
# TYPE inference_request_duration_seconds histogram
inference_request_duration_seconds_bucket{le="0.5",model="a}b"} 1.0
inference_request_duration_seconds_count{model="a}b"} 1.0
inference_request_duration_seconds_sum 0.1
# HELP inference_request_duration_seconds_created When
# TYPE inference_request_duration_seconds_created gauge
inference_request_duration_seconds_created{model="a"} 1.7e+09
inference_request_duration_seconds_more 3
# a remark on inference_request_duration_seconds
up 1
"""


def test_a_histogram_comes_whole_and_alone() -> None:
    assert filter_family(TEXT, "inference_request_duration_seconds").splitlines() == TEXT.splitlines()[:5]


def test_a_family_that_is_not_there_is_nothing() -> None:
    assert filter_family(TEXT, "inference_errors") == ""
    assert filter_family("no metrics at all <html>", "up") == ""
