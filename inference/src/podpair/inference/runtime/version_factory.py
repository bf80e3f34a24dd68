"""Makes served versions of loaded ones: each with its queue, its streams, and the stage before the queue."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from podpair.inference.core.generate import can_join
from podpair.inference.core.v2 import RequestDecoder
from podpair.inference.metrics import Metrics, ModelMetrics
from podpair.inference.runtime.cpu import available_cores, preprocess_threads
from podpair.inference.runtime.joined_streams import JoinedStreams
from podpair.inference.runtime.loader import LoadedVersion
from podpair.inference.runtime.preprocess_stage import PreprocessStage
from podpair.inference.runtime.protocol import Streaming
from podpair.inference.runtime.repository import ModelFolder
from podpair.inference.runtime.scheduler import Scheduler
from podpair.inference.runtime.served_model import ServedVersion
from podpair.inference.runtime.streams import Streams


class VersionFactory:
    """Makes the versions of all models, on the loop.

    prepare_threads: pre-processing threads of all models together; started when the first model needs them.
    """

    def __init__(self, metrics: Metrics, prepare_threads: int | None) -> None:
        self._metrics = metrics
        self._prepare_threads = prepare_threads
        self._threads: ThreadPoolExecutor | None = None

    def make(
        self,
        folder: ModelFolder,
        version: str,
        found: LoadedVersion,
        metrics: ModelMetrics,
        preprocessing: Callable[[], int],
    ) -> ServedVersion:
        """Return a version that nobody uses yet. preprocessing: the rows of its model that are pre-processed now."""
        name, runtime, signature, config = folder.name, found.runtime, found.signature, folder.config
        streams = None
        if isinstance(runtime, Streaming) and runtime.streams:
            streams = Streams(name, runtime, signature, config.runtime.max_streams, config.batching.queue_size)
        queue: Scheduler | JoinedStreams
        if streams is not None and not runtime.predicts and can_join(signature.outputs):
            queue = JoinedStreams(name, streams, signature, metrics)
        else:
            queue = Scheduler(name, runtime, signature, config, metrics, found.times)
        preprocess = self._preprocess_stage(queue, folder, found, preprocessing) if found.decoders else None
        served = ServedVersion(
            name,
            version,
            runtime,
            signature,
            RequestDecoder(signature),
            preprocess or queue,
            metrics,
            streams,
            preprocess,
        )
        served.unused.set()
        return served

    def close(self) -> None:
        """End the threads."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    def _preprocess_stage(
        self, queue: Scheduler | JoinedStreams, folder: ModelFolder, found: LoadedVersion, rows: Callable[[], int]
    ) -> PreprocessStage:
        if self._threads is None:
            count = self._prepare_threads or preprocess_threads(available_cores())
            self._threads = ThreadPoolExecutor(count, thread_name_prefix="prepare")
        metrics = self._metrics.stage(folder.name, "preprocess")
        metrics.queue_depth.set_function(rows)
        size = folder.config.batching.queue_size
        return PreprocessStage(queue, found.signature, found.decoders, size, self._threads, metrics)
