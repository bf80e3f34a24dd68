"""Measures a model on this machine in each layout and batch size, in rounds, so that a noisy minute affects all alike.

Only the model is measured, as the container's threads would run it; no protocol is involved.
"""

import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from podpair.common.faults import FaultsError
from podpair.inference.core.errors import InvalidRequestError
from podpair.inference.core.signature import Signature
from podpair.inference.core.tensors import Array
from podpair.inference.core.tuning import Cell, Layout, hopeless, layouts, sizes
from podpair.inference.core.v2 import RequestDecoder
from podpair.inference.runtime.cpu import available_cores, bind_thread, preprocess_threads
from podpair.inference.runtime.loader import LoadRuntime, decoders_of, load_runtime
from podpair.inference.runtime.protocol import Runtime
from podpair.inference.runtime.repository import is_onnx, is_workflow, read_class, read_model
from podpair.inference.runtime.row_analysis import establish_rows
from podpair.inference.runtime.warmup import NoSampleError, run_clock, sample


class Tuning:
    """One version of a model in several layouts.

    what: the model's folder or `module:Class`. request: a file with a V2 request in JSON, whose rows are run again and again;
    default: zeros. threads: those that may compute at most. Raises FaultsError.
    """

    def __init__(
        self,
        what: str,
        version: int | None,
        request: Path | None,
        threads: int | None,
        largest: int,
        load: LoadRuntime = load_runtime,
    ) -> None:
        self._load = load
        path = Path(what)
        folder = read_model(path.resolve()) if path.is_dir() else read_class(what)
        self.version = max(folder.versions) if version is None else version
        if self.version not in folder.versions:
            there = ", ".join(map(str, folder.versions))
            raise FaultsError([f"{folder.path}: there is no version {version}; there are {there}"])
        if is_workflow(folder.versions[self.version]):
            raise FaultsError(
                [f"{folder.path}: a workflow computes nothing itself; tune the models that its stages name"]
            )
        self.name = folder.name
        self.threads = threads or preprocess_threads(available_cores())
        # Whether a run can have several threads.
        self.intra_op = is_onnx(folder.versions[self.version])
        self._folder = folder
        # By threads inside a run: runs side by side share a session.
        self._runtimes: dict[int, Runtime] = {}
        runtime = self._runtime(1)
        if not runtime.predicts:
            raise FaultsError([f"{folder.path}: the model only streams: there are no batches to measure"])
        signature = Signature(folder.config, runtime.inputs, runtime.outputs, str(folder.path / "model.yaml"))
        establish_rows(runtime, signature, folder.config, run_clock(runtime), model=folder.name, version=self.version)
        self._signature = signature
        self._sizes = sizes(largest if signature.batchable else 1)
        self._rows = self._asked(request) if request is not None else self._zeros()

    def measure(self, rounds: int, seconds: float) -> Iterator[Cell]:
        """Measure every promising cell `rounds` times, for so long each. Raises FaultsError if the model fails."""
        found: dict[tuple[Layout, int], list[tuple[float, float]]] = {}
        for layout in layouts(self.threads, intra_op=self.intra_op):
            rates: list[float] = []
            for rows in self._sizes:
                measured = self._run(layout, rows, seconds)
                found[layout, rows] = [measured]
                rates.append(measured[0])
                if hopeless(rates):
                    break
        for _ in range(1, rounds):
            for (layout, rows), measurements in found.items():
                measurements.append(self._run(layout, rows, seconds))
        for (layout, rows), measurements in found.items():
            rate, taken = zip(*measurements, strict=True)
            yield Cell(layout, rows, rate, taken)

    def close(self) -> None:
        """Let go of what was loaded."""
        for runtime in self._runtimes.values():
            runtime.close()

    def _runtime(self, intra_op: int) -> Runtime:
        if intra_op not in self._runtimes:
            folder = self._folder
            # Parallel runs share an ONNX session; a class gets the number of instances.
            given = {"instances": 1 if self.intra_op else self.threads, "intra_op_threads": intra_op}
            runtime = folder.config.runtime.model_copy(update=given)
            config = folder.config.model_copy(update={"runtime": runtime})
            self._runtimes[intra_op] = self._load(replace(folder, config=config), self.version)
        return self._runtimes[intra_op]

    def _run(self, layout: Layout, rows: int, seconds: float) -> tuple[float, float]:
        """Return the rows per second of all instances together, and the median milliseconds of a run."""
        runtime = self._runtime(layout.intra_op_threads)
        arrays = self._rows
        if self._signature.batchable:
            arrays = [np.resize(a, (rows, *a.shape[1:])) if len(a) != rows else a for a in arrays]
        ready, end = threading.Barrier(layout.instances + 1), [0.0]
        taken: list[float] = []
        failures: list[Exception] = []

        def work() -> None:
            bind_thread(self._folder.config.runtime.cpus)
            try:
                self._signature.postprocess(runtime.run(arrays))
            except Exception as error:
                failures.append(error)
            ready.wait()
            ready.wait()
            # At least once, however short the time.
            while not failures:
                begun = time.perf_counter()
                try:
                    self._signature.postprocess(runtime.run(arrays))
                except Exception as error:
                    failures.append(error)
                done = time.perf_counter()
                taken.append(done - begun)
                if done >= end[0]:
                    break

        threads = [threading.Thread(target=work) for _ in range(layout.instances)]
        for thread in threads:
            thread.start()
        ready.wait()
        started = time.perf_counter()
        end[0] = started + seconds
        ready.wait()
        for thread in threads:
            thread.join()
        passed = time.perf_counter() - started
        if failures:
            raise FaultsError([f"{self.name}/{self.version} fails with {rows} rows: {failures[0]}"])
        return rows * len(taken) / passed, 1000 * statistics.median(taken)

    def _zeros(self) -> list[Array]:
        try:
            return sample(self._runtime(1), self._signature, self._folder.config)[0]
        except NoSampleError as error:
            raise FaultsError(
                [f"{self.name}/{self.version} can't be run with zeros: {error}; give it rows of yours with --request"]
            ) from None

    def _asked(self, file: Path) -> list[Array]:
        """Return the model's own inputs of the request in a file."""
        try:
            arrays: Sequence[Array] = RequestDecoder(self._signature)(file.read_bytes(), None).arrays
        except OSError as error:
            raise FaultsError([f"{file}: can't be read: {error.strerror}"]) from None
        except InvalidRequestError as error:
            raise FaultsError([f"{file}: {error}"]) from None
        decoders = decoders_of(self._signature, str(self._folder.path / "model.yaml")) or [None] * len(arrays)
        found = []
        for array, decoder in zip(arrays, decoders, strict=True):
            if decoder is None:
                found.append(array)
                continue
            images = array.ravel().tolist()
            room = decoder.allocate(len(images))
            try:
                for data, out in zip(images, room, strict=True):
                    decoder.decode(data, out)
            except InvalidRequestError as error:
                raise FaultsError([f"{file}: {error}"]) from None
            found.append(room.reshape(decoder.spec.model_shape(len(images))))
        return found
