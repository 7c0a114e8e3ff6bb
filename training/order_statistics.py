"""Rules that look at each coordinate alone, where they order the rows' values: median and trimmed mean, with
weights and without.

Equal to the bit on every member: minima and maxima round nothing, and sums go from the smallest value to the largest.
Weights are integers and are cut up as integers; each is rounded to float32 once, where it multiplies. Of 0.0 and -0.0
some processors take the one for the smaller and some either, so every result that is 0 is 0.0; none is denormal
(codecs.flush_tiny sees to both). Where all weights are equal the weighted rules give the same bits as the others.

What they have in common: attackers of less than half the weight can move a value to the edge of what the others say,
never beyond. They can do so in all coordinates at once, though, and where members' data differ the edge is far off, and
the middle away from the mean: there the median is wrong without any attacker. Behind nearest-neighbour mixing they do
far better (Allouah et al. 2023, Fixing by mixing).
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from .codecs import flush_tiny
from .rows import Weighted, placed
from .sorting_network import select

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .tensors import Vector

    Keys = NDArray[np.float64]  # ordered as the values in them, whose rows' places they hold

_PLACE = 2**20 - 1  # the bits of a key that hold a row's place; beside a float32's 24 there are 29 in a float64
_ZERO = 2.0**-200  # stands for 0 in keys


class CoordinateMedian:
    """The middle one of the n values in each coordinate; of an even n, the mean of the middle two. Weights are ignored.

    Source: Yin, Chen, Ramchandran and Bartlett 2018 (Byzantine-robust distributed learning), definition 1.
    Cost: O(n log^2 n) minima and maxima per coordinate; 90 for n = 16.
    Breakdown point: 1/2. f attackers need n > 2f: then the result lies between two honest values.
    Beaten by: IPM times 10 and sign flips by 4 of 10, mimics and ALIE where
    members' data differ; Sybils, each of which counts as much as anybody.
    """

    def __init__(self, rows: Sequence[Weighted]) -> None:
        """Raises: ValueError for no rows."""
        _check(len(rows), 0)
        self._rows = rows

    def values(self, start: int, stop: int, out: "Vector | None" = None) -> "Vector":
        return median_of([weighted.row.values(start, stop) for weighted in self._rows], out=out)


def median_of(pieces: "Sequence[Vector]", spare: "Vector | None" = None, out: "Vector | None" = None) -> "Vector":
    """As `CoordinateMedian`, of a piece of each row: in `out`, or else in the memory of these and `spare`, which are
    used up either way.
    """
    count = len(pieces)
    middle = select(pieces, (count - 1) // 2, count // 2 + 1, spare, is_ordered=False)
    return _midpoint(middle[0], middle[-1], out)


class TrimmedMean:
    """In each coordinate, the mean of all values but the f lowest and the f highest. Weights are ignored.

    (x_(f+1) + ... + x_(n-f)) / (n - 2f), added up in this order, where x_(1) <= ... <= x_(n).

    Source: Yin, Chen, Ramchandran and Bartlett 2018 (Byzantine-robust distributed learning), definition 2.
    Cost: O(n log^2 n) minima and maxima per coordinate; 126 for n = 16.
    Breakdown point: f/n < 1/2; n > 2f. Up to f attackers leave the result between two honest values.
    Beaten by: more than f attackers; IPM times 10 and sign flips by 4 of 10,
    ALIE, which stays within what is kept, where members' data differ; Sybils.
    """

    def __init__(self, rows: Sequence[Weighted], f: int) -> None:
        """Raises: ValueError where n > 2f does not hold."""
        _check(len(rows), f)
        self._rows, self._f = rows, f

    def values(self, start: int, stop: int, out: "Vector | None" = None) -> "Vector":
        import numpy as np

        pieces = [weighted.row.values(start, stop) for weighted in self._rows]
        total, *others = select(pieces, self._f, len(pieces) - self._f)
        for piece in others:
            total += piece
        total /= np.float32(1 + len(others))
        return placed(flush_tiny(total), out)


class WeightedMedian:
    """In each coordinate, the value at which half of the total weight W is reached, from the lowest value on.

    The first x_(j) with 2 (w_(1) + ... + w_(j)) > W; where 2 (w_(1) + ... + w_(j)) is exactly W at some j, so that one
    half is below and one above, the mean of x_(j) and x_(j+1).

    Source: Edgeworth 1888 for weights; Yin et al. 2018, definition 1, for its use.
    Cost: the median's on values of 8 bytes, and O(n) operations more: four times the median's time for n = 16.
    Breakdown point: 1/2 of the weight, in however many hands. Below it the result lies between two honest values.
    Beaten by: what beats the median; a member that obtains half of the weight decides alone.
    """

    def __init__(self, rows: Sequence[Weighted]) -> None:
        """Raises: ValueError for no rows."""
        _check(len(rows), 0)
        self._rows = rows
        self._weights = _reduced(rows)
        half, odd = divmod(sum(self._weights), 2)
        self._targets = (half + 1,) if odd else (half, half + 1)

    def values(self, start: int, stop: int, out: "Vector | None" = None) -> "Vector":
        import numpy as np

        weights = np.array(self._weights, np.int64)
        first, last = _ranks(self._weights, self._targets[0], self._targets[-1])
        ordered = select(_keys(self._rows, start, stop), 0, last + 1)
        reached = np.zeros(stop - start, np.int64)
        for keys in ordered[:first]:
            reached += _weights_of(keys, weights)
        middle = [_reaching(ordered[first:], weights, reached, target) for target in self._targets]
        return _midpoint(middle[0], middle[-1], out)


class WeightedTrimmedMean:
    """In each coordinate, the weighted mean without the lowest and the highest values that weigh T each.

    W is the total weight once all are divided by their greatest common divisor, T what the f heaviest rows have of it.
    The value at the border counts with what is left of its weight: w'_(j) is the length of what
    [w_(1) + ... + w_(j-1), w_(1) + ... + w_(j)] and [T, W - T] share, and the result
    (x_(1) w'_(1) + ... + x_(n) w'_(n)) / (W - 2T), with each w', product and sum and the quotient rounded to float32.
    Of equal values the row that comes first is nearer to 0 in that order, which changes no more than the last bits.

    Source: Yin et al. 2018, definition 2; for weights Huber 1981 (Robust Statistics), section 3.3, of which this is the
    alpha-trimmed mean of the weighted empirical distribution.
    Cost: the trimmed mean's on values of 8 bytes, and O(n) operations more: three times its time for n = 16.
    Breakdown point: f rows, which must weigh less than half together. Whichever f are attackers', the result lies
    between two honest values, up to rounding.
    Beaten by: what beats the trimmed mean.
    """

    def __init__(self, rows: Sequence[Weighted], f: int) -> None:
        """Raises: ValueError where n > 2f does not hold, or the f heaviest weigh half or more."""
        _check(len(rows), f)
        self._rows = rows
        self._weights = _reduced(rows)
        self._trimmed = sum(sorted(self._weights)[len(rows) - f :])
        if 2 * self._trimmed >= sum(self._weights):
            raise ValueError(f"the {f} heaviest of {len(rows)} rows weigh half or more: bound weights first (rules.py)")

    def values(self, start: int, stop: int, out: "Vector | None" = None) -> "Vector":
        import numpy as np

        low, high = self._trimmed, sum(self._weights) - self._trimmed
        weights = np.array(self._weights, np.int64)
        first, last = _ranks(self._weights, low + 1, high)
        ordered = select(_keys(self._rows, start, stop), 0, last + 1)
        reached = np.zeros(stop - start, np.int64)
        for keys in ordered[:first]:
            reached += _weights_of(keys, weights)
        counted = np.full(stop - start, low, np.int64)  # how far into [T, W - T] the values so far reach
        total = np.zeros(stop - start, np.float32)
        for keys in ordered[first:]:
            reached += _weights_of(keys, weights)
            reach = np.minimum(reached, high)
            np.maximum(reach, low, out=reach)
            counts = np.subtract(reach, counted, out=counted).astype(np.float32)
            counted = reach
            counts *= _values_of(keys)
            total += counts
        total /= np.float32(high - low)
        return placed(flush_tiny(total), out)


def _check(count: int, f: int) -> None:
    if not 0 <= 2 * f < count:
        raise ValueError(f"{count} rows cannot outweigh f = {f} attackers: f >= 0 and at least 2f + 1 rows are needed")


def _midpoint(lower: "Vector", upper: "Vector", out: "Vector | None") -> "Vector":
    """In place of the first if not in `out`. Rows are bounded, so the sum does not overflow; half of it is exact."""
    import numpy as np

    middle = np.add(lower, upper, out=lower if out is None else out)
    middle *= np.float32(0.5)
    return flush_tiny(middle)


def _reduced(rows: Sequence[Weighted]) -> list[int]:
    """The weights divided by what divides them all, so that only their ratios count: equal ones become 1."""
    divisor = math.gcd(*(weighted.weight for weighted in rows))
    return [weighted.weight // divisor for weighted in rows]


def _ranks(weights: Sequence[int], low: int, high: int) -> tuple[int, int]:
    """The first rank at which the weight up to it can be `low`, and the first at which it must be `high`."""
    heaviest = list(accumulate(sorted(weights, reverse=True)))
    lightest = list(accumulate(sorted(weights)))
    return bisect_left(heaviest, low), bisect_left(lightest, high)


def _keys(rows: Sequence[Weighted], start: int, stop: int) -> "list[Keys]":
    """Each row's values as float64, with the row's place in the bits that a float32 does not have.

    0 has no room for it: it would become denormal, and a processor that is set to flush these compares them as 0. So it
    is _ZERO instead, which is nearer to 0 than all else and too small to change anything else that it is added to.
    """
    import numpy as np

    pieces = list(np.empty((len(rows), stop - start), np.float64))
    for place, (keys, weighted) in enumerate(zip(pieces, rows, strict=True)):
        keys[:] = weighted.row.values(start, stop)
        keys += _ZERO
        bits = keys.view(np.int64)
        bits |= place
    return pieces


def _weights_of(keys: "Keys", weights: "NDArray[np.int64]") -> "NDArray[np.int64]":
    import numpy as np

    return weights.take(keys.view(np.int64) & np.int64(_PLACE), mode="clip")  # "raise" takes a copy more


def _reaching(
    pieces: "Sequence[Keys]", weights: "NDArray[np.int64]", before: "NDArray[np.int64]", target: int
) -> "Vector":
    """In each coordinate, the first value with which so much weight is reached, if as much as `before` was already; it
    is with the last one.

    With masks of bits, 0 and -1: choosing by booleans takes ten times as long, as the processor guesses wrong.
    """
    import numpy as np

    surplus = before - np.int64(target)  # less than 0 until the target is reached
    found = pieces[0].view(np.int64).copy()
    for earlier, keys in pairwise(pieces):
        surplus += _weights_of(earlier, weights)
        found ^= (surplus >> np.int64(63)) & (earlier.view(np.int64) ^ keys.view(np.int64))
    return _values_of(found.view(np.float64))


def _values_of(keys: "Keys") -> "Vector":
    """Exact, as what is left of a key is the float32 that it was; _ZERO becomes 0."""
    import numpy as np

    return (keys.view(np.int64) & np.int64(~_PLACE)).view(np.float64).astype(np.float32)
