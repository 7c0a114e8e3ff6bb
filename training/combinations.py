"""Rows that are made of rows: sums with integer coefficients over one denominator, and how rules come by those.

A rule that looks at distances alone turns the Gram matrix (gram.py) and weights into a `Mix`, in integers and in scalar
float64 by + - * / and sqrt, which IEEE 754 rounds in one way only; math.fsum rounds a whole sum once, whatever its
order. Then a `Combination` reads the rows, one float32 product and one sum each, and one quotient ends it.

Nor does it matter whether a machine flushes denormals to zero: rows hold multiples of 2^-103 (codecs.TINY has 24 bits),
and so do products with integers and sums of those. Shares that are no ratios of weights are integers over SHARE: they
err by 2^-41 of all or by the rounding to float32, and a row of less than 2^-41 counts nothing.

Where a rule averages, weights are multiplicities: a row of weight 3 is what three equal rows are. Where it chooses,
rows are chosen one like the other (selecting.py). Ties are broken by the rows' places.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from .codecs import flush_tiny
from .gram import Gram, Make, Mix, gram
from .rows import Rooms, Row, Sweep, Weighted

if TYPE_CHECKING:
    from .tensors import Vector

SHARE: Final = 2**40  # the denominator of shares; with values up to 2^20 and 2^10 rows, far from float32's 2^128

_ROOMS: Final = Rooms()  # a piece for each thread that has combined anything


@dataclass(frozen=True, slots=True, eq=False)
class Combination:
    """A row: sum(coefficient * row) / denominator. Of no rows, or of coefficients 0, it is 0 everywhere."""

    rows: tuple[Row, ...]
    mix: Mix  # a coefficient per row
    gram: Gram | None = None  # of `rows`, for rules behind this one

    def values(self, start: int, stop: int, out: "Vector | None" = None) -> "Vector":
        """Rows are added up in order; those with coefficient 0 are not read."""
        import numpy as np

        total = np.empty(stop - start, np.float32) if out is None else out
        room = _ROOMS.take(1, stop - start)
        spare = room[0]
        taken = [row for row, coefficient in zip(self.rows, self.mix.coefficients, strict=True) if coefficient]
        pieces = (row.values(start, stop, spare if place else total) for place, row in enumerate(taken))
        summed(pieces, self.mix, total, spare)
        _ROOMS.give_back(room)
        return total


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """A row whose inner products with others are known, so that `measure` need not read it."""

    row: Row
    gram: Gram
    place: int  # in `gram`

    def values(self, start: int, stop: int, out: "Vector | None" = None) -> "Vector":
        return self.row.values(start, stop, out)


class Derived(NamedTuple):
    """A row, and how it comes from those that it is measured with."""

    row: Row
    made: Make


def summed(pieces: "Iterable[Vector]", mix: Mix, total: "Vector", spare: "Vector") -> "Vector":
    """In `total`, what `mix` makes of rows of which those pieces are whose coefficient is not 0, as `Combination` does.

    The first piece may lie in `total`, further ones in `spare`; those that lie elsewhere stay as they are.
    """
    import numpy as np

    divisor = math.gcd(*mix.coefficients)
    so_far: Vector | None = None
    for piece, factor in zip(pieces, [each // divisor for each in mix.coefficients if each], strict=True):
        if so_far is None:
            so_far = piece if factor == 1 else np.multiply(piece, np.float32(factor), out=total)
        else:
            term = piece if factor == 1 else np.multiply(piece, np.float32(factor), out=spare)
            so_far = np.add(so_far, term, out=total)
    if so_far is None:
        total.fill(0)
    elif mix.denominator != divisor:
        np.divide(so_far, np.float32(mix.denominator / divisor), out=total)
    elif so_far is not total:
        total[:] = so_far
    return flush_tiny(total)


def measured(rows: Sequence[Row], last: Derived, size: int, sweep: Sweep) -> list[Measured]:
    """The rows, and the one that derives from them, with their Gram matrix: all that looks at distances then goes by
    this one.
    """
    found = gram(rows, size, sweep, last.made)
    return [Measured(row, found, place) for place, row in enumerate((*rows, last.row))]


def measure(rows: Sequence[Row], size: int, sweep: Sweep) -> Gram:
    """The Gram matrix of `rows`, by way of the rows that they are mixed from where these are measured."""
    if isinstance(rows[0], Measured):
        whole = rows[0].gram
        places = [row.place for row in rows if isinstance(row, Measured) and row.gram is whole]
        if len(places) == len(rows):
            return whole.part(places)
    known = {id(row.gram): row.gram for row in rows if isinstance(row, Combination)}
    if not any(known.values()):
        return gram(rows, size, sweep)
    basis, mixes = _expanded(rows)
    (only, *others) = known.values()
    if only is None or others or len(basis) != len(only):
        only = gram(basis, size, sweep)
    return only.mixed(mixes)


def combined(rows: Sequence[Row], mix: Mix) -> Row:
    """What `mix` makes of `rows`; mixed rows that are measured are not read but what they are mixed from."""
    if not any(isinstance(row, Combination) and row.gram is not None for row in rows):
        return Combination(tuple(rows), mix)
    basis, mixes = _expanded(rows)
    coefficients = tuple(
        sum(outer * inner.coefficients[place] for outer, inner in zip(mix.coefficients, mixes, strict=True))
        for place in range(len(basis))
    )
    return Combination(basis, _shortened(Mix(coefficients, mix.denominator * mixes[0].denominator)))


def _expanded(rows: Sequence[Row]) -> tuple[tuple[Row, ...], list[Mix]]:
    """The rows that measured mixtures among `rows` are made of, and the others, and `rows` as mixes of all these."""
    denominator = math.lcm(
        *(row.mix.denominator for row in rows if isinstance(row, Combination) and row.gram is not None)
    )
    basis: list[Row] = []
    begins: dict[int, int] = {}  # of each tuple of rows that mixtures share
    parts: list[tuple[int, Sequence[int]]] = []
    for row in rows:
        if isinstance(row, Combination) and row.gram is not None:
            if id(row.rows) not in begins:
                begins[id(row.rows)] = len(basis)
                basis += row.rows
            factor = denominator // row.mix.denominator
            parts.append((begins[id(row.rows)], [factor * coefficient for coefficient in row.mix.coefficients]))
        else:
            parts.append((len(basis), [denominator]))
            basis.append(row)
    mixes = [
        Mix((*[0] * begin, *coefficients, *[0] * (len(basis) - begin - len(coefficients))), denominator)
        for begin, coefficients in parts
    ]
    return tuple(basis), mixes


def _shortened(mix: Mix) -> Mix:
    """With a denominator of at most 2^44, rounded where need be: products stay within float32's range."""
    divisor = math.gcd(*mix.coefficients, mix.denominator)
    coefficients, denominator = [coefficient // divisor for coefficient in mix.coefficients], mix.denominator // divisor
    if denominator > 2**44:
        coefficients = [(2 * coefficient * SHARE + denominator) // (2 * denominator) for coefficient in coefficients]
        denominator = SHARE
    return Mix(tuple(coefficients), denominator)


def taken_apart(rows: Sequence[Weighted]) -> tuple[tuple[Row, ...], tuple[int, ...]]:
    """Rows and their weights, divided by what divides all of them.

    Raises:
        ValueError: there are none, or a weight is below 1.
    """
    if not rows:
        raise ValueError("there are no rows to aggregate: leave the state as it is")
    weights = [weight for _, weight in rows]
    if min(weights) < 1:
        raise ValueError(f"a weight of {min(weights)}: leave the row out or give it at least 1")
    divisor = math.gcd(*weights)
    return tuple(row for row, _ in rows), tuple(weight // divisor for weight in weights)


def shared(shares: Sequence[float]) -> Mix:
    """A mean with weights in proportion to `shares`, which are not negative, nor all 0."""
    total = math.fsum(shares)
    coefficients = tuple(round(share / total * SHARE) for share in shares)
    return Mix(coefficients, sum(coefficients))


def weighted_median(values: Sequence[int], weights: Sequence[int]) -> int:
    """The least of `values` that half of the weight does not exceed: the lower one of two."""
    total, below = sum(weights), 0
    for value, weight in sorted(zip(values, weights, strict=True)):
        below += weight
        if 2 * below >= total:
            return value
    raise ValueError("the median of nothing")
