"""How many connections are worth their while: twice as many are tried, stay where they bring something, else go."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.transport.bulk_growth import CONNECTIONS_MAX, GAIN, PAUSE_S, PAUSE_S_MAX, WARMING, Growth


def run(growth: Growth, rates: dict[int, float], seconds: int, began_at: int = 0) -> list[int]:
    """The connections wanted in each second, where so many bring these rates."""
    wanted: list[int] = []
    for now in range(began_at, began_at + seconds):
        growth.measured(rates[growth.wanted], float(now))
        wanted.append(growth.wanted)
    return wanted


def test_where_each_brings_its_share_all_are_opened() -> None:
    growth = Growth()
    wanted = run(growth, {count: 10.0 * count for count in range(1, CONNECTIONS_MAX + 1)}, 60)
    assert wanted == sorted(wanted)
    assert wanted[-1] == CONNECTIONS_MAX
    assert wanted.index(CONNECTIONS_MAX) <= 2 * (WARMING + 1)


def test_where_one_fills_the_line_a_second_is_tried_ever_more_rarely() -> None:
    growth = Growth()
    wanted = run(growth, dict.fromkeys(range(1, CONNECTIONS_MAX + 1), 100.0), 4 * int(PAUSE_S_MAX))
    assert set(wanted) == {1, 2}
    tries = [now for now in range(1, len(wanted)) if wanted[now] > wanted[now - 1]]
    pauses = [later - earlier for earlier, later in itertools.pairwise(tries)]
    assert pauses == sorted(pauses)
    assert PAUSE_S <= pauses[0] <= PAUSE_S + 2 * WARMING + 2
    assert PAUSE_S_MAX <= pauses[-1] <= PAUSE_S_MAX + 2 * WARMING + 2
    assert wanted.count(2) <= (WARMING + 1) * len(tries)


def test_it_stays_with_as_many_as_pay() -> None:
    wanted = run(Growth(), {1: 10.0, 2: 20.0, 4: 21.0}, 100)
    assert set(wanted) == {1, 2, 4}
    assert wanted.count(4) <= (WARMING + 1) * 100 / PAUSE_S
    assert wanted[wanted.index(4) :].count(1) == 0


@pytest.mark.parametrize("gain", [GAIN * 0.99, GAIN])
def test_the_gain_that_pays_is_where_it_is_said_to_be(gain: float) -> None:
    growth = Growth()
    run(growth, {1: 100.0, 2: 100.0 * gain}, WARMING + 1)
    assert growth.wanted == 2
    run(growth, {1: 100.0, 2: 100.0 * gain}, WARMING + 1, WARMING + 1)
    assert growth.wanted == (4 if gain >= GAIN else 1)  # more are tried at once


def test_what_breaks_is_not_missed_and_what_was_measured_before_is_forgotten() -> None:
    growth = Growth()
    run(growth, {1: 10.0, 2: 20.0, 3: 30.0, 4: 40.0}, 60)
    growth.broke(2)
    assert growth.wanted == 2
    growth.broke(0)
    assert growth.wanted == 1
    assert run(growth, dict.fromkeys(range(1, 5), 5.0), WARMING, 60) == [1] * WARMING


events = st.lists(
    st.tuples(st.booleans(), st.floats(0, 1e12, allow_nan=False), st.integers(0, CONNECTIONS_MAX)), max_size=200
)


@given(events=events)
def test_whatever_is_measured_one_to_four_are_wanted_and_at_most_twice_as_many_at_a_time(
    events: list[tuple[bool, float, int]],
) -> None:
    growth = Growth()
    for now, (is_broken, rate, standing) in enumerate(events):
        before = growth.wanted
        if is_broken:
            growth.broke(standing)
            assert growth.wanted <= max(1, before)
        else:
            growth.measured(rate, float(now))
            assert before / 2 <= growth.wanted <= before * 2
        assert 1 <= growth.wanted <= CONNECTIONS_MAX
