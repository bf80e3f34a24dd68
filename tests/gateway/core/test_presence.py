"""What the presence topic says, folded: who is there, and what changes."""

import random

import msgspec
import pytest

from podpair.gateway.core.presence import (
    Entry,
    PresenceChange,
    PresenceTable,
    Record,
    encode_entry,
    gateway_key,
    session_key,
)

_LEASE = 10.0


def entry(gateway: str, session: str, subject: str = "alice", since: float = 1.0) -> Record:
    return Record(session_key(gateway, session), encode_entry(Entry(subject, session, gateway, since)), 0.0)


def beat(gateway: str, age: float = 0.0) -> Record:
    return Record(gateway_key(gateway), b"{}", age)


def test_a_session_that_moves_is_there_all_the_time() -> None:
    """It joins once, and leaves with the last gateway that has it."""
    table = PresenceTable(_LEASE)
    for gateway in "ab":
        assert table.apply(beat(gateway), 0) == []
    assert table.apply(entry("a", "s"), 0) == [PresenceChange("join", "alice", "s")]
    assert table.apply(entry("b", "s", since=2.0), 0) == []
    assert table.apply(Record(session_key("a", "s"), None, 0), 0) == []
    assert [one.gateway for one in table.sessions("alice")] == ["b"]
    assert table.apply(Record(session_key("b", "s"), None, 0), 0) == [PresenceChange("leave", "alice", "s")]
    assert table.sessions("alice") == []


def test_a_gateway_that_is_silent_has_no_sessions_until_it_is_heard_of() -> None:
    table = PresenceTable(_LEASE)
    table.apply(beat("a"), 0)
    table.apply(beat("b"), 0)
    table.apply(entry("a", "s"), 0)
    table.apply(entry("b", "t"), 0)
    table.apply(beat("b"), 9)
    assert table.expire(10) == []
    assert table.expire(10.1) == [PresenceChange("leave", "alice", "s")]
    assert [one.session for one in table.sessions("alice")] == ["t"]
    assert table.forgotten(30) == []
    assert set(table.forgotten(30.1)) == {session_key("a", "s"), gateway_key("a")}
    assert table.apply(beat("a"), 31) == [PresenceChange("join", "alice", "s")]


def test_what_is_old_when_it_is_read_says_nothing_of_now() -> None:
    """A gateway that died long ago; and one whose sessions have no heartbeat any more are removed in the end."""
    table = PresenceTable(_LEASE)
    table.apply(entry("old", "s"), 100)
    assert table.apply(beat("old", age=11), 100) == []
    assert table.sessions("alice") == []
    table.apply(entry("unheard", "t"), 100)
    assert table.forgotten(100) == []
    assert session_key("unheard", "t") in table.forgotten(130.1)


def test_there_is_room_for_so_many() -> None:
    table = PresenceTable(_LEASE, most=2)
    table.apply(beat("a"), 0)
    for name in "xyz":
        table.apply(entry("a", name), 0)
    assert (len(table), table.dropped) == (2, 1)
    assert table.apply(entry("a", "x", since=5), 0) == []  # known: no room is needed
    assert not table.has_room_again
    table.apply(Record(session_key("a", "x"), None, 0), 0)
    assert table.has_room_again
    assert not PresenceTable(_LEASE, most=2).has_room_again


def test_from_one_table_to_the_next_only_the_difference_is_told() -> None:
    former, newer = PresenceTable(_LEASE), PresenceTable(_LEASE)
    for table, sessions in ((former, "xy"), (newer, "yz")):
        table.apply(beat("a"), 0)
        for name in sessions:
            table.apply(entry("a", name), 0)
    assert former.changes_to(newer) == [PresenceChange("leave", "alice", "x"), PresenceChange("join", "alice", "z")]
    assert newer.changes_to(newer) == []


@pytest.mark.parametrize("record", [Record(b"x", b"{}", 0), Record(None, b"{}", 0), Record(b"session:a/s", b"{", 0)])
def test_what_can_not_be_read(record: Record) -> None:
    with pytest.raises((ValueError, msgspec.DecodeError)):
        PresenceTable(_LEASE).apply(record, 0)


def test_changes_add_up_to_what_is_there() -> None:
    """Whatever comes in whatever order: `join` and `leave` alternate, and whoever has heard them all knows who is there."""
    for seed in range(200):
        chosen, table, now = random.Random(seed), PresenceTable(_LEASE), 0.0
        there: set[tuple[str, str]] = set()
        for _ in range(200):
            now += chosen.random() * 3
            gateway, session, subject = chosen.choice("abc"), chosen.choice("st"), chosen.choice(["alice", "bob"])
            record = chosen.choice(
                [
                    beat(gateway),
                    Record(gateway_key(gateway), None, 0),
                    entry(gateway, session, subject),
                    Record(session_key(gateway, session), None, 0),
                ]
            )
            for kind, who, what in [*table.apply(record, now), *table.expire(now)]:
                assert ((who, what) in there) == (kind == "leave"), seed
                there ^= {(who, what)}
            known = {(who, one.session) for who in ("alice", "bob") for one in table.sessions(who)}
            assert known == there, seed
