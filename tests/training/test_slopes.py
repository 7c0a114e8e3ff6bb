"""How large a slope may be: by the median of recent ones, which a minority does not move beyond what others claim."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.training.scalar_codes import MAGNITUDES
from shoal.training.slopes import MASS, MEMORY, NONE, bounded, largest, remembered

codes = st.binary(min_size=1, max_size=30)


def test_where_nothing_is_known_nothing_is_cut() -> None:
    assert largest(NONE, 8) == 127
    assert largest(remembered(NONE, [(5, bytes([0, 0]))]), 8) == 127


@pytest.mark.parametrize("bound", [1, 2, 8])
def test_the_limit_is_the_largest_magnitude_within_the_bound(bound: int) -> None:
    limit = largest(remembered(NONE, [(1, bytes([50, 50 + 128, 50]))]), bound)
    assert MAGNITUDES[limit] <= bound * MAGNITUDES[50] < MAGNITUDES[limit + 1]


@given(st.lists(codes, min_size=3, max_size=9), codes)
def test_less_than_half_of_all_weight_does_not_lift_the_limit_beyond_the_others_largest(
    honest: list[bytes], liar: bytes
) -> None:
    steep = max(code & 127 for each in honest for code in each)
    if not all(any(code & 127 for code in each) for each in honest):
        return  # who says only that there is no slope says nothing about how large they are
    claims = [(10, each) for each in honest]
    recent = remembered(NONE, [*claims, (10 * len(honest) - 1, liar)])
    assert largest(recent, 1) <= steep


def test_what_was_usual_is_forgotten_within_some_dozens_of_rounds() -> None:
    recent = NONE
    for _ in range(100):
        recent = remembered(recent, [(3, bytes([90] * 8))])
    assert sum(recent) <= MASS * MEMORY
    rounds = 0
    while largest(recent, 1) == 90:
        recent = remembered(recent, [(3, bytes([40] * 8))])
        rounds += 1
    assert 5 < rounds < 2 * MEMORY


@given(st.integers(0, 255), st.integers(1, 127))
def test_cutting_keeps_the_sign(code: int, limit: int) -> None:
    assert bounded(code, limit) & 128 == code & 128
    assert bounded(code, limit) & 127 == min(code & 127, limit)


@given(st.lists(st.tuples(st.integers(1, 2**43), codes), max_size=5), st.permutations(range(5)))
def test_contributions_may_come_in_any_order(claims: list[tuple[int, bytes]], order: list[int]) -> None:
    shuffled = [claims[place] for place in order if place < len(claims)]
    assert remembered(NONE, claims) == remembered(NONE, shuffled)
