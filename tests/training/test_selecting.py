"""Rules that choose among rows: against every choice tried in float64, under hostile rows, in ties."""

import itertools
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.training.gram import Gram, Mix, gram
from shoal.training.rows import Row, Sweep, Weighted, one_by_one
from shoal.training.selecting import (
    LEFT_OUT_MAX,
    drawn,
    krum,
    krum_mix,
    least_diameter,
    least_diameter_mix,
    multi_krum,
    multi_krum_mix,
    nearest_mixing,
    prioritized,
)

from .rows_in_memory import in_pieces, normal, rows_of, weighted, whole

SIZE = 400
Rule = Callable[[Sequence[Weighted], int, int, Sweep], Row]
Mixing = Callable[[Gram, Sequence[int], int], Mix]
RULES: list[Rule] = [krum, multi_krum, least_diameter]
MIXES: list[Mixing] = [lambda gram, weights, f: krum_mix(gram, f), multi_krum_mix, least_diameter_mix]


def measured(values: np.ndarray) -> Gram:
    return gram(rows_of(values), values.shape[1], one_by_one)


def squares_of(values: np.ndarray) -> np.ndarray:
    """(n, n) float64."""
    exact = values.astype(np.float64)
    return np.asarray(((exact[:, None] - exact[None]) ** 2).sum(axis=2))


def result(rule: Rule, values: np.ndarray, f: int, weights: Sequence[int] | None = None) -> np.ndarray:
    return whole(rule(weighted(values, weights), f, values.shape[1], one_by_one), values.shape[1])


def krum_order(values: np.ndarray, f: int) -> list[int]:
    squares, n = squares_of(values), len(values)
    scores = [float(np.sort(np.delete(squares[i], i))[: n - f - 2].sum()) for i in range(n)]
    return sorted(range(n), key=lambda place: scores[place])


def least_in_float64(values: np.ndarray, f: int) -> tuple[int, ...]:
    squares, n = squares_of(values), len(values)
    return min(itertools.combinations(range(n), n - f), key=lambda kept: squares[np.ix_(kept, kept)].max())


@pytest.mark.parametrize(("n", "f"), [(3, 0), (5, 1), (9, 3), (12, 2), (16, 6)])
def test_choices_are_those_of_float64(n: int, f: int) -> None:
    values = normal(n, n, SIZE)
    order, ones = krum_order(values, f), (1,) * n
    assert krum_mix(measured(values), f).coefficients.index(1) == order[0]
    best = {place for place, taken in enumerate(multi_krum_mix(measured(values), ones, f).coefficients) if taken}
    assert best == set(order[: n - f])
    np.testing.assert_array_equal(result(krum, values, f), values[order[0]])
    np.testing.assert_allclose(result(multi_krum, values, f), values[sorted(best)].mean(axis=0), atol=1e-6)
    squares = squares_of(values)
    for place, (row, _) in enumerate(nearest_mixing(weighted(values), f, SIZE, one_by_one)):
        nearest = np.argsort(squares[place], kind="stable")[: n - f]
        np.testing.assert_allclose(whole(row, SIZE), values[nearest].mean(axis=0), atol=1e-6)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 9), st.integers(1, 3), st.data())
def test_the_subset_of_least_diameter_is_the_first_of_all_that_could_be(
    seed: int, n: int, size: int, data: st.DataObject
) -> None:
    values = np.rint(normal(seed, n, size) * data.draw(st.sampled_from([1, 3, 100]))).astype(np.float32)  # with ties
    f = data.draw(st.integers(0, (n - 1) // 2))
    mix = least_diameter_mix(measured(values * np.float32(1024)), (1,) * n, f)
    assert tuple(place for place in range(n) if mix.coefficients[place]) == least_in_float64(values, f)


@pytest.mark.parametrize("rule", range(3))
def test_weights_choose_nothing_and_count_in_the_mean(rule: int) -> None:
    values = normal(5, 9, SIZE)
    plain = MIXES[rule](measured(values), (1,) * 9, 2)
    weights = (2**43, 1, 1, 7, 1, 300, 1, 2**20, 5)
    claimed = MIXES[rule](measured(values), weights, 2)
    assert [count > 0 for count in claimed.coefficients] == [count > 0 for count in plain.coefficients]
    if rule:
        assert all(count in (0, weight) for count, weight in zip(claimed.coefficients, weights, strict=True))
        assert claimed.denominator == sum(claimed.coefficients)


@pytest.mark.parametrize(("n", "f"), [(5, 1), (10, 3), (15, 6)])
@pytest.mark.parametrize("far", [1e3, 1e6])
def test_hostile_rows_far_away_are_left_out(n: int, f: int, far: float) -> None:
    honest = normal(1, n - f, SIZE)
    apart = np.float32(far) * normal(2, f, SIZE)
    together = np.repeat(apart[:1], f, axis=0)
    for hostile in (apart, together, np.float32(-far) * np.repeat(honest[:1], f, axis=0)):
        values = np.concatenate([hostile, honest])
        np.testing.assert_array_equal(result(krum, values, f), result(krum, honest, 0))
        for rule in (multi_krum, least_diameter):
            np.testing.assert_allclose(result(rule, values, f), honest.mean(axis=0), atol=1e-6)
        for row, _ in nearest_mixing(weighted(values), f, SIZE, one_by_one)[f:]:
            np.testing.assert_allclose(whole(row, SIZE), honest.mean(axis=0), atol=1e-6)


def test_hostile_rows_that_stay_near_move_no_rule_out_of_the_honest_diameter() -> None:
    honest = normal(1, 7, SIZE)
    middle = honest.mean(axis=0)
    diameter = np.sqrt(squares_of(honest).max())
    for scale in (0, 0.5, 1, 2):
        values = np.concatenate([np.repeat(-np.float32(scale) * honest[:1], 3, axis=0), honest])
        for rule in (multi_krum, least_diameter):
            assert np.linalg.norm(result(rule, values, 3) - middle) <= diameter


@pytest.mark.parametrize("rule", range(3))
def test_ties_are_broken_by_place(rule: int) -> None:
    equal = measured(np.ones((7, 5), np.float32))
    kept = 1 if rule == 0 else 5
    assert MIXES[rule](equal, (1,) * 7, 2) == Mix((1,) * kept + (0,) * (7 - kept), kept)
    two = measured(np.repeat(np.eye(2, 5, dtype=np.float32), 3, axis=0))
    assert least_diameter_mix(two, (1,) * 6, 2) == Mix((1, 1, 1, 1, 0, 0), 4)


@pytest.mark.parametrize("rule", RULES)
def test_equal_rows_give_that_row_and_zeros_give_zero(rule: Rule) -> None:
    values = np.repeat(normal(1, 1, SIZE), 7, axis=0)
    np.testing.assert_allclose(result(rule, values, 2), values[0], rtol=3e-7)
    assert not result(rule, np.zeros((7, SIZE), np.float32), 2).any()


def test_too_few_rows_are_an_error_that_says_so() -> None:
    values = normal(1, 6, SIZE)
    for rule in (krum, multi_krum):
        with pytest.raises(ValueError, match="6 rows are too few for f = 2: at least 7 are needed"):
            result(rule, values, 2)
        result(rule, values, 1)
        with pytest.raises(ValueError, match="2 rows are too few for f = 0: at least 3"):
            result(rule, values[:2], 0)
    with pytest.raises(ValueError, match="6 rows are too few for f = 3: at least 7"):
        result(least_diameter, values, 3)
    with pytest.raises(ValueError, match="6 rows are too few for f = 3: at least 7"):
        nearest_mixing(weighted(values), 3, SIZE, one_by_one)
    np.testing.assert_array_equal(result(least_diameter, values[:1], 0), values[0])


def test_the_search_for_the_least_diameter_is_bounded() -> None:
    n = 2 * LEFT_OUT_MAX + 3
    with pytest.raises(ValueError, match=f"bounded to leaving out {LEFT_OUT_MAX} rows"):
        least_diameter_mix(measured(normal(1, n, 3)), (1,) * n, LEFT_OUT_MAX + 1)
    for values in (normal(2, n, 3), np.repeat(normal(3, LEFT_OUT_MAX, 2), 3, axis=0)[:n], normal(4, n, 1)):
        mix = least_diameter_mix(measured(values), (1,) * n, LEFT_OUT_MAX)
        assert sum(mix.coefficients) == n - LEFT_OUT_MAX


@pytest.mark.parametrize("rule", range(3))
def test_the_order_of_rows_changes_no_choice(rule: int) -> None:
    values, weights = normal(1, 8, SIZE), [3, 1, 2, 1, 3, 3, 2, 3]
    first = MIXES[rule](measured(values), weights, 2)
    for seed in range(10):
        order = np.random.default_rng(seed).permutation(8)
        second = MIXES[rule](measured(values[order]), np.array(weights)[order].tolist(), 2)
        assert tuple(np.array(first.coefficients)[order].tolist()) == second.coefficients


@pytest.mark.parametrize("rule", RULES)
def test_neither_pieces_nor_threads_change_a_bit(rule: Rule) -> None:
    rows = weighted(normal(1, 7, 30_001), [2, 2, 3, 2, 2, 2, 3])
    first = whole(rule(rows, 1, 30_001, one_by_one), 30_001).tobytes()
    for length in (256, 8448, 65536):
        assert whole(rule(rows, 1, 30_001, in_pieces(length, 2)), 30_001, in_pieces(length, 2)).tobytes() == first


def test_mixing_twice_and_choosing_needs_no_sweep_but_the_first() -> None:
    sweeps = Counter[str]()

    def counting(part: Callable[[int, int], object], size: int) -> object:
        sweeps["sweeps"] += 1
        return one_by_one(part, size)

    mixed = nearest_mixing(weighted(normal(1, 9, SIZE)), 2, SIZE, counting)  # type: ignore[arg-type]
    row = multi_krum(nearest_mixing(mixed, 2, SIZE, counting), 2, SIZE, counting)  # type: ignore[arg-type]
    assert sweeps["sweeps"] == 1
    again = weighted(np.stack([whole(each, SIZE) for each, _ in mixed]))
    expected = multi_krum(nearest_mixing(again, 2, SIZE, one_by_one), 2, SIZE, one_by_one)
    np.testing.assert_allclose(whole(row, SIZE), whole(expected, SIZE), atol=1e-6)


def test_the_prioritizer_gives_the_near_the_middling_and_the_far_their_parts() -> None:
    squares = [(7 * place) % 90 for place in range(90)]
    kept = drawn(squares, 25, 1)
    assert Counter(squares[place] // 30 for place in kept) == {0: 9, 1: 12, 2: 4}
    assert kept == tuple(sorted(set(kept)))
    assert kept != drawn(squares, 25, 2)
    assert kept == drawn(squares, 25, 1)
    assert [Counter(squares[place] // 30 for place in drawn(squares, budget, 1)) for budget in (1, 2, 3, 4)] == [
        {1: 1},
        {0: 1, 1: 1},
        {0: 1, 1: 1, 2: 1},
        {0: 1, 1: 2, 2: 1},
    ]


def test_every_row_is_drawn_some_time_by_the_prioritizer() -> None:
    counts = Counter(place for seed in range(-100, 400) for place in drawn(list(range(12)), 4, seed))
    assert set(counts) == set(range(12))
    assert all(90 < counts[place] < 160 for place in (0, 1, 2, 3, 8, 9, 10, 11))  # 1 of 4 each
    assert all(200 < counts[place] < 300 for place in (4, 5, 6, 7))  # 2 of 4


def test_seats_that_a_third_cannot_fill_go_to_the_nearest() -> None:
    assert drawn([5, 4, 3, 2, 1], 4, 1)[-3:] == (2, 3, 4)
    for count, budget in itertools.product(range(1, 12), range(1, 12)):
        assert len(drawn([0] * count, budget, 3)) == min(count, budget)


def test_the_prioritizer_goes_by_the_distance_to_ones_own_row() -> None:
    values = np.arange(1, 10, dtype=np.float32)[:, None] * np.ones((1, SIZE), np.float32)
    (own,) = rows_of(np.full((1, SIZE), 3, np.float32))
    kept = prioritized(rows_of(values), own, 4, 5, SIZE, one_by_one)
    distances = [abs(place + 1 - 3) for place in range(9)]
    assert kept == drawn(distances, 4, 5)
    assert prioritized(rows_of(values), own, 9, 5, SIZE, one_by_one) == tuple(range(9))
    assert prioritized([], own, 9, 5, SIZE, one_by_one) == ()
    with pytest.raises(ValueError, match="at least 1"):
        prioritized(rows_of(values), own, 0, 5, SIZE, one_by_one)
