"""The exact Gram matrix of rows: all that rules need which look at distances alone.

Each row is scaled by its own power of two, so that its largest magnitude comes to between 2^19 and 2^20, and rounded to
integers. A product of two has 40 bits and one more for the sign, so sums over 8,192 columns stay up to 2^53: float64
holds them and whatever BLAS makes of them on the way exactly, in any order, fused or not. From there on they are added
up as integers. So the matrix is the same on every machine, for any size of the pieces and any number of threads.

What rounding costs: up to 2^-20 of the row's largest magnitude per value, so values below that may vanish. With k as
the largest magnitude over the root mean square (about 5 for Gaussian values, thousands for some gradients), a row moves
by at most k 2^-20 of its norm, and a distance is off by at most as much as both rows move together. That is little
beside the distance unless rows nearly coincide: whether they differ by nothing or by 2 k 2^-20 of their norm cannot be
told. Rows that are equal to the bit are at distance 0. Who makes his own row coarse by one huge value does so to no
other.

Combinations of rows are measured by the same matrix: they need no second sweep, and no rounding beyond the first.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from .rows import Row, Sweep

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BITS: Final = 20  # of a rounded value
COLUMNS: Final = 2**13  # over which float64 adds up: 2^(2 * BITS) * COLUMNS = 2^53
GROUP: Final = 2**9  # columns of one product, and
SIDE: Final = 16  # rows on its left: larger ones BLAS rearranges first or spreads over threads, in twice the time
LOW: Final = 26  # bits: sums are kept in two int64, so that d below 2^49 cannot overflow them


class Mix(NamedTuple):
    """sum(coefficients[i] * row i) / denominator."""

    coefficients: tuple[int, ...]
    denominator: int  # at least 1


@dataclass(frozen=True, slots=True)
class Gram:
    """Inner products of n rows as integers times a `unit` that is the same for all.

    Functions give whole numbers of units where rules only compare, and floats, correctly rounded, where they measure.
    """

    products: tuple[tuple[int, ...], ...]  # (n, n), symmetric
    unit: Fraction  # the value of 1 in it, > 0

    def __len__(self) -> int:
        return len(self.products)

    def inner(self, i: int, j: int) -> float:
        """<row i, row j>."""
        return float(self.products[i][j] * self.unit)

    def norm(self, i: int) -> float:
        """The Euclidean norm of row i."""
        return math.sqrt(float(self.products[i][i] * self.unit))

    def cosine(self, i: int, j: int) -> float:
        """Of the angle between two rows, 0 if one of them is 0."""
        squares = self.products[i][i] * self.products[j][j]
        if squares == 0:
            return 0.0
        square = math.sqrt(self.products[i][j] ** 2 / squares)
        return min(square, 1.0) if self.products[i][j] >= 0 else -min(square, 1.0)

    def squared(self, i: int, j: int) -> int:
        """The squared distance of two rows, in units."""
        return self.products[i][i] + self.products[j][j] - 2 * self.products[i][j]

    def distance(self, i: int, j: int) -> float:
        """The distance of two rows."""
        return math.sqrt(float(self.squared(i, j) * self.unit))

    def squared_from(self, mix: Mix) -> list[int]:
        """The squared distance of each row from what `mix` makes of all, in units / denominator^2."""
        denominator = mix.denominator
        along = [_dot(line, mix.coefficients) for line in self.products]
        own = _dot(along, mix.coefficients)
        return [
            denominator * (denominator * self.products[i][i] - 2 * along[i]) + own for i in range(len(self.products))
        ]

    def part(self, places: Sequence[int]) -> "Gram":
        """The matrix of some of the rows, in this order."""
        return Gram(tuple(tuple(self.products[i][j] for j in places) for i in places), self.unit)

    def mixed(self, mixes: Sequence[Mix]) -> "Gram":
        """The matrix of combinations of the rows, which share one denominator. Exact."""
        denominator = mixes[0].denominator
        if any(mix.denominator != denominator for mix in mixes):
            raise ValueError("combinations need one denominator to be measured together")
        along = [[_dot(line, mix.coefficients) for line in self.products] for mix in mixes]
        products = tuple(tuple(_dot(line, mix.coefficients) for mix in mixes) for line in along)
        return Gram(products, self.unit / denominator**2)


def gram(rows: Sequence[Row], size: int, sweep: Sweep) -> Gram:
    """The matrix of `rows`, of `size` values each, in two sweeps: one for their largest magnitudes, one for products.

    O(n^2 d). Memory: 64 KiB per row for each piece that is under way, beside the piece.
    """
    import numpy as np

    if not rows:
        raise ValueError("no rows to measure")
    peaks = np.zeros(len(rows), np.float32)
    for found in sweep(partial(_peaks, rows), size):
        np.maximum(peaks, found, out=peaks)
    exponents = [math.frexp(float(peak))[1] - BITS for peak in peaks]  # of an integer's unit, row by row
    totals = np.zeros((2, len(rows), len(rows)), np.int64)
    for sums in sweep(partial(_products, rows, exponents), size):
        totals += sums
    least = min((exponent for exponent, peak in zip(exponents, peaks, strict=True) if peak), default=0)
    shifts = [exponent - least if peak else 0 for exponent, peak in zip(exponents, peaks, strict=True)]
    high, low = (np.triu(totals) + np.triu(totals, 1).transpose(0, 2, 1)).tolist()
    products = tuple(
        tuple(((high[i][j] << LOW) + low[i][j]) << (shifts[i] + shifts[j]) for j in range(len(rows)))
        for i in range(len(rows))
    )
    return Gram(products, Fraction(2) ** (2 * least))


def _peaks(rows: Sequence[Row], start: int, stop: int) -> "NDArray[np.float32]":
    """(n,): the largest magnitude of each."""
    import numpy as np

    pieces = (row.values(start, stop) for row in rows)
    return np.array([max(piece.max(), -piece.min()) for piece in pieces], np.float32)


def _products(rows: Sequence[Row], exponents: Sequence[int], start: int, stop: int) -> "NDArray[np.int64]":
    """(2, n, n): the sums of products over a piece are the first times 2^LOW plus the second, which is not negative.
    Below the diagonal they are anything.

    A block adds at most 2^53, so 2^27 to the first and less than 2^26 to the second: d stays below 2^49.
    """
    import numpy as np

    count = len(rows)
    totals = np.zeros((2, count, count), np.int64)
    rounded = _rounded(rows, exponents, start, stop).reshape(count, -1, COLUMNS // GROUP, GROUP)
    # The row too many is 0: BLAS multiplies a matrix with its own transpose by another routine (syrk), which is slower
    # for so few rows.
    groups = np.zeros((COLUMNS // GROUP, count + 1, GROUP))
    sums = np.zeros((count, count + 1))
    for block in rounded.transpose(1, 2, 0, 3):
        groups[:, :count] = block
        for first in range(0, count, SIDE):
            last = min(first + SIDE, count)
            np.matmul(groups[:, first:last], groups[:, first:].transpose(0, 2, 1)).sum(0, out=sums[first:last, first:])
        whole = sums[:, :count].astype(np.int64)
        totals[0] += whole >> LOW
        totals[1] += whole & (2**LOW - 1)
    return totals


def _rounded(rows: Sequence[Row], exponents: Sequence[int], start: int, stop: int) -> "NDArray[np.float32]":
    """(n, columns): values `start` to `stop` as integers, filled up with zeros to a multiple of COLUMNS."""
    import numpy as np

    length = stop - start
    rounded = np.empty((len(rows), -(-length // COLUMNS) * COLUMNS), np.float32)
    rounded[:, length:] = 0
    for line, row, exponent in zip(rounded[:, :length], rows, exponents, strict=True):
        unit = np.float32(math.ldexp(1.0, -exponent))  # exact: a power of two, and nothing leaves float32's range
        np.rint(np.multiply(row.values(start, stop), unit, out=line), out=line)
    return rounded


def _dot(left: Sequence[int], right: Sequence[int]) -> int:
    return sum(a * b for a, b in zip(left, right, strict=True) if b)
