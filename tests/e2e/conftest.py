"""One cluster with everything in it for all end-to-end tests, and a namespace for each."""

import os
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from e2e.installed import Installed
from e2e.space import Space
from e2e.stage import Stage, somebodys, throw_away

_numbers = count(1)
_HERE = Path(__file__).parent
_FAILED = pytest.StashKey[bool]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test here may have to wait until Kubernetes and the images are built. They come after all others."""
    items.sort(key=lambda item: item.path.is_relative_to(_HERE))
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.timeout(1800))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A test that failed is told with what the cluster has to say."""
    report = yield
    item.stash[_FAILED] = item.stash.get(_FAILED, False) or report.failed  # type: ignore[attr-defined]
    return report  # type: ignore[return-value]


@pytest.fixture(scope="session")
def stage() -> Iterator[Stage]:
    """The cluster."""
    kubeconfig = os.environ.get("PODPAIR_E2E_KUBECONFIG")
    with somebodys(Path(kubeconfig)) if kubeconfig else throw_away() as ready:
        yield ready


@pytest.fixture(scope="session")
def release(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The operator's release; `operator` sees to it that it is installed."""
    return Installed(stage, tmp_path_factory.mktemp("helm"))


@pytest.fixture
def operator(release: Installed) -> Installed:
    """The installed operator."""
    release.install()
    return release


@pytest.fixture
def make_space(stage: Stage, request: pytest.FixtureRequest) -> Iterator[Callable[[], Space]]:
    """`make_space()` is a namespace of the test's own; where the test fails, what was seen there is printed."""
    made: list[Space] = []

    def make() -> Space:
        made.append(Space(stage, f"e2e-{next(_numbers)}"))
        return made[-1]

    yield make
    if request.node.stash.get(_FAILED, False):
        for space in made:
            print(space.story())  # noqa: T201
        if "operator" in request.fixturenames:
            print(request.getfixturevalue("release").story())  # noqa: T201
    for space in made:
        space.delete()


@pytest.fixture
def space(make_space: Callable[[], Space]) -> Space:
    """A namespace of the test's own."""
    return make_space()
