"""onnx's own node cases with dynamic first dimensions: none shares runs whose rows, the case's own, don't answer alike.

One case of each sequence of operators; `make test-models`: every case.
"""

from pathlib import Path

import numpy as np
import pytest

from inference.outside.backend_suite import Case, cases, with_rows
from podpair.common.faults import FaultsError
from podpair.inference.core.model_config import ModelConfig
from podpair.inference.core.row_values import same
from podpair.inference.core.signature import Signature
from podpair.inference.core.tensors import Array
from podpair.inference.runtime.onnx import OnnxRuntime
from podpair.inference.runtime.row_analysis import establish_rows
from podpair.inference.runtime.warmup import run_clock

ROWS = 4


def rows_of(case: Case, draw: np.random.Generator) -> list[Array]:
    """Rows of the case's own inputs, other ones by a scale."""
    found = []
    for array in case.inputs.values():
        rows = array[draw.integers(0, array.shape[0], ROWS)]
        if array.dtype.kind == "f":
            scales = draw.uniform(0.3, 3, (ROWS, *(1 for _ in array.shape[1:])))
            rows = (rows * scales + 0.3 * draw.standard_normal(rows.shape)).astype(array.dtype)
        if array.dtype.kind in "UO":
            texts = [text.encode() if isinstance(text, str) else text for text in rows.ravel().tolist()]
            rows = np.array(texts, object).reshape(rows.shape)
        found.append(rows)
    return found


def answer_alike(runtime: OnnxRuntime, rows: list[Array]) -> bool:
    alone = [runtime.run([array[i : i + 1] for array in rows]) for i in range(ROWS)]
    together = runtime.run(rows)
    return all(
        answer.shape[:1] == (ROWS,) and same(answer[i : i + 1], alone[i][output])
        for output, answer in enumerate(together)
        for i in range(ROWS)
    )


@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")
def test_no_variant_shares_runs_that_mix_its_rows(tmp_path: Path) -> None:
    draw, wrong = np.random.default_rng(1), []
    counts = {"independent": 0, "dependent": 0, "none": 0}
    for case in cases():
        changed = with_rows(case.model)
        if case.kind != "node" or changed is None:
            continue
        file = tmp_path / "model.onnx"
        file.write_bytes(changed.SerializeToString())
        config = ModelConfig()
        try:
            runtime = OnnxRuntime(file, config.runtime)
            signature = Signature(config, runtime.inputs, runtime.outputs, "test")
        except FaultsError:
            continue
        establish_rows(runtime, signature, config, run_clock(runtime), model=case.name, version=1)
        counts[signature.decision.rows.value] += 1
        if not signature.batchable or len(runtime.inputs) != len(case.inputs):
            continue
        try:
            alike = answer_alike(runtime, rows_of(case, draw))
        except Exception:
            continue
        if not alike:
            wrong.append((case.name, signature.decision.reason))
    assert wrong == []
    # Most are row by row, and still share.
    assert counts["independent"] > counts["dependent"] > 10, counts
