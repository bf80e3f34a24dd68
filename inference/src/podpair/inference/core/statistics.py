"""A model version's counts, and seconds summed up since it was loaded, for V2's statistics extension."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Statistics:
    """Updated by the scheduler: a few additions per run, and per request only for times of its own."""

    # Requests answered, and from entry into the queue to the answer.
    success: int = 0
    success_seconds: float = 0.0
    fail: int = 0
    fail_seconds: float = 0.0
    # Of all requests that record_run: waiting, and the time of the run that each was in.
    queue_seconds: float = 0.0
    compute_seconds: float = 0.0
    # Requests that were pre-processed, and how long.
    preprocessed_requests: int = 0
    preprocess_seconds: float = 0.0
    # Rows and runs.
    rows: int = 0
    runs: int = 0
    # Rows in a run → how many such runs, and their seconds.
    by_size: dict[int, list[float]] = field(default_factory=dict)
    # Unix seconds of the last run.
    last_run: float = 0.0

    def record_run(self, rows: int, requests: int, waited: float, seconds: float, now: float) -> None:
        """Record a run of `rows` rows with `requests` requests, which had waited `waited` seconds in sum."""
        self.rows += rows
        self.runs += 1
        self.queue_seconds += waited
        self.compute_seconds += seconds * requests
        size = self.by_size.setdefault(rows, [0, 0.0])
        size[0] += 1
        size[1] += seconds
        self.last_run = now

    def record_preprocess(self, seconds: float) -> None:
        """Record a request that has been pre-processed."""
        self.preprocessed_requests += 1
        self.preprocess_seconds += seconds

    def document(self, name: str, version: str) -> dict[str, Any]:
        """Return V2's document, with nanoseconds and Unix milliseconds."""
        requests = self.success + self.fail
        return {
            "name": name,
            "version": version,
            "last_inference": int(self.last_run * 1000),
            "inference_count": self.rows,
            "execution_count": self.runs,
            "inference_stats": {
                "success": _duration(self.success, self.success_seconds),
                "fail": _duration(self.fail, self.fail_seconds),
                "queue": _duration(requests, self.queue_seconds),
                "compute_input": _duration(self.preprocessed_requests or requests, self.preprocess_seconds),
                "compute_infer": _duration(requests, self.compute_seconds),
                "compute_output": _duration(requests, 0),
            },
            "batch_stats": list(self._batches()),
        }

    def _batches(self) -> Iterator[dict[str, Any]]:
        for rows, (count, seconds) in sorted(self.by_size.items()):
            yield {"batch_size": rows, "compute_infer": _duration(int(count), seconds)}


def _duration(count: int, seconds: float) -> dict[str, int]:
    return {"count": count, "ns": int(seconds * 1e9)}
