"""How long a peer may be silent before another is asked as well."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.dht.patience import FIRST_S, GIVE_UP_FACTOR, GIVE_UP_S_MIN, SILENCE_S_MAX, SILENCE_S_MIN, Patience


def after(*answers_s: float) -> float:
    patience = Patience()
    for answer_s in answers_s:
        patience.answered(answer_s)
    return patience.silence_s


def test_before_the_first_answer_it_is_a_handshake_around_the_world() -> None:
    assert after() == FIRST_S


def test_quick_answers_make_it_short_but_never_so_short_that_a_busy_moment_counts() -> None:
    assert after(*[0.001] * 30) == SILENCE_S_MIN


def test_answers_that_always_take_as_long_are_waited_for_hardly_longer() -> None:
    assert 0.1 < after(*[0.1] * 50) < 0.11


def test_answers_that_vary_are_waited_for_longer() -> None:
    assert after(*[0.05, 0.15] * 50) > 0.2


def test_nobody_is_given_up_so_soon_that_a_peer_far_away_is_never_heard() -> None:
    patience = Patience()
    for _ in range(100):
        patience.answered(0.001)
    assert patience.give_up_s == GIVE_UP_S_MIN
    for _ in range(100):
        patience.answered(0.8)
    assert patience.give_up_s == pytest.approx(GIVE_UP_FACTOR * patience.silence_s)


@given(st.lists(st.floats(allow_nan=False)))
def test_whatever_comes_it_stays_within_its_bounds(answers_s: list[float]) -> None:
    assert SILENCE_S_MIN <= after(*answers_s) <= SILENCE_S_MAX
