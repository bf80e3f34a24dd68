"""A commit that failed is sent again, though nothing follows it, and never an older one after a newer."""

from podpair.gateway.core.offsets import Commit
from podpair.gateway.core.unacked_commits import UnackedCommits


def at(offset: int) -> Commit:
    return Commit(offset, "")


def test_what_failed_is_sent_again_after_a_while() -> None:
    commits = UnackedCommits()
    assert commits.send({0: at(5), 1: at(7)}, 0.0) == {0: at(5), 1: at(7)}
    assert commits.send({}, 0.1) == {}
    commits.on_failure([1], 0.1)
    assert commits.send({}, 0.2) == {}
    assert commits.send({}, 0.4) == {1: at(7)}
    assert commits.send({}, 9.0) == {}
    commits.on_failure([1], 9.0)
    assert commits.send({}, 10.0) == {1: at(7)}


def test_the_newest_is_sent_and_never_one_before_it() -> None:
    commits = UnackedCommits()
    commits.send({0: at(5)}, 0.0)
    commits.send({0: at(9)}, 0.1)
    commits.on_failure([0], 0.2)  # the first of the two, told late
    assert commits.send({}, 1.0) == {0: at(9)}
    commits.on_failure([0], 1.0)
    assert commits.send({0: at(12)}, 1.1) == {0: at(12)}
    assert commits.send({}, 2.0) == {}


def test_a_partition_that_is_given_back_takes_its_failure_along() -> None:
    commits = UnackedCommits()
    commits.send({0: at(5), 1: at(7), 2: at(1)}, 0.0)
    commits.on_failure([0, 1], 0.0)
    assert commits.release([1, 2, 3]) == {1: at(7)}
    assert commits.send({}, 1.0) == {0: at(5)}
    commits.on_failure([1, 2], 1.0)  # told after they were given back
    assert commits.send({}, 2.0) == {}
