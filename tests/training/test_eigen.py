"""Jacobi's iteration finds what LAPACK finds."""

import numpy as np
import pytest

from shoal.training.eigen import SIDE_MAX, eigen


@pytest.mark.parametrize("side", [1, 2, 3, 16, SIDE_MAX])
@pytest.mark.parametrize("rank", [1, 5, 100])
def test_values_and_vectors_are_those_of_lapack(side: int, rank: int) -> None:
    factor = np.random.default_rng(side).standard_normal((side, rank)) * 10.0 ** -np.arange(rank).clip(max=6)
    matrix = factor @ factor.T
    pairs = eigen(matrix.tolist())
    largest = pairs[0][0]
    np.testing.assert_allclose([value for value, _ in pairs], np.linalg.eigvalsh(matrix)[::-1], atol=1e-13 * largest)
    vectors = np.array([vector for _, vector in pairs])
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(side), atol=1e-12)
    np.testing.assert_allclose(
        vectors.T @ np.diag([value for value, _ in pairs]) @ vectors, matrix, atol=1e-12 * largest
    )


def test_equal_values_and_zeros_keep_the_order_of_rows() -> None:
    assert eigen([[2.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 2.0]]) == [
        (3.0, [0.0, 1.0, 0.0]),
        (2.0, [1.0, 0.0, 0.0]),
        (2.0, [0.0, 0.0, 1.0]),
    ]
    assert [value for value, _ in eigen([[0.0, 0.0], [0.0, 0.0]])] == [0.0, 0.0]
    assert eigen([]) == []


def test_negative_values_come_last() -> None:
    values = [value for value, _ in eigen([[0.0, 1.0], [1.0, 0.0]])]
    np.testing.assert_allclose(values, [1, -1], atol=1e-15)


def test_large_matrices_are_refused() -> None:
    with pytest.raises(ValueError, match="up to 64"):
        eigen([[0.0] * 65] * 65)
