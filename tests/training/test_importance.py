"""Which directions of a pool are tried: equal everywhere, the steep ones more often, none never."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from shoal.training.importance import COUNT_MAX, History, beginning, draw


def test_draws_are_what_the_protocol_says() -> None:
    assert draw(beginning(1024), bytes(32), 4) == (642, 850, 56, 496)


def test_at_first_all_are_as_likely() -> None:
    counts = Counter(index for turn in range(2000) for index in draw(beginning(8), turn.to_bytes(4, "big"), 4))
    assert all(900 < counts[index] < 1100 for index in range(8))


def test_the_steepest_is_e_times_as_likely_as_the_flattest() -> None:
    history = beginning(3).with_claims([(0, 10), (1, 60), (2, 110)])
    counts = Counter(index for turn in range(3000) for index in draw(history, turn.to_bytes(4, "big"), 4))
    assert 2.4 < counts[2] / counts[0] < 3.1
    assert counts[0] < counts[1] < counts[2]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 127)), max_size=40), st.binary(min_size=1, max_size=8))
def test_every_history_can_be_drawn_from(claims: list[tuple[int, int]], turn: bytes) -> None:
    assert all(0 <= index < 5 for index in draw(beginning(5).with_claims(claims), turn, 6))


def test_sums_stay_small_for_ever() -> None:
    history = History((COUNT_MAX,), (COUNT_MAX * 127,)).with_claims([(0, 127)] * (COUNT_MAX + 5))
    assert history.counts[0] <= COUNT_MAX
    assert history.sums[0] <= COUNT_MAX * 127
