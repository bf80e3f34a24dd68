"""The text of a model's bytes, up to a stop sequence."""

import importlib.util

import pytest

from harness.processes import ROOT

_SPEC = importlib.util.spec_from_file_location("stop_text", ROOT / "examples/llm/models/llm/1/stop_text.py")
assert _SPEC is not None
assert _SPEC.loader is not None
_MODULE = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_MODULE)


@pytest.mark.parametrize(
    ("stop", "pieces", "given", "stopped"),
    [
        ([], [b"a", b"b"], ["a", "b"], False),
        ([], [b"\xc3", b"\xa9"], ["", "é"], False),
        ([], [b"a\xc3"], ["a\ufffd"], False),
        (["END"], [b"a E", b"N", b"D b"], ["a ", "", ""], True),
        (["END"], [b"a E", b"Nd", b"."], ["a ", "ENd", "."], False),
        (["END"], [b"a", b"EN"], ["a", "EN"], False),
        (["bc", "ab"], [b"xabc"], ["x"], True),
        (["aab"], [b"aa", b"ab"], ["", "a"], True),
        ([""], [b"a"], ["a"], False),
    ],
)
def test_what_is_certain_is_given_out(stop: list[str], pieces: list[bytes], given: list[str], stopped: bool) -> None:
    text = _MODULE.StopText(stop)
    assert [text.add(piece, last=index == len(pieces) - 1) for index, piece in enumerate(pieces)] == given
    assert text.stopped is stopped
