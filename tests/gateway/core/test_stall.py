"""A reader stands still where its log goes on and it does not."""

from podpair.gateway.core.stall import StallDetector


def test_it_is_noticed_at_the_third_look_that_finds_it_there() -> None:
    seen = StallDetector()
    assert seen.observe({0: 5, 1: 7}, {0: 9, 1: 7}) == {}
    assert seen.observe({0: 5, 1: 7}, {0: 9, 1: 8}) == {}
    assert seen.observe({0: 5, 1: 7}, {0: 12, 1: 8}) == {0: 5}
    assert seen.observe({0: 9, 1: 7}, {0: 12, 1: 8}) == {1: 7}


def test_one_that_gets_on_or_was_not_behind_before_is_well() -> None:
    seen = StallDetector()
    for at in (0, 0, 1, 1, 2, 2, 3, 3):
        assert seen.observe({0: at}, {0: 100}) == {}
    assert StallDetector().observe({0: 1}, {0: 3}) == {}  # it has not had the time


def test_one_that_was_held_up_meanwhile_is_given_its_time_again() -> None:
    seen = StallDetector()
    for held in (0, 1, 1, 2, 2, 3):
        assert seen.observe({0: 5}, {0: 9}, held) == {}
    assert seen.observe({0: 5}, {0: 9}, 3) == {}
    assert seen.observe({0: 5}, {0: 9}, 3) == {0: 5}


def test_one_whose_end_is_not_told_or_that_is_not_read_is_left_out() -> None:
    seen = StallDetector()
    seen.observe({0: 5}, {0: 9})
    seen.observe({0: 5}, {0: 9})
    assert seen.observe({0: 5}, {}) == {}
    assert seen.observe({0: 5}, {0: 9}) == {}  # as at a first look
    assert seen.observe({0: 5}, {0: 9}) == {}
    assert seen.observe({}, {0: 9}) == {}
    assert seen.observe({0: 5}, {0: 9}) == {}


def test_where_there_are_only_marks_it_is_looked_at_once_for_each_end() -> None:
    seen = StallDetector()
    for _ in range(2):
        seen.observe({0: 5}, {0: 6})
    assert seen.observe({0: 5}, {0: 6}) == {0: 5}
    seen.clear(0, 6)
    for end in (6, 6, 6, 8, 8):
        assert seen.observe({0: 5}, {0: end}) == {}
    assert seen.observe({0: 5}, {0: 8}) == {0: 5}
    seen.reset()
    assert seen.observe({0: 5}, {0: 6}) == {}
