"""Rules that average all rows, some of them less: mean, norm-clipped mean, geometric median, centered clipping.

Each is a function of the rows' Gram matrix that gives a `Mix`, and one that reads rows and gives a row. What combining
and weights are, and why the bits are equal on all members: combinations.py.
"""

import math
from collections.abc import Sequence
from typing import Final

from .combinations import SHARE, combined, measure, shared, taken_apart, weighted_median
from .gram import Gram, Mix
from .rows import Row, Sweep, Weighted

WEISZFELD_ROUNDS: Final = 32  # on n x n numbers; the sum is then least but for 1e-3 of it at worst, mostly 1e-12
LENGTHS: Final = 2  # of the median row, where clipped_mean clips
SMOOTHING: Final = 2.0**-10  # of the radius that holds half of the rows: nearer than this counts as this near


def mean(rows: Sequence[Weighted], size: int, sweep: Sweep) -> Row:
    """sum(w x) / sum(w). Needs no measuring, so `size` and `sweep` go unused.

    O(n d). Breakdown point 0: one hostile row moves it anywhere. Beaten by every large row (IPM of 10 times the mean).
    """
    basis, weights = taken_apart(rows)
    return combined(basis, Mix(weights, sum(weights)))


def clipped_mean(rows: Sequence[Weighted], size: int, sweep: Sweep) -> Row:
    """sum(w x min(1, 2 m / |x|)) / sum(w), m the (weighted, lower) median of the norms |x|.

    Norm clipping: Sun et al. 2019 (arXiv 1911.07963), with a bound that follows the rows. At m itself, honest rows that
    are longer because their data are unusual lose, and so does the model: up to 5% of its loss (docs/robustness.md).
    O(n^2 d). Any n; f < n/2 keeps m within the honest norms: hostile rows then add at most 2 f m / n, and the result is
    no longer than 2 m. Beaten by rows that point the wrong way at ordinary length: sign flip, IPM, ALIE. Those lose
    their weight by reputation; and then it is the mean but for few rows.
    """
    basis, weights = taken_apart(rows)
    return combined(basis, clipped_mix(measure(basis, size, sweep), weights))


def clipped_mix(gram: Gram, weights: Sequence[int]) -> Mix:
    """For `clipped_mean`."""
    squares = [gram.products[place][place] for place in range(len(gram))]
    bound = LENGTHS**2 * weighted_median(squares, weights)
    if max(squares) <= bound:
        return Mix(tuple(weights), sum(weights))
    total = sum(weights)
    return Mix(
        tuple(round(w / total * _clip(bound, square) * SHARE) for w, square in zip(weights, squares, strict=True)),
        SHARE,
    )


def geometric_median(rows: Sequence[Weighted], size: int, sweep: Sweep) -> Row:
    """The row with the least sum(w |z - x|), nearly.

    Smoothed Weiszfeld (Pillutla et al. 2022, RFA, arXiv 1912.13445, algorithm 2): z <- sum(w x / r) / sum(w / r), with
    r = max(|z - x|, SMOOTHING times the scale). RFA's smoothing is an absolute length, which suits no two models; here
    the scale is how far from the medoid (the row with the least sum of distances) more than half of the weight lies.
    RFA starts from the mean, which one row moves anywhere; this starts from the mean of the rows within that radius.

    O(n^2 d). n > 2 f: breakdown point 1/2. The median lies within 2 (n - f) / (n - 2 f) r of the honest mean, where r
    is how far honest rows are from it. A row with more than half of the weight is the result. Beaten by ALIE, by sign
    flips near f = n/2, and by honest data that differ much: a minority is outvoted.
    """
    basis, weights = taken_apart(rows)
    return combined(basis, geometric_median_mix(measure(basis, size, sweep), weights))


def geometric_median_mix(gram: Gram, weights: Sequence[int]) -> Mix:
    """For `geometric_median`. Lengths are in the matrix's own unit."""
    places = range(len(gram))
    sums = [math.fsum(weights[j] * math.sqrt(gram.squared(i, j)) for j in places) for i in places]
    medoid = min(places, key=lambda place: (sums[place], place))
    squares = [gram.squared(medoid, place) for place in places]
    radius = _majority(squares, weights)
    near = tuple(weight if square <= radius else 0 for weight, square in zip(weights, squares, strict=True))
    mix = Mix(near, sum(near))
    if radius == 0:  # more than half of the weight is here, and so is the median
        return mix
    least = SMOOTHING * math.sqrt(radius)
    for _ in range(WEISZFELD_ROUNDS):
        lengths = [max(math.sqrt(square) / mix.denominator, least) for square in gram.squared_from(mix)]
        mix = shared([weight / length for weight, length in zip(weights, lengths, strict=True)])
    return mix


def centered_clipping(rows: Sequence[Weighted], previous: Row, iterations: int, size: int, sweep: Sweep) -> Row:
    """v <- v + sum(w (x - v) min(1, r / |x - v|)) / sum(w), `iterations` times, from the previous aggregate on.

    Karimireddy, He, Jaggi 2021 (Learning from History, arXiv 2012.10333), section 4. Their radius r is a constant to be
    tuned; here it is the (weighted, lower) median of the rows' distances to v, anew in each iteration. Before there is
    an aggregate, `previous` is a row of zeros: Combination((), Mix((), 1)).

    O(n^2 d), n + 1 rows. Theory: f / n up to about 0.1; f < n/2 keeps r within the honest distances, and then hostile
    rows move v by f r / n an iteration at most. Holds best of all with worker momentum. Beaten by IPM of 10 times the
    mean at f = 4 of 10, and by attacks that stay within r and know v (ROP, arXiv 2208.09894).

    Raises:
        ValueError: there are no rows, or `iterations` is below 1.
    """
    basis, weights = taken_apart(rows)
    if iterations < 1:
        raise ValueError(f"{iterations} iterations of centered clipping: at least 1 is needed")
    everything = (*basis, previous)
    return combined(everything, centered_clipping_mix(measure(everything, size, sweep), weights, iterations))


def centered_clipping_mix(gram: Gram, weights: Sequence[int], iterations: int) -> Mix:
    """For `centered_clipping`: `gram` has the previous aggregate in its last row, which has no weight."""
    total = sum(weights)
    mix = Mix((*[0] * len(weights), SHARE), SHARE)
    for _ in range(iterations):
        squares = gram.squared_from(mix)[:-1]
        bound = weighted_median(squares, weights)
        steps = [round(w / total * _clip(bound, square) * SHARE) for w, square in zip(weights, squares, strict=True)]
        rest = SHARE - sum(steps)
        moved = [(old * rest + SHARE // 2) // SHARE + step for old, step in zip(mix.coefficients, steps, strict=False)]
        mix = Mix((*moved, SHARE - sum(moved)), SHARE)
    return mix


def _clip(bound: int, square: int) -> float:
    """min(1, length / length), of squared lengths."""
    return 1.0 if square <= bound else math.sqrt(bound / square)


def _majority(values: Sequence[int], weights: Sequence[int]) -> int:
    """The least of `values` that more than half of the weight does not exceed: the upper median."""
    return -weighted_median([-value for value in values], weights)
