"""How much of a machine a test needs: `pure` (this process alone), `process` (others that it starts), `kafka`, `cluster`.

A test's level follows from the fixtures that it uses, and from what its module or itself is marked with; the higher one
counts. So `pytest -m pure` runs in seconds, anywhere. That nobody calls a test pure which starts a process is looked after
here: such a test fails.
"""

import sys
from collections.abc import Generator, Iterator
from typing import Any

import pytest

LEVELS = {
    "pure": "needs this process alone",
    "process": "starts other processes: gateways, models, browsers",
    "kafka": "needs a real Kafka broker",
    "cluster": "needs a Kubernetes API server, or a node",
}
_OF_FIXTURES = {
    "process": {"browser", "helm", "inference", "page", "pair", "real_gateway", "serve", "served", "start", "start_gateway",
                "start_before_fake", "start_inference", "_fake_gateway", "_limited", "demo", "made", "provider"},
    "kafka": {"broker", "fleet", "own_broker", "secure_broker"},
    "cluster": {"bare_cluster", "cluster", "helm_at", "make_space", "operator", "release", "space", "stage"},
}  # fmt: skip
_STARTS = frozenset({"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", "os.exec"})


class _Watch:
    """Hears of processes that start while a pure test runs."""

    def __init__(self) -> None:
        self.pure = False  # a pure test runs now
        self.started = False
        sys.addaudithook(self._hear)

    def _hear(self, event: str, _: tuple[Any, ...]) -> None:
        if self.pure and event in _STARTS:
            self.started = True  # reported when the test has ended: an error here could come at any place


_watch = _Watch()


def _arguments(item: pytest.Item) -> Iterator[str]:
    """Yield the names that the test's parametrization gives values to, whatever fixtures there are of these names."""
    for mark in item.iter_markers("parametrize"):
        names = mark.args[0] if mark.args else mark.kwargs["argnames"]
        names = [name.strip() for name in names.split(",")] if isinstance(names, str) else names
        indirect = mark.kwargs.get("indirect", False)
        if indirect is not True:
            yield from (name for name in names if name not in (indirect or ()))


def level(item: pytest.Item) -> str:
    """Return the highest level that the test's fixtures and marks ask for."""
    fixtures = {*getattr(item, "fixturenames", ())} - {*_arguments(item)}
    marked = {mark.name for mark in item.iter_markers()}
    for name in reversed(LEVELS):
        if name in marked or fixtures & _OF_FIXTURES.get(name, set()):
            return name
    return "pure"


def pytest_configure(config: pytest.Config) -> None:
    for name, text in LEVELS.items():
        config.addinivalue_line("markers", f"{name}: {text}")


@pytest.hookimpl(tryfirst=True)  # before `-m` is looked at
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(level(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    _watch.pure, _watch.started = item.get_closest_marker("pure") is not None, False
    try:
        return (yield)
    finally:
        _watch.pure = False


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    result = yield
    if _watch.started:
        pytest.fail(f"{item.nodeid} starts a process: mark it with pytest.mark.process")
    return result
