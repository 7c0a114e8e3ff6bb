"""The exact Gram matrix of rows: all that rules need which look at distances alone.

Of each row, every block of 8,192 values is scaled by its own power of two, so that its largest magnitude comes to
between 2^19 and 2^20, and rounded to integers. A product of two has 40 bits and one more for the sign, so sums over a
block stay up to 2^53: float64 holds them and whatever BLAS makes of them on the way exactly, in any order, fused or
not. From there on they are added up as integers. So the matrix is the same on every machine, for any size of the pieces
and any number of threads; and one sweep is enough, as no more than a block has to be known before it is rounded.

What rounding costs: up to 2^-20 of the block's largest magnitude per value, so values below that may vanish. With k as
a block's largest magnitude over the root mean square (about 4 for Gaussian values, thousands for some gradients), a row
moves by at most k 2^-20 of its norm, and a distance is off by at most as much as both rows move together. That is
little beside the distance unless rows nearly coincide: whether they differ by nothing or by 2 k 2^-20 of their norm
cannot be told. Rows that are equal to the bit are at distance 0. Who makes his own row coarse by one huge value does so
to one block of it, and to no other row.

Combinations of rows are measured by the same matrix: they need no second sweep, and no rounding beyond the first.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Final, NamedTuple

from .rows import Rooms, Row, Sweep, longer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .tensors import Vector

BITS: Final = 20  # of a rounded value
COLUMNS: Final = 2**13  # over which float64 adds up: 2^(2 * BITS) * COLUMNS = 2^53
FEW: Final = 16  # rows whose pairs are multiplied one by one, as a product of matrices takes up to twice as long
GROUP: Final = 2**9  # columns of one product of matrices, and
SIDE: Final = 16  # rows on its left: larger ones BLAS rearranges first or spreads over threads, in twice the time
# Blocks that are measured at once: of fewer much of the time is Python's, and two threads wait for one another.
BLOCKS: Final = 68  # of all rows together, 2.2 MB, or one of each; and
BLOCKS_MOST: Final = 8  # of each
SHIFT_MOST: Final = 6  # so that int64 holds BLOCKS_MOST sums of up to 2^53
LOW: Final = 26  # bits: of sums that are kept in two int64
SPREAD: Final = 16  # by how much exponents may differ of what these add up, and
ADDED_MOST: Final = 2**9  # how many terms
TOTALS: Final = 2 * (-149 - BITS) - SPREAD  # the exponent of totals' unit: float32's least value has 2^-149


# Makes a further row's values `start` to `stop` of those of all rows, (n, stop - start), which it may use up.
Make = Callable[[int, int, "NDArray[np.float32]", "Vector"], None]


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


def gram(rows: Sequence[Row], size: int, sweep: Sweep, more: "Make | None" = None) -> Gram:
    """The matrix of `rows`, of `size` values each, in one sweep; of what `more` makes of them as a further row, last.

    O(n^2 d). Memory for each piece that is under way: 64 KiB per row and 32 KiB for each of its blocks, or 64 KiB where
    there is `more`.
    """
    if not rows:
        raise ValueError("no rows to measure")
    products = _Products(rows, size, more)
    totals = [0] * products.pairs  # the upper triangle
    for found in longer(sweep)(products.begun_in, size):
        totals = [total + term for total, term in zip(totals, found, strict=True)]
    shift = min(((total & -total).bit_length() - 1 for total in totals if total), default=-TOTALS)
    left = iter([total >> shift for total in totals])
    upper = [[next(left) for _ in range(i, products.count)] for i in range(products.count)]
    whole = tuple(tuple(upper[min(i, j)][abs(i - j)] for j in range(products.count)) for i in range(products.count))
    return Gram(whole, Fraction(2) ** (TOTALS + shift))


class _Products:
    """Of all pairs of rows, block by block."""

    def __init__(self, rows: Sequence[Row], size: int, more: "Make | None") -> None:
        import numpy as np

        self.count = len(rows) + (more is not None)
        self.pairs = self.count * (self.count + 1) // 2
        self._rows, self._size, self._more = rows, size, more
        self._stride = COLUMNS * min(max(BLOCKS // self.count, 1), BLOCKS_MOST)
        self._upper = np.triu_indices(self.count)
        self._kept = 1 if more is None else self.count  # rows, until all are read
        self._rooms = Rooms()

    def begun_in(self, start: int, stop: int) -> list[int]:
        """Sums over the blocks that begin in a piece, in units of 2^TOTALS."""
        begin, end = (min(-(-at // COLUMNS) * COLUMNS, self._size) for at in (start, stop))
        totals = Totals(self.pairs)
        for at in range(begin, end, self._stride):
            for values, exponents in self._measured(at, min(at + self._stride, end)):
                totals.add(values, exponents)
        return totals.whole()

    def _measured(self, start: int, stop: int) -> "list[tuple[NDArray[np.int64], NDArray[np.int64]]]":
        import numpy as np

        length, blocks = stop - start, -(-(stop - start) // COLUMNS)
        exponents = np.empty((self.count, blocks), np.int64)
        room = self._rooms.take(self.count + self._kept, blocks * COLUMNS)
        rounded, values = room[: self.count], room[self.count :]
        values[:, length:] = 0
        for place, row in enumerate(self._rows):  # one by one, so that what is read is rounded while it is in the cache
            line = values[place % self._kept]
            row.values(start, stop, line[:length])
            exponents[place] = _round(line, rounded[place])
        if self._more is not None:
            self._more(start, stop, values[:-1, :length], values[-1, :length])
            exponents[-1] = _round(values[-1], rounded[-1])
        sums = _multiplied(rounded)
        self._rooms.give_back(room)
        i, j = self._upper
        return _added_up(sums[:, i, j], (exponents[i] + exponents[j]).T)


def _round(values: "Vector", rounded: "Vector") -> "NDArray[np.int32]":
    """(blocks,) exponents of the units of which `rounded`, (columns,), then has whole numbers."""
    import numpy as np

    blocks = values.reshape(-1, COLUMNS)
    peaks = np.maximum(np.maximum.reduce(blocks, axis=1), -np.minimum.reduce(blocks, axis=1))
    exponents: NDArray[np.int32] = np.frexp(peaks)[1] - BITS
    units = np.ldexp(np.float32(1), -exponents)  # exact: powers of two, and nothing leaves float32's range
    np.multiply(blocks, units[:, None], out=rounded.reshape(blocks.shape))
    np.rint(rounded, out=rounded)
    return exponents


class Totals:
    """Sums of whole numbers of units, each of which is a power of two of its own. Exact.

    What is near is added up in two int64, of which the first counts 2^LOW; Python's integers hold the rest.
    """

    def __init__(self, count: int) -> None:
        import numpy as np

        self._whole = [0] * count  # in units of 2^TOTALS
        self._high, self._low, self._exponents = np.zeros((3, count), np.int64)  # in units of 2^exponent
        self._added = 0

    def add(self, values: "NDArray[np.int64]", exponents: "NDArray[np.int64]") -> None:
        """(count,) of up to 2^62, in units of 2^exponent each."""
        import numpy as np

        shifts = np.where(values == 0, 0, exponents - self._exponents)
        if self._added == ADDED_MOST or shifts.min() < 0 or shifts.max() > SPREAD:
            self._carry()
            self._exponents[:] = exponents - SPREAD // 2
            shifts[:] = SPREAD // 2
        self._high += (values >> LOW) << shifts
        self._low += (values & (2**LOW - 1)) << shifts
        self._added += 1

    def whole(self) -> list[int]:
        """In units of 2^TOTALS."""
        self._carry()
        return self._whole

    def _carry(self) -> None:
        rows = zip(self._whole, self._high.tolist(), self._low.tolist(), self._exponents.tolist(), strict=True)
        self._whole = [
            total + (((high << LOW) + low) << (exponent - TOTALS) if high or low else 0)
            for total, high, low, exponent in rows
        ]
        self._high[:] = self._low[:] = self._added = 0


def _added_up(
    sums: "NDArray[np.float64]", exponents: "NDArray[np.int64]"
) -> "list[tuple[NDArray[np.int64], NDArray[np.int64]]]":
    """Of (blocks, pairs) whole numbers of units, with the units' exponents: one term for all blocks where int64 holds
    their sum, else one for each.
    """
    import numpy as np

    values, least = sums.astype(np.int64), exponents.min(0)
    shifts = exponents - least
    if shifts.max() <= SHIFT_MOST:
        return [((values << shifts).sum(0), least)]
    return list(zip(values, exponents, strict=True))


def _multiplied(rounded: "NDArray[np.float32]") -> "NDArray[np.float64]":
    """(blocks, n, n): sums over each block, exact. Below the diagonal they are anything."""
    import numpy as np

    count, columns = rounded.shape
    found = np.zeros((columns // COLUMNS, count, count + 1))
    if count <= FEW:
        wide = np.empty((count, COLUMNS))
        for sums, block in zip(found, rounded.reshape(count, -1, COLUMNS).transpose(1, 0, 2), strict=True):
            wide[:] = block
            for place, row in enumerate(wide):
                np.vecdot(row, wide[place:], out=sums[place, place:count])
        return found[:, :, :count]
    # The row too many is 0: BLAS multiplies a matrix with its own transpose by another routine (syrk), which is slower
    # for so few rows.
    groups = np.zeros((COLUMNS // GROUP, count + 1, GROUP))
    filled, spans = groups[:, :count], [(first, min(first + SIDE, count)) for first in range(0, count, SIDE)]
    factors = [(groups[:, first:last], groups[:, first:].transpose(0, 2, 1)) for first, last in spans]
    blocks = rounded.reshape(count, -1, COLUMNS // GROUP, GROUP).transpose(1, 2, 0, 3)
    for sums, block in zip(found, blocks, strict=True):
        filled[:] = block
        for (first, last), (left, right) in zip(spans, factors, strict=True):
            np.add.reduce(np.matmul(left, right), axis=0, out=sums[first:last, first:])
    return found[:, :, :count]


def _dot(left: Sequence[int], right: Sequence[int]) -> int:
    return sum(a * b for a, b in zip(left, right, strict=True) if b)
