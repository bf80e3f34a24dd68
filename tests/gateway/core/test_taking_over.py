"""Ids that no two users share, and who has a session where several connections were announced."""

import random
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podpair.gateway.core.record_headers import takeover_headers
from podpair.gateway.core.records import Kind, event_of_record, takeover_of, unplaced_event
from podpair.gateway.core.session_ids import LONGEST, claimed_session_id
from podpair.gateway.core.takeovers import Hold, Stamp, Stamps
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


@pytest.mark.process
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
def test_the_newest_has_the_session_however_the_announcements_are_read(count: int, seed: int) -> None:
    """Each comes to one of three gateways whose clocks differ, with any of the resume tokens that its client has, or none."""
    rng = random.Random(seed)
    now = 1e9
    clocks = [Stamps(lambda skew=skew: now + skew) for skew in (0.0, 0.4, -0.4)]
    stamps = [clocks[0].next(Stamp())]
    for _ in range(count):
        now += 1.0  # more than the clocks differ by
        stamps.append(rng.choice(clocks).next(rng.choice([Stamp(), *stamps])))
    holds = [Hold(stamp, shared=True) for stamp in stamps]
    for hold in holds:
        log = [str(stamp) for stamp in stamps] * 2
        rng.shuffle(log)  # of several partitions, of a log that was made again, written late, read again
        assert any(map(hold.loses_to, log)) == (hold is not holds[-1])


def test_a_resume_comes_after_what_it_resumes_whatever_the_clocks_say() -> None:
    ahead, behind = Stamps(lambda: 5e9), Stamps(lambda: 1e9)
    first = ahead.next(Stamp())
    second = behind.next(first)
    third = behind.next(Stamp())
    assert first < second < third
    assert Hold(first, shared=False).loses_to(str(second))
    assert not Hold(third, shared=True).loses_to(str(second))


def test_a_clock_that_stands_still_or_goes_back() -> None:
    times = iter([2.0, 2.0, 1.0])
    stamps = Stamps(lambda: next(times))
    first, second, third = (stamps.next(Stamp()) for _ in range(3))
    assert first < second < third


def test_two_gateways_in_the_same_microsecond() -> None:
    one, other = (Hold(Stamps(lambda: 1.0).next(Stamp()), shared=True) for _ in range(2))
    assert one.loses_to(str(other.stamp)) != other.loses_to(str(one.stamp))


@pytest.mark.parametrize("text", [None, 5, "", "x", ".3", "a.b", "-1.a", "².a", "9" * 5000 + ".a"])
def test_a_stamp_that_is_none(text: object) -> None:
    assert Stamp.parse(text) == Stamp()
    assert not Hold(Stamp(), shared=False).loses_to(text if isinstance(text, str) else None)


@given(st.integers(0, 2**62), st.text("0123456789abcdef", min_size=16, max_size=16))
def test_a_stamp_is_read_as_it_was_written(time: int, name: str) -> None:
    assert Stamp.parse(str(Stamp(time, name))) == Stamp(time, name)


def test_no_connection_is_shown_an_announcement() -> None:
    headers = takeover_headers(connection="0.1.ab", session="s", source="gw", now=1.0)
    for wire in (JsonWire(b"e.0."), EventStreamWire(b"e.0."), RawWire()):
        event = wire.event(b"", headers, 7)
        assert (event.kind, event.id, event.offset) == (Kind.TAKEOVER, "0.1.ab", 7)
    assert takeover_of(headers, 7) == event_of_record(b"", headers, 7, b"e.0.")
    # In the partition that was the session's home before its topic was widened it says the same, to nobody.
    assert unplaced_event(b"", headers) == event_of_record(b"", headers, -1, b"")
    assert takeover_of([("ce_type", b"dev.podpair.push")], 7) is None
    assert takeover_of(None, 7) is None
