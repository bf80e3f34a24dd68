"""Log records are one line each, with the fields that they are about; lines of one kind are bounded."""

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from podpair.common.logs import Style, Throttle, ids, set_up

log = logging.getLogger("podpair.common.test")


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., str]]:
    """`logged(style, message, **extra)` is what standard error gets."""
    root = logging.getLogger()
    level = root.level
    monkeypatch.setattr(root, "handlers", [])

    def line(style: Style, message: str, *, exc_info: bool = False, **extra: object) -> str:
        set_up("info", style, hidden=["settings"])
        log.debug("not this")
        log.info(message, extra=extra, exc_info=exc_info)
        return capsys.readouterr().err

    yield line
    root.setLevel(level)


def test_json_is_an_object_a_line(logged: Callable[..., str]) -> None:
    line = json.loads(logged("json", "gone", session="s", at=3, settings=object()))
    assert line.pop("time")
    assert line == {"level": "INFO", "logger": log.name, "message": "gone", "session": "s", "at": 3}


def test_text_has_fields_after_the_message_and_a_traceback_after_them(logged: Callable[..., str]) -> None:
    assert logged("text", "gone", session="s", settings=1).endswith(f"INFO    {log.name}: gone session=s\n")
    try:
        raise ValueError("no")
    except ValueError:
        lines = logged("text", "gone", exc_info=True, session="s").splitlines()
    assert lines[0].endswith("gone session=s")
    assert lines[-1] == "ValueError: no"


@pytest.mark.parametrize("style", ["json", "text"])
def test_passwords_in_urls_are_masked(logged: Callable[..., str], style: Style) -> None:
    line = logged(style, "no answer from http://u:hunter2@model", url="http://m?token=hunter2")
    assert "hunter2" not in line
    assert line.count("**********") == 2


def test_ids_are_those_that_are_known() -> None:
    assert ids(session="s", request=None, partition=0) == {"session": "s", "partition": 0}


def test_so_many_lines_in_a_while(caplog: Any) -> None:
    now = 0.0
    throttle = Throttle(burst=3, seconds=10, clock=lambda: now)

    def say(count: int) -> int:
        caplog.clear()
        with caplog.at_level(logging.INFO):
            for number in range(count):
                throttle.log(log, logging.INFO, "line %d", number, extra={"session": "s"})
        return len(caplog.records)

    assert say(100) == 3
    assert {record.session for record in caplog.records} == {"s"}
    now = 9.0
    assert say(100) == 0
    now = 10.0
    assert say(1) == 1
    assert caplog.records[0].left_out == 197
    assert say(1) == 1
    assert not hasattr(caplog.records[0], "left_out")
