"""onnx's backend suite, served: what ONNX Runtime loads is answered as by plain ONNX Runtime, over REST, in JSON and over gRPC.

One case of each sequence of operators; `make test-models`: every case.
"""

import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from inference.outside.asking import compare, refused, triton
from inference.outside.backend_suite import ALL, LIGHT, Case, cases
from inference.outside.plain import BFLOAT16, Plain
from inference.outside.refused import REFUSED
from inference.outside.tally import Tally

_log = logging.getLogger(__name__)
# Models that one server has, and seconds that it may take to load them.
_AT_ONCE, _PATIENCE = 400, 600
_FLOATS = {np.dtype("f2"): "FP16", np.dtype("f4"): "FP32", np.dtype("f8"): "FP64", BFLOAT16: "BF16"}


def _write(repository: Path, case: Case) -> Path:
    """The case as a model; one that has NaN or infinity among its own inputs says that it takes them."""
    folder = repository / case.name / "1"
    folder.mkdir(parents=True)
    file = folder / "model.onnx"
    file.write_bytes(case.model.SerializeToString())
    odd = [
        {"name": name, "datatype": _FLOATS[array.dtype], "shape": [-1] * array.ndim, "allow_nan": True}
        for name, array in case.inputs.items()
        if array is not None and array.dtype in _FLOATS and not np.isfinite(array).all()
    ]
    if odd:
        (folder.parent / "model.yaml").write_text(yaml.safe_dump({"inputs": odd}))
    return file


def _loaded(file: Path) -> Plain | None:
    try:
        return Plain(file)
    except Exception:  # ONNX Runtime's exceptions have no base of their own
        return None


def _chunks() -> list[list[Case]]:
    """The cases, so many a server; the large ones by themselves."""
    small = [case for case in cases() if case.kind != LIGHT]
    large = [case for case in cases() if case.kind == LIGHT]
    return [small[i : i + _AT_ONCE] for i in range(0, len(small), _AT_ONCE)] + [large] * bool(large)


# The environment of tritonclient is made where there is none yet.
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore")
def test_what_onnx_runtime_loads_is_answered_as_by_itself(
    tmp_path: Path, serve: Callable[..., Any], tally: Tally
) -> None:
    wrong: list[str] = []
    not_served: dict[str, str] = {}
    loadable: set[str] = set()
    for number, chunk in enumerate(_chunks()):
        repository = tmp_path / str(number)
        files = {case.name: _write(repository, case) for case in chunk}
        with serve(repository, within=_PATIENCE) as server, triton(server) as client:
            away = refused(server)
            for case in chunk:
                plain = _loaded(files[case.name])
                tally.saw(case.kind, loads=plain is not None, served=plain is not None and case.name not in away)
                if plain is None:
                    # Refused by ONNX Runtime: the server may not pretend to have it.
                    wrong += [] if away.get(case.name) else [f"{case.name}: served, though ONNX Runtime can't load it"]
                    continue
                loadable.add(case.name)
                if case.name in away:
                    not_served[case.name] = away[case.name]
                    continue
                wrong += compare(client, case.name, plain, case.inputs, lots=case.draws_lots)
    for name, reason in not_served.items():
        _log.info("refused: %s: %s", name, reason)
    assert wrong == [], "\n".join(wrong)
    expected = {name: why for why, names in REFUSED.items() for name in names}
    assert set(not_served) == {name for name in expected if name in loadable}
    tally.refused(Counter(expected[name] for name in not_served))
    if ALL:
        assert set(expected) <= loadable, "what is named as refused is loaded by ONNX Runtime"
