"""Rules that average all rows: against float64, under hostile rows, and where there is little to average."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.training.averaging import (
    centered_clipping,
    centered_clipping_mix,
    clipped_mean,
    clipped_mix,
    geometric_median,
    geometric_median_mix,
    mean,
)
from shoal.training.combinations import Combination, measure
from shoal.training.gram import Gram, Mix
from shoal.training.rows import Row, Sweep, Weighted, one_by_one
from shoal.training.selecting import nearest_mixing

from .rows_in_memory import in_pieces, normal, rows_of, weighted, whole

SIZE = 3_000
ZERO = Combination((), Mix((), 1))
Rule = Callable[[Sequence[Weighted], int, Sweep], Row]


def clipped_twice(rows: Sequence[Weighted], size: int, sweep: Sweep) -> Row:
    return centered_clipping(rows, ZERO, 2, size, sweep)


RULES: list[Rule] = [mean, clipped_mean, geometric_median, clipped_twice]


def result(rule: Rule, values: np.ndarray, weights: Sequence[int] | None = None) -> np.ndarray:
    """float64."""
    return whole(rule(weighted(values, weights), values.shape[1], one_by_one), values.shape[1]).astype(np.float64)


def lower_median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values, kind="stable")
    return float(values[order][np.searchsorted(np.cumsum(weights[order]), weights.sum() / 2)])


def centered_in_float64(values: np.ndarray, weights: np.ndarray, start: np.ndarray, iterations: int) -> np.ndarray:
    for _ in range(iterations):
        lengths = np.linalg.norm(values - start, axis=1)
        clips = np.minimum(1, lower_median(lengths, weights) / lengths)
        start = start + (weights * clips) @ (values - start) / weights.sum()
    return start


def median_in_float64(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    at = values.mean(axis=0)
    for _ in range(3_000):
        shares = weights / np.maximum(np.linalg.norm(values - at, axis=1), 1e-9)
        at = shares @ values / shares.sum()
    return np.asarray(at)


def lengths_to(values: np.ndarray, at: np.ndarray, weights: np.ndarray) -> float:
    return float(weights @ np.linalg.norm(values - at, axis=1))


CASES = pytest.mark.parametrize(
    ("seed", "weights"), [(1, [1] * 9), (2, [5, 1, 2, 2, 7, 1, 1, 3, 4]), (3, [10**12 + 1, 10**12] * 4 + [1])]
)


@CASES
def test_rules_are_those_of_float64_but_for_rounding(seed: int, weights: list[int]) -> None:
    values = normal(seed, 9, SIZE) * np.float32(2.0) ** normal(seed + 10, 9, 1) + normal(seed + 20, 1, SIZE)
    exact, shares = values.astype(np.float64), np.array(weights, np.float64)
    np.testing.assert_allclose(result(mean, values, weights), shares @ exact / shares.sum(), atol=1e-5)
    norms = np.linalg.norm(exact, axis=1)
    clipped = (shares * np.minimum(1, 2 * lower_median(norms, shares) / norms)) @ exact / shares.sum()
    np.testing.assert_allclose(result(clipped_mean, values, weights), clipped, atol=1e-5)
    for iterations, start in ((1, ZERO), (3, ZERO), (3, rows_of(normal(seed + 30, 1, SIZE))[0])):
        row = centered_clipping(weighted(values, weights), start, iterations, SIZE, one_by_one)
        expected = centered_in_float64(exact, shares, whole(start, SIZE).astype(np.float64), iterations)
        np.testing.assert_allclose(whole(row, SIZE), expected, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(3, 12), st.integers(1, 6), st.data())
def test_the_geometric_median_has_nearly_the_least_sum_of_distances(
    seed: int, n: int, size: int, data: st.DataObject
) -> None:
    values = normal(seed, n, size)
    far = data.draw(st.integers(0, (n - 1) // 2))
    values[:far] += np.float32(10.0 ** data.draw(st.integers(0, 5)))
    weights = np.array(data.draw(st.lists(st.integers(1, 5), min_size=n, max_size=n)), np.float64)
    exact = values.astype(np.float64)
    least = min(
        lengths_to(exact, at, weights) for at in (median_in_float64(exact, weights), *exact)
    )  # the median may be a row
    found = lengths_to(exact, result(geometric_median, values, [int(weight) for weight in weights]), weights)
    is_slow = 2 * weights.max() >= weights.sum()  # where one row has half of the weight steps grow ever shorter
    assert found <= least * (1 + (1e-2 if is_slow else 2e-3))


@pytest.mark.parametrize("far", [1e2, 1e6])
@pytest.mark.parametrize("f", [1, 3, 4])
def test_hostile_rows_as_far_as_can_be_move_robust_rules_no_farther_than_theory_says(f: int, far: float) -> None:
    honest = normal(1, 9 - f, SIZE) + np.float32(0.5)
    hostile = np.full((f, SIZE), -far, np.float32)
    values = np.concatenate([hostile, honest])
    middle = honest.astype(np.float64).mean(axis=0)
    radius = float(np.linalg.norm(honest - middle, axis=1).max())
    longest = float(np.linalg.norm(honest, axis=1).max())
    median = result(geometric_median, values)
    assert np.linalg.norm(median - middle) <= 2 * (9 - f) / (9 - 2 * f) * radius
    clipped = result(clipped_mean, values)
    assert np.linalg.norm(clipped - result(clipped_mean, honest) * (9 - f) / 9) <= 2 * f / 9 * longest + 1e-3
    assert np.linalg.norm(clipped) <= 2 * longest
    centered = result(clipped_twice, values)
    assert np.linalg.norm(centered) <= 2 * 2 * longest
    assert np.linalg.norm(result(mean, values) - middle) > 10 * radius


@pytest.mark.parametrize("rule", RULES)
def test_equal_rows_give_that_row_and_zeros_give_zero(rule: Rule) -> None:
    values = np.repeat(normal(1, 1, SIZE), 7, axis=0)
    np.testing.assert_allclose(result(rule, values), values[0], rtol=3e-7)
    np.testing.assert_allclose(result(rule, values, [1, 2, 3, 4, 5, 6, 7]), values[0], rtol=3e-7)
    assert not result(rule, np.zeros((7, SIZE), np.float32)).any()


@pytest.mark.parametrize("rule", RULES)
def test_one_row_is_the_result(rule: Rule) -> None:
    values = normal(1, 1, SIZE)
    np.testing.assert_array_equal(result(rule, values, [12]), values[0])


@pytest.mark.parametrize("rule", RULES)
def test_no_rows_are_an_error(rule: Rule) -> None:
    with pytest.raises(ValueError, match="no rows to aggregate"):
        rule([], SIZE, one_by_one)


def test_of_two_rows_the_geometric_median_is_the_middle_and_the_heavier_one_wins() -> None:
    values = normal(1, 2, SIZE)
    np.testing.assert_allclose(result(geometric_median, values), values.mean(axis=0), atol=1e-6)
    np.testing.assert_array_equal(result(geometric_median, values, [2, 1]), values[0])


def test_a_majority_in_one_place_is_the_geometric_median() -> None:
    values = normal(1, 7, SIZE)
    values[[1, 3, 4, 6]] = values[1]
    np.testing.assert_array_equal(result(geometric_median, values), values[1])


def test_centered_clipping_stays_where_most_rows_are_and_needs_an_iteration() -> None:
    values = normal(1, 5, SIZE)
    values[:3] = 0
    np.testing.assert_array_equal(result(clipped_twice, values), 0)
    with pytest.raises(ValueError, match="at least 1"):
        centered_clipping(weighted(values), ZERO, 0, SIZE, one_by_one)


@pytest.mark.parametrize("rule", [clipped_mean, geometric_median, clipped_twice])
def test_a_row_of_weight_three_is_what_three_rows_are(rule: Rule) -> None:
    values = normal(1, 5, SIZE) * np.array([[1], [2], [3], [4], [5]], np.float32)
    repeated = np.repeat(values, [1, 3, 2, 1, 2], axis=0)
    np.testing.assert_allclose(result(rule, values, [1, 3, 2, 1, 2]), result(rule, repeated), atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(8)))
def test_the_order_of_rows_changes_no_coefficient(order: list[int]) -> None:
    values = normal(1, 8, 400) * np.float32(2.0) ** normal(2, 8, 1)
    weights = [3, 1, 4, 1, 5, 9, 2, 6]
    (previous,) = rows_of(normal(3, 1, 400))
    start, moved = rows_of(values), rows_of(values[order])
    moved_weights = [weights[place] for place in order]

    def clip(gram: Gram, weights: Sequence[int]) -> Mix:
        return centered_clipping_mix(gram, weights, 3)

    rules: list[Callable[[Gram, Sequence[int]], Mix]] = [clipped_mix, geometric_median_mix]
    for rule, extra in ((rules[0], []), (rules[1], []), (clip, [previous])):
        first = rule(measure([*start, *extra], 400, one_by_one), weights).coefficients
        second = rule(measure([*moved, *extra], 400, one_by_one), moved_weights).coefficients
        assert tuple(first[place] for place in order) == second[:8]


@pytest.mark.parametrize("rule", RULES)
def test_neither_pieces_nor_threads_change_a_bit(rule: Rule) -> None:
    rows = weighted(normal(1, 7, 30_001), [1, 2, 3, 4, 5, 6, 7])
    first = whole(rule(rows, 30_001, one_by_one), 30_001).tobytes()
    for length in (256, 8448, 65536):
        assert whole(rule(rows, 30_001, in_pieces(length, 2)), 30_001, in_pieces(length, 2)).tobytes() == first


@pytest.mark.parametrize("rule", RULES)
def test_rules_go_behind_mixing(rule: Rule) -> None:
    mixed = nearest_mixing(weighted(normal(1, 7, SIZE), [1, 2, 3, 2, 1, 2, 3]), 1, SIZE, one_by_one)
    values = np.stack([whole(row, SIZE) for row, _ in mixed])
    again = result(rule, values, [weight for _, weight in mixed])
    np.testing.assert_allclose(whole(rule(mixed, SIZE, one_by_one), SIZE), again, atol=1e-5)
    assert math.isfinite(float(again.sum()))
