"""Median and trimmed mean are what their docstrings say, to the bit, whoever sent which row, in pieces of any size."""

import math
import tracemalloc
from collections.abc import Callable, Sequence
from itertools import permutations
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.training.codecs import TINY
from shoal.training.method import WEIGHT_MAX
from shoal.training.order_statistics import CoordinateMedian, TrimmedMean, WeightedMedian, WeightedTrimmedMean
from shoal.training.rows import PIECE_VALUES, Row, Weighted
from shoal.training.sweep_service import ThreadedSweep
from tests.training.rows_in_memory import InMemory, weighted, whole

Rule = Callable[[Sequence[Weighted]], Row]

SIZE = 12
MAGNITUDES = st.one_of(
    st.floats(TINY, 2.0**20, width=32), st.sampled_from([0.0, TINY, 1.5 * TINY, 2.0**20, 1.0, 1.0 + 2.0**-23])
)
VALUES = st.builds(math.copysign, MAGNITUDES, st.sampled_from([-1.0, 1.0]))
WEIGHTS = st.one_of(st.integers(1, 4), st.integers(1, WEIGHT_MAX))
RULES: dict[str, Rule] = {
    "median": CoordinateMedian,
    "trimmed mean": lambda rows: TrimmedMean(rows, (len(rows) - 1) // 3),
    "weighted median": WeightedMedian,
    "weighted trimmed mean": lambda rows: WeightedTrimmedMean(rows, (len(rows) - 1) // 5),
}


@st.composite
def weighted_rows(draw: st.DrawFn) -> list[Weighted]:
    count = draw(st.integers(1, 9))
    weights = draw(st.lists(WEIGHTS, min_size=count, max_size=count))
    column = st.lists(VALUES, min_size=SIZE, max_size=SIZE)
    return weighted([np.array(draw(column), np.float32) for _ in weights], weights)


def ones(rows: Sequence[Weighted], weight: int = 1) -> list[Weighted]:
    return [Weighted(row.row, weight) for row in rows]


def columns(rows: Sequence[Weighted]) -> list[list[tuple[np.float32, int, int]]]:
    """Of each coordinate (value, place, weight) in order; equal ones by place, away from 0."""
    of_rows = [row.row.values(0, SIZE) for row in rows]
    found: list[list[tuple[np.float32, int, int]]] = []
    for values in zip(*of_rows, strict=True):
        items = [(value, place, rows[place].weight) for place, value in enumerate(values)]
        found.append(sorted(items, key=lambda item: (item[0], item[1] if item[0] >= 0 else -item[1])))
    return found


def settled(value: np.float32) -> np.float32:
    return value if abs(value) >= TINY else np.float32(0)


def slow_median(column: list[tuple[np.float32, int, int]]) -> np.float32:
    total, reached = sum(weight for _, _, weight in column), 0
    middle: list[np.float32] = []
    for value, _, weight in column:
        if 2 * reached <= total <= 2 * (reached + weight):  # half of the weight is in here, or at a border of it
            middle.append(value)
        reached += weight
    return settled((middle[0] + middle[-1]) / np.float32(2))


def slow_trimmed_mean(column: list[tuple[np.float32, int, int]], f: int) -> np.float32:
    """Weight by weight taken off, first from below, then from above."""
    divisor = int(np.gcd.reduce([weight for _, _, weight in column]))
    left = [weight // divisor for _, _, weight in column]
    trimmed = sum(sorted(left)[len(left) - f :])
    for places in (range(len(left)), reversed(range(len(left)))):
        excess = trimmed
        for place in places:
            taken = min(excess, left[place])
            left[place] -= taken
            excess -= taken
    total = np.float32(0)
    for (value, _, _), weight in zip(column, left, strict=True):
        total = total + value * np.float32(weight)
    return settled(total / np.float32(sum(left)))


def assert_same_bits(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == np.float32
    assert found.view(np.uint32).tolist() == expected.astype(np.float32).view(np.uint32).tolist()


@given(weighted_rows())
def test_the_median_is_the_middle_value_or_the_mean_of_the_middle_two(rows: list[Weighted]) -> None:
    expected = np.array([slow_median(column) for column in columns(ones(rows))])
    assert_same_bits(whole(CoordinateMedian(rows), SIZE), expected)


@given(weighted_rows())
def test_the_weighted_median_is_where_half_of_the_weight_is_reached(rows: list[Weighted]) -> None:
    assert_same_bits(whole(WeightedMedian(rows), SIZE), np.array([slow_median(column) for column in columns(rows)]))


@given(weighted_rows(), st.data())
def test_the_trimmed_mean_leaves_out_the_f_lowest_and_the_f_highest(rows: list[Weighted], data: st.DataObject) -> None:
    f = data.draw(st.integers(0, (len(rows) - 1) // 2))
    expected = np.array([slow_trimmed_mean(column, f) for column in columns(ones(rows))])
    assert_same_bits(whole(TrimmedMean(rows, f), SIZE), expected)


@given(weighted_rows(), st.data())
def test_the_weighted_trimmed_mean_cuts_through_the_weight_at_the_border(
    rows: list[Weighted], data: st.DataObject
) -> None:
    weights = sorted(weight for _, weight in rows)
    least = [f for f in range((len(rows) + 1) // 2) if 2 * sum(weights[len(rows) - f :]) < sum(weights)]
    f = data.draw(st.sampled_from(least))
    expected = np.array([slow_trimmed_mean(column, f) for column in columns(rows)])
    assert_same_bits(whole(WeightedTrimmedMean(rows, f), SIZE), expected)


@given(weighted_rows(), WEIGHTS)
def test_equal_weights_give_the_bits_of_none(rows: list[Weighted], weight: int) -> None:
    equal = ones(rows, weight)
    assert_same_bits(whole(WeightedMedian(equal), SIZE), whole(CoordinateMedian(rows), SIZE))
    for f in range((len(rows) + 1) // 2):
        assert_same_bits(whole(WeightedTrimmedMean(equal, f), SIZE), whole(TrimmedMean(rows, f), SIZE))


def test_a_weight_counts_as_so_many_rows() -> None:
    vectors = [np.array([value], np.float32) for value in (5, -3, 2, 8)]
    weights = [2, 1, 3, 1]
    repeated = weighted([vector for vector, weight in zip(vectors, weights, strict=True) for _ in range(weight)])
    rows = weighted(vectors, weights)
    assert whole(WeightedMedian(rows), 1) == whole(CoordinateMedian(repeated), 1) == 2
    assert whole(WeightedTrimmedMean(rows, 1), 1) == whole(TrimmedMean(repeated, 3), 1) == 2  # T = 3, of 7


def test_half_of_the_weight_exactly_gives_the_mean_of_both_sides() -> None:
    assert whole(WeightedMedian(weighted([np.array([1.0]), np.array([2.0]), np.array([9.0])], [1, 2, 3])), 1) == 5.5
    assert whole(WeightedMedian(weighted([np.array([1.0]), np.array([2.0]), np.array([9.0])], [1, 2, 4])), 1) == 9
    heavy = weighted([np.array([1.0]), np.array([2.0])], [WEIGHT_MAX, WEIGHT_MAX - 1])
    assert whole(WeightedMedian(heavy), 1) == 1


def test_two_middle_values_are_rounded_once() -> None:
    above = np.nextafter(np.float32(1), np.float32(2))
    assert whole(CoordinateMedian(weighted([np.array([1.0]), np.array([above])])), 1) == 1  # half to even
    greatest = np.array([2.0**20])
    assert whole(CoordinateMedian(weighted([greatest, greatest])), 1) == 2.0**20


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_zero_is_positive_whatever_zeros_it_comes_from(rule: Rule) -> None:
    for signs in permutations([0.0, -0.0, -0.0, 0.0, -0.0]):
        for count in range(1, 6):
            found = whole(rule(weighted([np.full(20, zero, np.float32) for zero in signs[:count]])), 20)
            assert found.view(np.uint32).tolist() == [0] * 20
    cancelling = weighted([np.full(3, value, np.float32) for value in (-1.0, -0.0, 1.0)])
    assert whole(rule(cancelling), 3).view(np.uint32).tolist() == [0] * 3


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_nothing_smaller_than_tiny_comes_out(rule: Rule) -> None:
    tiny = np.float32(TINY)
    near = weighted([np.full(3, value, np.float32) for value in (tiny, -np.nextafter(tiny, np.float32(1)))])
    assert whole(rule(near), 3).tolist() == [0.0] * 3


@given(weighted_rows(), st.randoms(use_true_random=False))
def test_it_does_not_matter_who_sent_which_row(rows: list[Weighted], random: Random) -> None:
    """The weighted trimmed mean is left out: its last bit may depend on it where values are equal."""
    shuffled = list(rows)
    random.shuffle(shuffled)
    for name in ("median", "trimmed mean", "weighted median"):
        assert_same_bits(whole(RULES[name](shuffled), SIZE), whole(RULES[name](rows), SIZE))


@given(weighted_rows(), st.lists(WEIGHTS, max_size=9), st.data())
def test_less_than_half_of_the_weight_cannot_move_a_median_beyond_honest_values(
    rows: list[Weighted], attackers: list[int], data: st.DataObject
) -> None:
    while attackers and sum(attackers) >= sum(row.weight for row in rows):
        attackers.pop()
    column = st.lists(VALUES, min_size=SIZE, max_size=SIZE)
    hostile = weighted([np.array(data.draw(column), np.float32) for _ in attackers], attackers)
    honest = np.array([row.row.values(0, SIZE) for row in rows])
    found = whole(WeightedMedian([*hostile, *rows]), SIZE)
    assert (honest.min(axis=0) <= found).all()
    assert (found <= honest.max(axis=0)).all()


def test_f_attackers_cannot_move_a_trimmed_mean_beyond_honest_values_but_more_can() -> None:
    honest = [np.full(2, value, np.float32) for value in (1, 2, 3, 4, 5)]
    attack = np.array([2.0**20, -(2.0**20)], np.float32)
    assert whole(TrimmedMean(weighted([attack, attack, *honest]), 2), 2).tolist() == [4.0, 2.0]
    assert abs(whole(TrimmedMean(weighted([attack, attack, attack, *honest]), 2), 2)).min() > 2.0**17
    weighty = weighted([attack, *honest], [2**20, *[2**20] * 5])
    assert whole(WeightedTrimmedMean(weighty, 1), 2).tolist() == [3.5, 2.5]
    heaviest = weighted([attack, *honest], [9, 1, 9, 1, 1, 1])  # together 22
    assert whole(WeightedTrimmedMean(heaviest, 1), 2).tolist() == [3.5, 1.75]
    with pytest.raises(ValueError, match="the 2 heaviest of 6 rows weigh half or more"):
        WeightedTrimmedMean(heaviest, 2)


@pytest.mark.parametrize(("count", "f"), [(0, 0), (1, 1), (4, 2), (10, 5), (10, -1)])
def test_too_few_rows_for_so_many_attackers_are_refused(count: int, f: int) -> None:
    rows = weighted([np.ones(3, np.float32)] * count)
    for rule in (TrimmedMean, WeightedTrimmedMean):
        with pytest.raises(ValueError, match=f"{count} rows"):
            rule(rows, f)


def test_a_median_of_nothing_is_refused() -> None:
    for rule in (CoordinateMedian, WeightedMedian):
        with pytest.raises(ValueError, match="0 rows"):
            rule([])


def many(count: int, size: int) -> list[Weighted]:
    """Of all sizes, with equal values and zeros among them."""
    generator = np.random.default_rng(count)
    vectors = generator.standard_normal((count, size), np.float32) * np.float32(2) ** generator.integers(-40, 10, size)
    vectors[:, ::7] = np.round(vectors[:, ::7])
    return weighted(list(vectors), [int(weight) for weight in generator.integers(1, 2**43, count)])


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_size_of_pieces_and_number_of_threads_change_nothing(rule: Rule) -> None:
    size = 3 * PIECE_VALUES + 1_234
    row = rule(many(11, size))
    whole = row.values(0, size)
    assert_same_bits(np.concatenate(list(ThreadedSweep(3)(row.values, size))), whole)
    for piece in (256, 256 * 33, PIECE_VALUES * 2):
        pieces = [row.values(start, min(start + piece, size)) for start in range(0, size, piece)]
        assert_same_bits(np.concatenate(pieces), whole)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_rules_stand_behind_one_another_and_give_what_may_be_written_to(rule: Rule) -> None:
    rows = many(9, 2_000)
    first = [Weighted(rule(rows[start : start + 3]), 1 + start) for start in (0, 3, 6)]
    behind = whole(rule(first), 2_000)
    before = weighted([whole(each.row, 2_000) for each in first], [each.weight for each in first])
    assert_same_bits(behind, whole(rule(before), 2_000))
    alone = rule([Weighted(InMemory(np.ones(4, np.float32)), 5)])
    alone.values(0, 4)[:] = 7
    assert alone.values(0, 4).tolist() == [1.0] * 4


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_memory_is_bounded_by_the_pieces(rule: Rule) -> None:
    """Whatever d is: less than 6 MB a thread for 16 rows."""
    size = 20 * PIECE_VALUES
    row = rule(many(16, size))
    tracemalloc.start()
    for start in range(0, size, PIECE_VALUES):
        row.values(start, start + PIECE_VALUES)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6e6
