"""The flag aggregator: against singular value decompositions in float64, and where there are no directions."""

from collections.abc import Sequence

import numpy as np
import pytest

from shoal.training.flag import REWEIGHTINGS, SINE_LEAST, flag_aggregator, flag_mix
from shoal.training.gram import gram
from shoal.training.rows import one_by_one

from .rows_in_memory import in_pieces, normal, rows_of, weighted, whole

SIZE = 500


def result(values: np.ndarray, weights: Sequence[int] | None = None) -> np.ndarray:
    return whole(flag_aggregator(weighted(values, weights), values.shape[1], one_by_one), values.shape[1])


def in_float64(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """By singular value decompositions of the (d, n) stack."""
    norms = np.linalg.norm(values, axis=1)
    units = (values / norms[:, None]).T
    factors = np.sqrt(weights / weights.sum())
    subspace = np.zeros((values.shape[1], 0))
    for _ in range(REWEIGHTINGS + 1):
        left, singular, _ = np.linalg.svd(units * factors, full_matrices=False)
        columns = min((len(values) + 1) // 2, int((singular > 1e-6 * singular[0]).sum()))
        subspace = left[:, :columns]
        sines = np.sqrt(np.maximum(0, 1 - ((subspace.T @ units) ** 2).sum(axis=0)) + SINE_LEAST)
        factors = np.sqrt(weights / weights.sum() / sines)
    order = np.argsort(norms)
    median = norms[order][np.searchsorted(np.cumsum(weights[order]), weights.sum() / 2)]
    return np.asarray(median * subspace @ subspace.T @ units @ weights / weights.sum())


@pytest.mark.parametrize(("n", "weights"), [(2, [1, 1]), (7, [1] * 7), (8, [3, 1, 4, 1, 5, 9, 2, 6])])
def test_it_is_what_decompositions_in_float64_give(n: int, weights: list[int]) -> None:
    values = (normal(1, 1, SIZE) + normal(2, n, SIZE)) * np.float32(2.0) ** normal(3, n, 1)
    expected = in_float64(values.astype(np.float64), np.array(weights, np.float64))
    np.testing.assert_allclose(result(values, weights), expected, atol=1e-4)


def test_rows_outside_of_what_most_share_count_little() -> None:
    common = normal(1, 3, SIZE)
    honest = np.abs(normal(2, 7, 3)) @ common
    hostile = -np.float32(50) * normal(3, 2, SIZE)
    found = result(np.concatenate([hostile, honest]))
    units = honest / np.linalg.norm(honest, axis=1)[:, None]
    cosine = found @ units.mean(axis=0) / np.linalg.norm(found) / np.linalg.norm(units.mean(axis=0))
    assert cosine > 0.9
    assert np.linalg.norm(found) <= np.median(np.linalg.norm(honest, axis=1)) * 1.5


def test_the_result_is_never_longer_than_the_median_row() -> None:
    for seed in range(5):
        values = normal(seed, 9, SIZE) * np.float32(10.0) ** normal(seed + 50, 9, 1)
        assert np.linalg.norm(result(values)) <= np.median(np.linalg.norm(values, axis=1)) * (1 + 1e-6)


def test_equal_rows_give_that_row_and_zeros_give_zero() -> None:
    values = np.repeat(normal(1, 1, SIZE), 7, axis=0)
    np.testing.assert_allclose(result(values), values[0], rtol=1e-5)
    np.testing.assert_allclose(result(values[:1], [4]), values[0], rtol=1e-5)
    assert not result(np.zeros((7, SIZE), np.float32)).any()


def test_zeros_and_lengths_far_off_are_masked_and_count_as_nothing() -> None:
    values = normal(1, 7, SIZE)
    values[0] = 0
    values[1] *= np.float32(2.0**-70)
    values[2] *= np.float32(2.0**17)
    mix = flag_mix(gram(rows_of(values), SIZE, one_by_one), (1,) * 7)
    assert mix.coefficients[:3] == (0, 0, 0)
    assert all(mix.coefficients[3:])
    values[3:] = 0
    assert not result(values).any()


def test_neither_pieces_nor_threads_change_a_bit() -> None:
    rows = weighted(normal(1, 7, 30_001))
    first = whole(flag_aggregator(rows, 30_001, one_by_one), 30_001).tobytes()
    for length in (256, 65536):
        assert whole(flag_aggregator(rows, 30_001, in_pieces(length, 2)), 30_001).tobytes() == first


def test_no_rows_are_an_error() -> None:
    with pytest.raises(ValueError, match="no rows to aggregate"):
        flag_aggregator([], SIZE, one_by_one)
