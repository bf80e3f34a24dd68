"""One metric family out of another process's metrics."""

from podpair.gateway.core.exposition import only

TEXT = """\
# HELP inference_latency_seconds From a request's entry into the queue to its result
# TYPE inference_latency_seconds histogram
inference_latency_seconds_bucket{le="0.5",model="a}b"} 1.0
inference_latency_seconds_count{model="a}b"} 1.0
inference_latency_seconds_sum 0.1
# HELP inference_latency_seconds_created When
# TYPE inference_latency_seconds_created gauge
inference_latency_seconds_created{model="a"} 1.7e+09
inference_latency_seconds_more 3
# a remark on inference_latency_seconds
up 1
"""


def test_a_histogram_comes_whole_and_alone() -> None:
    assert only(TEXT, "inference_latency_seconds").splitlines() == TEXT.splitlines()[:5]


def test_a_family_that_is_not_there_is_nothing() -> None:
    assert only(TEXT, "inference_errors") == ""
    assert only("no metrics at all <html>", "up") == ""
