"""The Gram matrix is that of the rounded rows, exactly, however it is swept; and that is near the rows' own."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.training.gram import ADDED_MOST, BITS, COLUMNS, SIDE, SPREAD, TOTALS, Gram, Mix, Totals, gram
from shoal.training.payload import VALUE_MAX
from shoal.training.rows import one_by_one

from .rows_in_memory import in_pieces, normal, rows_of


def by_hand(values: np.ndarray) -> list[list[Fraction]]:
    """Inner products of the rounded rows in fractions."""
    rounded: list[list[Fraction]] = []
    for row in values:
        rounded.append([])
        for block in (row[start : start + COLUMNS] for start in range(0, len(row), COLUMNS)):
            unit = Fraction(2) ** (math.frexp(float(np.abs(block).max()))[1] - BITS)
            rounded[-1] += [round(Fraction(float(value)) / unit) * unit for value in block]
    return [[sum((a * b for a, b in zip(x, y, strict=True)), Fraction()) for y in rounded] for x in rounded]


def in_fractions(measured: Gram) -> list[list[Fraction]]:
    return [[product * measured.unit for product in line] for line in measured.products]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 5), st.sampled_from([1, 7, 300, 1025]), st.data())
def test_the_matrix_is_exactly_that_of_the_rounded_rows(seed: int, n: int, size: int, data: st.DataObject) -> None:
    values = normal(seed, n, size)
    for row in values:
        row *= np.float32(2.0 ** data.draw(st.integers(-60, 17)))
        row[:: data.draw(st.integers(1, 5))] = 0
    rows = rows_of(values)
    values = np.stack([row.whole for row in rows])
    assert in_fractions(gram(rows, size, one_by_one)) == by_hand(values)


@pytest.mark.parametrize("count", [SIDE, SIDE + 1, 2 * SIDE + 1])
def test_so_is_that_of_more_rows_than_are_multiplied_at_once(count: int) -> None:
    rows = rows_of(normal(6, count, 100))
    assert in_fractions(gram(rows, 100, one_by_one)) == by_hand(np.stack([row.whole for row in rows]))


@pytest.mark.parametrize("length", [256, 1024, 8192, 8448, 65536])
@pytest.mark.parametrize("threads", [1, 2])
def test_neither_pieces_nor_threads_change_it(length: int, threads: int) -> None:
    rows = rows_of(normal(1, 9, 40_001))
    assert gram(rows, 40_001, in_pieces(length, threads)) == gram(rows, 40_001, one_by_one)


def test_the_largest_sums_that_can_be_are_exact() -> None:
    size = 3 * 8192 + 5
    for sign in (1, -1):
        values = np.full((2, size), np.nextafter(np.float32(VALUE_MAX), np.float32(0)), np.float32)  # rounds up to 2^20
        values[1] *= sign
        measured = gram(rows_of(values), size, one_by_one)
        assert measured.inner(0, 1) == sign * size * VALUE_MAX**2
        assert measured.norm(0) == math.sqrt(size) * VALUE_MAX
    odd = np.stack([2**24 - 1 - 3 * np.arange(9_000), -(2**24) + 5 * np.arange(9_000)]).astype(np.float32)
    assert in_fractions(gram(rows_of(odd), 9_000, one_by_one)) == by_hand(odd)


def test_it_measures_as_float64_does() -> None:
    values = normal(2, 6, 20_000) * np.array([[1e-6], [1], [1e3], [1], [1e-2], [1]], np.float32)
    measured, exact = gram(rows_of(values), 20_000, one_by_one), values.astype(np.float64)
    for i, j in itertools.product(range(6), repeat=2):
        assert measured.norm(i) == pytest.approx(np.linalg.norm(exact[i]), rel=1e-6)
        assert measured.distance(i, j) == pytest.approx(np.linalg.norm(exact[i] - exact[j]), rel=1e-6)
        cosine = exact[i] @ exact[j] / np.linalg.norm(exact[i]) / np.linalg.norm(exact[j])
        assert measured.cosine(i, j) == pytest.approx(cosine, abs=1e-6)
        assert measured.inner(i, j) == pytest.approx(
            exact[i] @ exact[j], abs=1e-6 * measured.norm(i) * measured.norm(j)
        )
    assert [measured.cosine(i, i) for i in range(6)] == [1.0] * 6


@pytest.mark.parametrize("apart", [2.0**-8, 2.0**-12, 2.0**-16, 2.0**-20, 2.0**-24])
def test_distances_of_rows_that_nearly_coincide_are_off_by_no_more_than_rounding_moves_rows(apart: float) -> None:
    near = normal(3, 1, 50_000)
    values = np.concatenate([near, near + np.float32(apart) * normal(4, 1, 50_000), near])
    rows = rows_of(values)
    measured, exact = gram(rows, 50_000, one_by_one), np.stack([row.whole for row in rows]).astype(np.float64)
    most = sum(math.sqrt(50_000) * 2.0**-BITS * np.abs(row).max() for row in exact[:2])
    assert abs(measured.distance(0, 1) - np.linalg.norm(exact[0] - exact[1])) <= most
    assert measured.distance(0, 2) == 0


def test_a_row_of_zeros_and_a_tiny_one_beside_a_huge_one_are_measured() -> None:
    values = np.zeros((3, 300), np.float32)
    values[1], values[2] = 2.0**-80, VALUE_MAX
    measured = gram(rows_of(values), 300, one_by_one)
    assert [measured.norm(place) for place in range(3)] == [0, math.sqrt(300) * 2.0**-80, math.sqrt(300) * VALUE_MAX]
    assert measured.cosine(0, 1) == 0
    assert measured.cosine(1, 2) == 1
    assert gram(rows_of(values[:1]), 300, one_by_one).products == ((0,),)


@pytest.mark.parametrize("steps", [1, 3, 40])
def test_each_block_has_a_unit_of_its_own_and_its_sums_add_up_exactly(steps: int) -> None:
    """Each block 2^steps times as large as the one before."""
    values = np.ascontiguousarray(normal(7, 3, 3 * COLUMNS))
    for place in range(3):
        values[:, place * COLUMNS : (place + 1) * COLUMNS] *= np.float32(2.0 ** (steps * (place - 2)))
    assert in_fractions(gram(rows_of(values), 3 * COLUMNS, one_by_one)) == by_hand(values)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-(2**62), 2**62), st.integers(-(2**62), 2**62), st.integers(-338, 200)), max_size=40)
)
def test_totals_are_exact_whatever_their_terms_units_are(terms: list[tuple[int, int, int]]) -> None:
    totals = Totals(2)
    for one, other, exponent in terms:
        totals.add(np.array([one, other]), np.array([exponent, -exponent % 150]))
    expected = [
        sum((one * Fraction(2) ** exponent for one, _, exponent in terms), Fraction()),
        sum((other * Fraction(2) ** (-exponent % 150) for _, other, exponent in terms), Fraction()),
    ]
    assert [total * Fraction(2) ** TOTALS for total in totals.whole()] == expected


def test_the_largest_terms_do_not_overflow_before_they_are_carried() -> None:
    totals = Totals(1)
    for _ in range(2 * ADDED_MOST + 1):
        totals.add(np.array([-(2**62)]), np.array([SPREAD // 2]))
        totals.add(np.array([1]), np.array([0]))
        totals.add(np.array([2**62]), np.array([SPREAD]))
    expected = (2 * ADDED_MOST + 1) * (2 ** (62 + SPREAD) + 1 - 2 ** (62 + SPREAD // 2))
    assert totals.whole()[0] * Fraction(2) ** TOTALS == expected


def test_a_huge_value_coarsens_no_more_than_its_block_of_its_row() -> None:
    values = normal(8, 3, 2 * COLUMNS)
    exact = gram(rows_of(values[:, COLUMNS:]), COLUMNS, one_by_one)
    values[0, :COLUMNS], values[0, 0] = 0, VALUE_MAX
    values[1, :COLUMNS] = values[2, :COLUMNS] = 0
    assert in_fractions(gram(rows_of(values), 2 * COLUMNS, one_by_one))[0][1:] == in_fractions(exact)[0][1:]


@pytest.mark.parametrize("length", [256, 8448, 65536])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_row_that_is_made_of_the_others_is_measured_as_if_it_were_there(length: int, threads: int) -> None:
    values = normal(9, 3, 40_001)
    sums = values[0] + values[1]
    seen = np.zeros(40_001, np.int64)

    def make(start: int, stop: int, pieces: np.ndarray, out: np.ndarray) -> None:
        seen[start:stop] += 1
        assert np.array_equal(pieces, values[:, start:stop])
        np.add(pieces[0], pieces[1], out=out)
        pieces[:] = 0

    made = gram(rows_of(values), 40_001, in_pieces(length, threads), make)
    assert made == gram(rows_of([*values, sums]), 40_001, one_by_one)
    assert np.all(seen == 1)


def test_no_rows_are_an_error() -> None:
    with pytest.raises(ValueError, match="no rows"):
        gram([], 5, one_by_one)


def test_combinations_are_measured_as_if_they_had_been_swept() -> None:
    values = np.rint(normal(5, 4, 2_000) * 1000).astype(np.float32)  # integers below 2^BITS: nothing is rounded
    mixes = [Mix((1, 2, -3, 0), 4), Mix((0, 1, 0, 0), 4), Mix((1, 1, 1, 1), 4), Mix((0, 0, 0, 0), 4)]
    mixed = np.array([mix.coefficients for mix in mixes], np.float64) @ values.astype(np.float64) / 4
    measured = gram(rows_of(values), 2_000, one_by_one)
    combined = measured.mixed(mixes)
    for i, j in itertools.product(range(4), repeat=2):
        assert combined.products[i][j] * combined.unit == Fraction(float(mixed[i] @ mixed[j]))
    from_first = [square * measured.unit / 16 for square in measured.squared_from(mixes[0])]
    assert from_first == [Fraction(float(((row - mixed[0]) ** 2).sum())) for row in values.astype(np.float64)]
    with pytest.raises(ValueError, match="one denominator"):
        measured.mixed([Mix((1, 0, 0, 0), 1), Mix((1, 0, 0, 0), 2)])
