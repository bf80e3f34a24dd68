"""The count of all that was served, which stands at the end of a run."""

import pytest

from inference.outside.backend_suite import ALL
from inference.outside.tally import Tally

_TALLY = pytest.StashKey[Tally]()


@pytest.fixture(scope="session")
def tally(request: pytest.FixtureRequest) -> Tally:
    """One for the whole run."""
    return request.config.stash.setdefault(_TALLY, Tally())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print it, where everything was tried."""
    tally = config.stash.get(_TALLY, None)
    if ALL and tally is not None:
        terminalreporter.section("models of others (docs/models.md)")
        for line in tally.lines():
            terminalreporter.write_line(line)
