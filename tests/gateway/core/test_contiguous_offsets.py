"""What is committed while a partition's requests run concurrently: always a prefix, never less than before."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podpair.gateway.core.offsets import (
    REACH,
    Commit,
    Committed,
    ContiguousOffsets,
    committed_of,
    decode_finished,
    encode_finished,
    incarnation_of,
    incarnation_tag,
    lost_before_of,
)


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """The offsets as they were read (Kafka leaves holes), and the order in which their requests end."""
    steps = draw(st.lists(st.integers(1, 5), min_size=1, max_size=30))
    first = draw(st.integers(0, 1000))
    offsets = [first + sum(steps[:n]) for n in range(len(steps))]
    return offsets, draw(st.permutations(offsets))


@given(histories(), st.data())
def test_a_commit_names_what_is_finished_and_nothing_else(
    history: tuple[list[int], list[int]], data: st.DataObject
) -> None:
    offsets, order = history
    tracked = ContiguousOffsets()
    started: list[int] = []
    finished: set[int] = set()
    committed = Commit(-1, "")
    waiting = list(offsets)
    for offset in order:
        while offset not in started or (waiting and data.draw(st.booleans())):
            started.append(waiting.pop(0))
            assert tracked.start(started[-1])
        tracked.finish(offset)
        finished.add(offset)
        if data.draw(st.booleans()):
            continue
        taken = tracked.next_commit()
        assert taken is not None
        assert tracked.next_commit() is None
        assert taken.offset >= committed.offset
        assert {o for o in started if o < taken.offset} | decode_finished(taken.metadata, taken.offset) == finished
        committed = taken


@given(histories(), st.data())
def test_another_owner_goes_on_where_this_one_was(history: tuple[list[int], list[int]], data: st.DataObject) -> None:
    """However often the partition changes hands, each record is worked on once, if each commit comes through."""
    offsets, order = history
    worked: list[int] = []
    commit: Commit | None = None
    while len(worked) < len(offsets):
        start = commit.offset if commit is not None else offsets[0]
        tracked = ContiguousOffsets(decode_finished(commit.metadata, start) if commit is not None else ())
        mine = [o for o in offsets if o >= start and tracked.start(o)]
        for offset in [o for o in order if o in mine][: data.draw(st.integers(1, 4))]:
            worked.append(offset)
            tracked.finish(offset)
        commit = tracked.next_commit() or commit
    assert sorted(worked) == offsets
    assert commit == Commit(offsets[-1] + 1, "")


def test_what_is_out_of_reach_is_not_named() -> None:
    tracked = ContiguousOffsets()
    for offset in range(REACH + 10):
        tracked.start(offset)
        if offset:
            tracked.finish(offset)
    taken = tracked.next_commit()
    assert taken is not None
    assert len(taken.metadata) < 4096
    assert decode_finished(taken.metadata, 0) == frozenset(range(1, REACH))
    assert tracked.reaches(REACH - 1)
    assert not tracked.reaches(REACH)


@pytest.mark.parametrize("metadata", [None, "", "someone else's", "podpair:!", "podpair:abc"])
def test_metadata_of_others_names_nothing(metadata: str | None) -> None:
    assert decode_finished(metadata, 5) == frozenset()


def test_a_commit_says_which_incarnation_of_the_topic_it_is_of() -> None:
    """Also where nothing is finished behind it; one of an earlier version of podpair says nothing, and is read as it was."""
    tag = incarnation_tag("Gs9cRk0pTUS8hFYOwFjwXQ")
    assert tag != incarnation_tag("another")
    tracked = ContiguousOffsets(incarnation=tag)
    for offset in (3, 4, 5):
        tracked.start(offset)
    for done, finished in ((4, {4}), (3, set()), (5, set())):
        tracked.finish(done)
        commit = tracked.next_commit()
        assert commit is not None
        assert incarnation_of(commit.metadata) == tag
        assert decode_finished(commit.metadata, commit.offset) == finished
    assert incarnation_of(encode_finished({4}, 3)) == ""
    assert decode_finished(encode_finished({4}, 3), 3) == {4}
    assert (incarnation_of(None), incarnation_of(""), incarnation_of("someone:else's")) == ("", "", "")
    assert incarnation_tag(None) == ""


@pytest.mark.parametrize("tag", ["", incarnation_tag("id")])
def test_a_commit_tells_where_the_log_was_cut_over_unread_records_and_so_do_all_behind_it(tag: str) -> None:
    tracked = ContiguousOffsets(incarnation=tag)
    tracked.start(3)
    tracked.on_log_truncated(10)
    commits = [tracked.next_commit()]
    for offset in (10, 11):
        tracked.start(offset)
    tracked.finish(11)
    tracked.finish(3)
    commits.append(tracked.next_commit())
    tracked = ContiguousOffsets({11}, tag, lost_before=10)  # the next owner
    tracked.start(10)
    commits.append(tracked.with_finished([10]))
    told = [
        (c.offset, decode_finished(c.metadata, c.offset), incarnation_of(c.metadata)) for c in commits if c is not None
    ]
    assert told == [(3, frozenset(), tag), (10, {11}, tag), (12, frozenset(), tag)]
    assert [committed_of(*c) for c in commits if c is not None] == [
        Committed(3, frozenset(), 10), Committed(10, frozenset({11}), 10), Committed(12, frozenset(), 10),
    ]  # fmt: skip


def test_a_partition_of_which_nothing_is_left_is_committed_up_to_where_its_log_begins() -> None:
    tracked = ContiguousOffsets()
    tracked.on_log_truncated(7)
    assert tracked.next_commit() == tracked.with_finished([]) == (7, "podpair::7:")
    assert tracked.next_commit() is None
    assert committed_of(-1001, None) == Committed(0, frozenset(), 0)


@pytest.mark.parametrize(
    "metadata", [None, "", "podpair:", "podpair:ab:AQ==", "podpair:ab:x:", "podpair:a:1:2:", "else"]
)
def test_commits_that_tell_of_no_cut(metadata: str | None) -> None:
    assert lost_before_of(metadata) == 0


def test_a_commit_with_its_incarnation_is_not_longer_than_kafka_keeps() -> None:
    assert len(encode_finished(range(1, REACH), 0, incarnation_tag("id"), 10**18)) < 4096


def test_offsets_that_go_back_are_a_mistake() -> None:
    tracked = ContiguousOffsets()
    tracked.start(5)
    with pytest.raises(ValueError, match="offset 5 after 5"):
        tracked.start(5)
