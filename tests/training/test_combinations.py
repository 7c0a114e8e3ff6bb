"""Combinations of rows: near what float64 makes of them, the same bits for any pieces; mixtures are not read twice."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pytest

from shoal.training.codecs import TINY
from shoal.training.combinations import (
    SHARE,
    Combination,
    combined,
    measure,
    taken_apart,
    weighted_median,
)
from shoal.training.gram import Mix
from shoal.training.method import WEIGHT_MAX
from shoal.training.payload import VALUE_MAX
from shoal.training.rows import Row, Weighted, one_by_one

from .rows_in_memory import InMemory, in_pieces, normal, rows_of, whole

if TYPE_CHECKING:
    from shoal.training.tensors import Vector

SIZE = 20_001


@dataclass(eq=False)
class Counted:
    """A Row that knows how many of its values were read."""

    row: InMemory
    read: list[int] = field(default_factory=list[int])

    def values(self, start: int, stop: int, out: "Vector | None" = None) -> "Vector":
        self.read.append(stop - start)
        return self.row.values(start, stop, out)


def test_a_combination_is_what_float64_makes_of_it_but_for_rounding() -> None:
    values = normal(1, 5, SIZE)
    coefficients = (3, 0, -7, SHARE // 3, 2**43 + 1)
    row = Combination(tuple(rows_of(values)), Mix(coefficients, 2**42))
    exact = np.array(coefficients, np.float64) @ values / 2.0**42
    np.testing.assert_allclose(whole(row, SIZE), exact, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("length", [256, 4096, 65536])
def test_neither_pieces_nor_threads_change_it(length: int) -> None:
    row = Combination(tuple(rows_of(normal(2, 6, SIZE))), Mix((5, 4, 3, 2, 1, 2**40), 2**40 + 15))
    assert whole(row, SIZE, in_pieces(length, 2)).tobytes() == whole(row, SIZE).tobytes()


def test_a_combination_of_nothing_is_zero_everywhere() -> None:
    assert not whole(Combination((), Mix((), 1)), SIZE).any()
    assert not whole(Combination(tuple(rows_of(normal(3, 2, SIZE))), Mix((0, 0), SHARE)), SIZE).any()


def test_rows_that_do_not_count_are_not_read_and_one_alone_is_given_as_it_is() -> None:
    first, second = (Counted(row) for row in rows_of(normal(4, 2, SIZE)))
    row = Combination((first, second), Mix((0, SHARE), SHARE))
    assert whole(row, SIZE).tobytes() == second.row.whole.tobytes()
    assert not first.read


def test_equal_rows_give_that_row_whatever_small_numbers_weight_them() -> None:
    values = np.repeat(normal(5, 1, SIZE), 4, axis=0)
    result = whole(Combination(tuple(rows_of(values)), Mix((SHARE // 4 + 1,) * 4, SHARE + 4)), SIZE)
    np.testing.assert_array_equal(result, values[0])


def test_nothing_denormal_comes_out_and_nothing_overflows() -> None:
    values = np.array([[TINY] * 300, [-np.nextafter(np.float32(TINY), np.float32(1))] * 300], np.float32)
    assert not whole(Combination(tuple(rows_of(values)), Mix((1, 1), 2)), 300).any()
    large = np.full((1024, 300), VALUE_MAX, np.float32)
    result = whole(Combination(tuple(rows_of(large)), Mix((WEIGHT_MAX,) * 1023 + (1,), 1023 * WEIGHT_MAX + 1)), 300)
    np.testing.assert_allclose(result, VALUE_MAX, rtol=1e-4)


def test_a_rule_behind_mixed_rows_reads_what_these_are_made_of_once() -> None:
    rows = tuple(Counted(row) for row in rows_of(normal(7, 3, SIZE)))
    measured = measure(rows, SIZE, one_by_one)
    mixed = [Combination(rows, Mix(mix, 2), measured) for mix in ((1, 1, 0), (0, 1, 1), (1, 0, 1))]
    for row in rows:
        row.read.clear()
    matrix = measure(mixed, SIZE, one_by_one)
    assert not any(row.read for row in rows)
    values = np.stack([whole(row, SIZE) for row in mixed])
    again = measure(rows_of(values), SIZE, one_by_one)
    for row in rows:
        row.read.clear()
    result = combined(mixed, Mix((3, 1, 4), 8))
    np.testing.assert_allclose(whole(result, SIZE), np.array([3, 1, 4], np.float64) @ values / 8, rtol=1e-5, atol=1e-6)
    assert [sum(row.read) for row in rows] == [SIZE] * 3
    for place in range(3):
        assert matrix.norm(place) == pytest.approx(again.norm(place), rel=1e-6)
        assert matrix.distance(0, place) == pytest.approx(again.distance(0, place), rel=1e-6)


def test_mixed_rows_may_stand_beside_others() -> None:
    rows = tuple(rows_of(normal(8, 3, SIZE)))
    (other,) = rows_of(normal(9, 1, SIZE))
    mixed: list[Row] = [
        Combination(rows, Mix(mix, 3), measure(rows, SIZE, one_by_one)) for mix in ((1, 1, 1), (0, 1, 2))
    ]
    values = np.stack([whole(row, SIZE) for row in (*mixed, other)])
    matrix = measure((*mixed, other), SIZE, one_by_one)
    again = measure(rows_of(values), SIZE, one_by_one)
    for place in range(3):
        assert matrix.distance(2, place) == pytest.approx(again.distance(2, place), rel=1e-6)
    result = whole(combined((*mixed, other), Mix((SHARE // 3, SHARE // 7, -SHARE), SHARE)), SIZE)
    np.testing.assert_allclose(result, np.array([1 / 3, 1 / 7, -1], np.float64) @ values, rtol=1e-5, atol=1e-5)


def test_large_coefficients_of_mixed_rows_are_shortened() -> None:
    rows = tuple(rows_of(normal(10, 2, SIZE)))
    measured = measure(rows, SIZE, one_by_one)
    weights = (WEIGHT_MAX - 1, WEIGHT_MAX - 3)
    mixed = [Combination(rows, Mix(mix, sum(weights)), measured) for mix in (weights, weights[::-1])]
    result = combined(mixed, Mix(weights, sum(weights)))
    assert isinstance(result, Combination)
    assert result.mix.denominator <= 2**44
    np.testing.assert_allclose(whole(result, SIZE), sum(row.whole for row in rows) / 2, rtol=1e-5, atol=1e-6)


def test_weights_are_divided_by_what_divides_them_all() -> None:
    rows = rows_of(normal(11, 2, 10))
    assert taken_apart([Weighted(rows[0], 6), Weighted(rows[1], 4)]) == (tuple(rows), (3, 2))
    with pytest.raises(ValueError, match="no rows"):
        taken_apart([])
    with pytest.raises(ValueError, match="a weight of 0"):
        taken_apart([Weighted(rows[0], 0)])


def test_the_median_is_the_lower_one_of_two() -> None:
    assert weighted_median([4, 1, 3, 2], [1, 1, 1, 1]) == 2
    assert weighted_median([4, 1, 3, 2], [5, 1, 1, 1]) == 4
    assert weighted_median([7], [3]) == 7
