"""One cluster with everything in it for all end-to-end tests, and a namespace for each."""

import os
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from e2e.stage import Space, Stage, somebodys, throw_away

_numbers = count(1)
_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test here may have to wait until Kubernetes and the images are built. They come after all others."""
    items.sort(key=lambda item: item.path.is_relative_to(_HERE))
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.timeout(1800))


@pytest.fixture(scope="session")
def stage() -> Iterator[Stage]:
    """The cluster."""
    kubeconfig = os.environ.get("PODPAIR_E2E_KUBECONFIG")
    with somebodys(Path(kubeconfig)) if kubeconfig else throw_away() as ready:
        yield ready


@pytest.fixture
def make_space(stage: Stage) -> Iterator[Callable[[], Space]]:
    """`make_space()` is a namespace of the test's own."""
    made: list[Space] = []

    def make() -> Space:
        made.append(Space(stage, f"e2e-{next(_numbers)}"))
        return made[-1]

    yield make
    for space in made:
        space.delete()


@pytest.fixture
def space(make_space: Callable[[], Space]) -> Space:
    """A namespace of the test's own."""
    return make_space()
