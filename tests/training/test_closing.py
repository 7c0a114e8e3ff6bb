"""When a round may close, as one member sees it."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from shoal.training.closing import Standings, missing, unspread
from shoal.transport.port import PeerId

A, B, C, D = (PeerId(name * 40) for name in "abcd")
ALL_IN = Standings(expected={A, B, C}, ready={A, B, C}, taken_count=3, awaited_min=2, least=2, overdue_at=25.0)


def test_it_closes_at_once_when_everybody_at_work_is_in() -> None:
    assert missing(0.0, ALL_IN) is None


def test_who_is_at_work_is_waited_for_until_its_time_is_up() -> None:
    late = replace(ALL_IN, expected={A, B, C, D})
    assert missing(24.9, late) == "1 of 4 are still at work"
    assert missing(25.0, late) is None


def test_as_many_as_a_round_awaits_are_waited_for_though_they_do_not_show() -> None:
    few = replace(ALL_IN, expected={A, B}, ready={A, B}, taken_count=2, awaited_min=3)
    assert missing(24.9, few) == "2 of 3 contributions are in"
    assert missing(25.0, few) is None


def test_with_too_few_a_round_never_closes() -> None:
    few = replace(ALL_IN, expected={A}, ready={A}, taken_count=1, least=2)
    assert missing(0.0, few) == missing(1e9, few) == "1 of at least 2 contributions are in"


def test_late_work_of_an_older_state_counts_among_the_least_but_is_not_what_is_awaited() -> None:
    stale = replace(ALL_IN, expected={A, B}, ready={A}, taken_count=3)
    assert missing(0.0, stale) == "1 of 2 contributions are in"
    assert missing(25.0, stale) is None


def test_before_its_start_a_round_is_never_overdue() -> None:
    assert missing(1e9, replace(ALL_IN, expected={A, B, C, D}, overdue_at=float("inf"))) is not None


def test_what_is_on_its_way_to_a_quorum_is_waited_for_until_its_time_is_up() -> None:
    assert unspread(0.0, ALL_IN, {A, B, C}) is None
    assert unspread(24.9, ALL_IN, {A}) == "2 contributions have yet to reach a quorum"
    assert unspread(25.0, ALL_IN, {A}) is None


def test_late_work_of_an_older_state_need_not_have_reached_anybody() -> None:
    assert unspread(0.0, replace(ALL_IN, ready={A, B}), {A, B}) is None


PEERS = st.frozensets(st.sampled_from([A, B, C, D]))


@given(PEERS, PEERS, st.integers(0, 4), st.integers(1, 4), st.floats(0.0, 50.0))
def test_time_and_further_contributions_only_ever_bring_a_round_nearer_to_its_end(
    expected: frozenset[PeerId], ready: frozenset[PeerId], stale: int, least: int, now: float
) -> None:
    standings = Standings(expected, ready, max(stale, len(ready)), least, least, 25.0)
    if missing(now, standings) is None:
        assert missing(now + 1.0, standings) is None
        more = replace(standings, ready=ready | {D}, taken_count=max(standings.taken_count, len(ready | {D})))
        assert missing(now, more) is None
