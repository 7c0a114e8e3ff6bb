"""The flag aggregator: rows are projected into the subspace that most of them nearly lie in, whatever their lengths.

What combining and weights are, and why the bits are equal on all members: combinations.py, eigen.py.
"""

import math
from collections.abc import Sequence
from typing import Final

from .combinations import SHARE, combined, measure, taken_apart, weighted_median
from .eigen import eigen
from .gram import Gram, Mix
from .rows import Row, Sweep, Weighted

REWEIGHTINGS: Final = 5  # after the first decomposition; a reference stops at one, before rows out of line lose weight
SINE_LEAST: Final = 2.0**-20  # added to squared sines, that rows within the subspace do not count without bound
LENGTHS_MAX: Final = 2**16  # a row this many times longer or shorter than the median is left out
RANK_LEAST: Final = 2.0**-40  # of the largest eigenvalue: below it there is no direction, only rounding


def flag_aggregator(rows: Sequence[Weighted], size: int, sweep: Sweep) -> Row:
    """m * sum(w Y Y^T x / |x|) / sum(w), with Y of (n + 1) // 2 orthonormal columns and m the median of the norms.

    Almansoori et al. 2023 (arXiv 2302.05865). Y makes the sum of w * sine(x, Y) small, by reweighting:
    left singular vectors of the rows times sqrt(w / sine), anew with each Y. Mended: the result has a length (the
    weighted, lower median of the norms, where the reference gives a direction), directions without rows and rows
    without a direction are masked (zeros, and lengths that are LENGTHS_MAX off), and reweighting goes on. In the
    literature rows have no weights; here they multiply, and the number of columns counts rows.

    O(n^2 d), then 0.02 s for n = 16 and some seconds for 64. No breakdown point is proved; the result is never longer
    than the median norm, which f < n/2 keeps within the honest norms. Beaten by sign flip, IPM and label flip at
    f = 4 of 10: hostile rows that are equal lie in the subspace.

    Raises:
        ValueError: there are no rows, or more than eigen.SIDE_MAX.
    """
    basis, weights = taken_apart(rows)
    return combined(basis, flag_mix(measure(basis, size, sweep), weights))


def flag_mix(gram: Gram, weights: Sequence[int]) -> Mix:
    """For `flag_aggregator`."""
    squares = [gram.products[place][place] for place in range(len(gram))]
    median = weighted_median(squares, weights)
    reach = LENGTHS_MAX**2
    places = [place for place, square in enumerate(squares) if square and median <= square * reach <= median * reach**2]
    coefficients = [0] * len(gram)
    if places:
        cosines = [[gram.cosine(i, j) for j in places] for i in places]
        means = _projected_mean(cosines, [weights[place] / sum(weights) for place in places])
        for place, share in zip(places, means, strict=True):
            coefficients[place] = round(share * math.sqrt(median / squares[place]) * SHARE)
    return Mix(tuple(coefficients), SHARE)


def _projected_mean(cosines: Sequence[Sequence[float]], shares: Sequence[float]) -> list[float]:
    """Coefficients of the unit rows in sum(share * Y Y^T row)."""
    count = len(shares)
    columns = (count + 1) // 2
    factors = [math.sqrt(share) for share in shares]  # of the unit rows; the first Y is of all alike
    vectors: list[list[float]] = []
    for last in range(REWEIGHTINGS + 1):
        scaled = [[factors[i] * factors[j] * cosines[i][j] for j in range(count)] for i in range(count)]
        pairs = eigen(scaled)[:columns]
        kept = [(value, vector) for value, vector in pairs if value > RANK_LEAST * pairs[0][0]]
        vectors = [vector for _, vector in kept]
        if last == REWEIGHTINGS:
            break
        within = [math.fsum(value * v[i] * v[i] for value, v in kept) / factors[i] / factors[i] for i in range(count)]
        sines = [math.sqrt(max(0.0, 1.0 - square) + SINE_LEAST) for square in within]
        factors = [math.sqrt(share / sine) for share, sine in zip(shares, sines, strict=True)]
    means = [math.fsum(share * v[i] / factors[i] for i, share in enumerate(shares)) for v in vectors]
    return [factors[i] * math.fsum(v[i] * mean for v, mean in zip(vectors, means, strict=True)) for i in range(count)]
