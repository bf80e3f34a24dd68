"""One server, asked one request at a time over all three ways by tritonclient, and its answers beside plain ONNX Runtime's."""

import pickle
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from harness import environments, v2
from inference.outside.plain import BFLOAT16, Plain, difference, sent

HERE = Path(__file__).parent


class Triton:
    """tritonclient as a process, in the environment that it needs."""

    def __init__(self, process: "subprocess.Popen[bytes]", server: Any) -> None:
        self._process = process
        self._server = server

    def ask(
        self, way: str, model: str, inputs: Mapping[str, Any], outputs: list[str], *, bf16: bool = False
    ) -> dict[str, Any]:
        """The answers by name. bf16: a tensor is BF16, for which tritonclient has no JSON. Raises RefusedError."""
        if way == "json" and bf16:
            wide = {name: array.astype("<f4") if array.dtype == BFLOAT16 else array for name, array in inputs.items()}
            narrow = [name for name, array in inputs.items() if array.dtype == BFLOAT16]
            return v2.infer(self._server, model, wide, way, outputs=outputs, bf16=narrow)
        assert self._process.stdin
        assert self._process.stdout
        pickle.dump((way, model, dict(inputs), outputs), self._process.stdin)
        self._process.stdin.flush()
        answers, why_not = pickle.load(self._process.stdout)
        if answers is None:
            raise v2.RefusedError("refused", why_not)
        return answers


@contextmanager
def triton(server: Any) -> Iterator[Triton]:
    """tritonclient for as long as the `with` lasts."""
    python = environments.python(HERE.parent / "clients.lock")
    addresses = [server.url.removeprefix("http://"), server.record("gRPC is ready")["address"]]
    process = subprocess.Popen(
        [str(python), str(HERE / "triton_asking.py"), *addresses], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        yield Triton(process, server)
    finally:
        process.kill()
        process.communicate()


def refused(server: Any) -> dict[str, str]:
    """The models that the server can't load, and why, as it tells everybody in the repository's index."""
    index = server.post("/v2/repository/index", {}).json
    return {entry["name"]: entry["reason"] for entry in index if entry["state"] != "READY"}


def compare(client: Triton, name: str, plain: Plain, inputs: Mapping[str, Any], *, lots: bool = False) -> list[str]:
    """In what the answers of a model differ from plain ONNX Runtime's, over each way. lots: its answers are drawn by lot, and
    have only to look alike."""
    try:
        expected = plain.answer(inputs)
    except Exception as error:  # ONNX Runtime's exceptions have no base of their own
        expected = None
        reason = str(error)
    outputs = [node.name for node in plain.outputs] if expected is None else list(expected)
    bf16 = any("bfloat16" in node.type for node in (*plain.inputs, *plain.outputs))
    wrong = []
    for way in v2.WAYS:
        try:
            found = client.ask(way, name, {key: sent(array) for key, array in inputs.items()}, outputs, bf16=bf16)
        except v2.RefusedError as error:
            if expected is not None:
                wrong.append(f"{name}, {way}: {error}")
            continue
        if expected is None:
            wrong.append(f"{name}, {way}: answered what ONNX Runtime refuses: {reason}")
            continue
        if lots:
            found = {key: np.zeros_like(array) for key, array in found.items()}
        want = {key: np.zeros_like(array) for key, array in expected.items()} if lots else expected
        what = difference(_as_sent(found, want, way), want)
        if what is not None:
            wrong.append(f"{name}, {way}: {what}")
    return wrong


def _as_sent(found: Mapping[str, Any], want: Mapping[str, Any], way: str) -> dict[str, Any]:
    """BF16 in JSON comes as numbers, which it holds exactly."""
    return {
        key: array.astype(BFLOAT16)
        if way == "json" and want.get(key) is not None and want[key].dtype == BFLOAT16
        else array
        for key, array in found.items()
    }
