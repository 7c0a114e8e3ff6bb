"""Which contribution to do again, from what each does to the loss."""

import math

import pytest

from shoal.training.comparing import (
    COMPARED_MAX,
    COMPARISON,
    SAVED_MAX,
    Allowance,
    Gain,
    drawn_among,
    is_comparing,
    most_doubtful,
    to_compare,
)

HONEST = [Gain(0.20, 0.15), Gain(0.18, 0.15), Gain(0.22, 0.18), Gain(0.19, 0.15)]


@pytest.mark.parametrize(
    "doubtful",
    [
        pytest.param(Gain(-0.3, -0.3), id="uphill"),
        pytest.param(Gain(-1.5, -1.6), id="uphill-less-on-its-own"),
        pytest.param(Gain(0.0, 0.0), id="nothing"),
        pytest.param(Gain(0.09, 0.01), id="less-than-half-as-much"),
        pytest.param(Gain(0.19, 0.19), id="all-data-alike"),
        pytest.param(Gain(0.6, 0.7), id="much-but-not-for-its-own"),
        pytest.param(Gain(math.nan, 0.1), id="not-a-number"),
        pytest.param(Gain(-math.inf, -math.inf), id="lost"),
        pytest.param(Gain(math.inf, 0.0), id="infinite"),
    ],
)
def test_what_helps_its_own_data_least_is_found_wherever_it_stands(doubtful: Gain) -> None:
    for place in range(5):
        gains = [*HONEST[:place], doubtful, *HONEST[place:]]
        assert most_doubtful(gains) == place


def test_many_that_are_no_numbers_hide_nothing() -> None:
    assert most_doubtful([*HONEST[:2], *[Gain(math.nan, math.nan)] * 6]) == 2


def test_where_several_lead_uphill_the_worst_comes_first() -> None:
    assert most_doubtful([*HONEST, Gain(-0.1, -0.1), Gain(-0.2, -0.1)]) == 5


def test_where_all_look_alike_none_is_doubtful() -> None:
    assert most_doubtful([]) is None
    assert most_doubtful([Gain(0.1, 0.0)]) is None
    assert most_doubtful([Gain(math.nan, math.nan)] * 2) is None
    assert most_doubtful(HONEST) is None


def test_where_nothing_helps_any_more_the_difference_does_not_hide_the_worst() -> None:
    assert most_doubtful([Gain(-0.01, -0.02), Gain(-0.02, -0.02), Gain(-0.3, -0.5)]) == 2


def test_a_judge_compares_in_its_part_of_rounds_and_each_for_itself() -> None:
    seeds = [number.to_bytes(4, "big") for number in range(4000)]
    drawn = [[is_comparing(seed, judge) for seed in seeds] for judge in ("b", "c")]
    assert drawn[0] != drawn[1]
    assert all(900 < sum(each) < 1100 for each in drawn)


def test_what_is_done_again_stays_within_the_time_that_may_be_spent_on_it() -> None:
    allowance, spent = Allowance(), 0.0
    for _ in range(1000):
        allowance.earn(1 / 32)
        if allowance.is_enough:
            allowance.spend(COMPARISON + 1)
            spent += COMPARISON + 1
    assert 1000 / 32 - 1 < spent < 1000 / 32 + SAVED_MAX
    for _ in range(1000):
        allowance.earn(1 / 32)
    assert allowance.saved == SAVED_MAX


def test_a_crowd_without_votes_is_not_compared_in_place_of_voters() -> None:
    voters, crowd = ([bytes([kind, place]) for place in range(count)] for kind, count in ((1, 5), (2, 200)))
    has_votes = dict.fromkeys(voters, True) | dict.fromkeys(crowd, False)
    assert sorted(to_compare(has_votes, b"seed", "b")) == voters
    assert to_compare(has_votes, b"seed", "b") != to_compare(has_votes, b"seed", "c")
    alone = dict.fromkeys(voters[:1], True) | dict.fromkeys(crowd, False)
    assert len(to_compare(alone, b"seed", "b")) == COMPARED_MAX


def test_a_crowd_without_votes_takes_half_of_what_is_drawn_and_a_few_their_part() -> None:
    assert drawn_among(5, 0) == drawn_among(0, 5) == (5, 5)
    assert drawn_among(5, 2) == (7, 7)
    assert drawn_among(5, 1000) == (10, 2000)
    for voters, others in ((1, 1), (3, 4), (4, 3), (8, 1000)):
        of_voters, of_others = drawn_among(voters, others)
        assert voters / of_voters + others / of_others == 1
