"""Eigenvalues and eigenvectors of small symmetric matrices, the same bits on every machine.

LAPACK's depend on the library, its threads and the processor. Jacobi's iteration (1846; Golub and Van Loan, Matrix
Computations, section 8.5) is + - * / and sqrt of scalars in a fixed order, which IEEE 754 rounds in one way only.
"""

import math
from collections.abc import Sequence
from typing import Final

SIDE_MAX: Final = 64  # 0.5 s
SWEEPS_MAX: Final = 30  # it converges quadratically: 6 to 10 are usual
NEGLIGIBLE: Final = 2.0**-60  # of the largest entry


def eigen(matrix: Sequence[Sequence[float]]) -> list[tuple[float, list[float]]]:
    """(eigenvalue, unit eigenvector) of a symmetric matrix, (n, n), the largest first. O(n^3).

    Errors are some 2^-50 of the largest entry. Which vectors belong to equal eigenvalues the order of rows decides.

    Raises:
        ValueError: n is above SIDE_MAX.
    """
    count = len(matrix)
    if count > SIDE_MAX:
        raise ValueError(f"a matrix of {count} rows: up to {SIDE_MAX} are decomposed")
    rows = [list(row) for row in matrix]
    vectors = [[float(i == j) for j in range(count)] for i in range(count)]  # a row each
    least = NEGLIGIBLE * max((abs(value) for row in rows for value in row), default=0.0)
    for _ in range(SWEEPS_MAX):
        rotated = False
        for p in range(count):
            for q in range(p + 1, count):
                if abs(rows[p][q]) > least:
                    _rotate(rows, vectors, p, q)
                    rotated = True
        if not rotated:
            break
    order = sorted(range(count), key=lambda place: (-rows[place][place], place))
    return [(rows[place][place], vectors[place]) for place in order]


def _rotate(rows: list[list[float]], vectors: list[list[float]], p: int, q: int) -> None:
    """Turn the plane of p and q so that entry (p, q) becomes 0."""
    off = rows[p][q]
    theta = (rows[q][q] - rows[p][p]) / (2 * off)
    tangent = 1 / (abs(theta) + math.sqrt(theta * theta + 1))
    if theta < 0:
        tangent = -tangent
    cosine = 1 / math.sqrt(tangent * tangent + 1)
    sine = tangent * cosine
    at_p, at_q = rows[p][p] - tangent * off, rows[q][q] + tangent * off
    rows[p], rows[q] = _turned(rows[p], rows[q], cosine, sine)
    vectors[p], vectors[q] = _turned(vectors[p], vectors[q], cosine, sine)
    rows[p][p], rows[q][q], rows[p][q], rows[q][p] = at_p, at_q, 0.0, 0.0
    for place, row in enumerate(rows):
        if place not in (p, q):
            row[p], row[q] = rows[p][place], rows[q][place]


def _turned(
    left: Sequence[float], right: Sequence[float], cosine: float, sine: float
) -> tuple[list[float], list[float]]:
    return (
        [cosine * a - sine * b for a, b in zip(left, right, strict=True)],
        [sine * a + cosine * b for a, b in zip(left, right, strict=True)],
    )
