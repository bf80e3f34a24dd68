"""Ids that no two users share, and who has a session where several connections were announced."""

import random
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podpair.gateway.core.records import Kind, event_of_record, takeover_headers, takeover_of
from podpair.gateway.core.session_ids import LONGEST, claimed_session_id
from podpair.gateway.core.takeovers import Hold, Lineage, new_lineage
from podpair.gateway.core.wires import EventStreamWire, JsonWire, RawWire

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300)
names = st.text("ABCyz019._:@-", min_size=1, max_size=128)


@given(texts, names, texts, names)
def test_two_users_never_share_a_session(ann: str, one: str, bob: str, other: str) -> None:
    mine, theirs = claimed_session_id(ann, one), claimed_session_id(bob, other)
    assert (mine == theirs) == ((ann, one) == (bob, other))
    for found in (mine, theirs):
        assert found.isascii()
        assert len(found) <= LONGEST
        assert found.count("/") == 1  # which no minted id has


@pytest.mark.parametrize(
    ("subject", "session", "found"),
    [
        ("ann", "tab-1", "ann/tab-1"),
        ("ann@example.com", "a:b.c_d", "ann@example.com/a:b.c_d"),
        ("auth0|5f7", "t", "auth0%7C5f7/t"),
        ("a/b", "c", "a%2Fb/c"),
        ("~", "c", "%7E/c"),
        ("a%2Fb", "c", "a%252Fb/c"),
        ("café", "c", "caf%C3%A9/c"),
        ("it's (me)!*", "c", "it%27s%20%28me%29%21%2A/c"),
        ("x" * 256, "c", "~ebd32a5c8ebb06e85ef6e23eb3b4aeaf22b6bdb1cd4ca88fba4a7d1fca0bfaf4/c"),
    ],
)
def test_what_an_id_is(subject: str, session: str, found: str) -> None:
    import hashlib

    if found.startswith("~"):
        found = f"~{hashlib.sha256(subject.encode()).hexdigest()}/{session}"
    assert claimed_session_id(subject, session) == found


def test_the_docs_example_in_javascript(require: object) -> None:
    """What docs/protocol.md tells producers to write makes the same ids."""
    import re
    from pathlib import Path

    from harness.processes import ROOT

    page = (Path(ROOT) / "docs" / "protocol.md").read_text()
    node = require("node")  # type: ignore[operator]
    found = re.search(r"```js\n(.*?)```", page, re.S)
    assert found is not None
    subjects = ["ann@example.com", "auth0|5f7", "a/b", "~", "café", "it's (me)!*", "x" * 300, "\U0001f600"]
    calls = "".join(f"console.log(await sessionId({subject!r}, 'tab-1'));" for subject in subjects)
    done = subprocess.run(
        [node, "--input-type=module", "-e", found[1] + calls], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [claimed_session_id(subject, "tab-1") for subject in subjects]


def test_the_docs_example_in_python() -> None:
    import re
    from pathlib import Path
    from typing import Any

    from harness.processes import ROOT

    page = (Path(ROOT) / "docs" / "protocol.md").read_text()
    found = re.search(r"```python\n(.*?)```", page, re.S)
    assert found is not None
    scope: dict[str, Any] = {}
    exec(found[1], scope)
    for subject in ("ann@example.com", "auth0|5f7", "a/b", "~", "café", "it's (me)!*", "x" * 300):
        assert scope["session_id"](subject, "tab-1") == claimed_session_id(subject, "tab-1")


@given(st.integers(1, 6), st.integers(0, 2**32))
def test_the_last_that_is_announced_has_the_session_however_the_log_is_read(count: int, seed: int) -> None:
    """Each gateway reads the log from a place of its own, before its own announcement or after an acknowledgement."""
    rng = random.Random(seed)
    first = Hold(Lineage(), announced=False)
    lineages, holds = [Lineage()], []
    for _ in range(count):
        lineages.append(rng.choice([new_lineage(), lineages[-1].next()]))
        holds.append(Hold(lineages[-1], announced=True))
    log = [(hold.id, 10 * n + rng.randrange(10)) for n, hold in enumerate(holds)]
    for hold in (first, *holds):
        reads = list(log)
        if hold.id:
            own = next(n for n, (name, _) in enumerate(log) if name == hold.id)
            reads = log[rng.randrange(own + 1) :]
        if rng.random() < 0.5:  # catching up, it reads a part again
            reads += reads[rng.randrange(len(reads)) :]
        if hold.id and rng.random() < 0.5:  # the acknowledgement may come before all else
            reads.insert(0, next(one for one in log if one[0] == hold.id))
        lost = [hold.saw(*one) for one in reads]
        assert lost[-1] == (hold is not holds[-1])


def test_an_announcement_that_was_written_late_ends_nobody() -> None:
    """The client was at b, then at c with b's resume token; b's record comes behind c's."""
    b = Hold(Lineage().next(), announced=True)
    c = Hold(b.lineage.next(), announced=True)
    assert not c.saw(c.id, 5)
    assert not c.saw(b.id, 9)
    assert not b.saw(c.id, 5)
    assert not b.saw(b.id, 9)  # it has no client any more
    d = Hold(new_lineage(), announced=True)
    assert c.saw(d.id, 10)


def test_a_log_that_began_anew_has_no_place_behind_which_others_are_missed() -> None:
    mine, other = Hold(new_lineage(), announced=True), Hold(new_lineage(), announced=True)
    mine.saw(mine.id, 1000)
    assert not mine.saw(other.id, 3)
    mine.log_restarted(0)
    assert mine.saw(other.id, 3)


@pytest.mark.parametrize("text", [None, 5, "", "x", ".3", "a.b", "a.-1", "a.²", "0.", "a." + "9" * 5000])
def test_a_lineage_that_is_none(text: object) -> None:
    assert Lineage.parse(text) == Lineage()


def test_no_connection_is_shown_an_announcement() -> None:
    headers = takeover_headers(connection="0.1.ab", session="s", source="gw", now=1.0)
    for wire in (JsonWire(b"e.0."), EventStreamWire(b"e.0."), RawWire()):
        event = wire.event(b"", headers, 7)
        assert (event.kind, event.id, event.offset) == (Kind.TAKEOVER, "0.1.ab", 7)
    assert takeover_of(headers, 7) == event_of_record(b"", headers, 7, b"e.0.")
    assert takeover_of([("ce_type", b"dev.podpair.push")], 7) is None
    assert takeover_of(None, 7) is None
