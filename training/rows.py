"""What aggregation rules are made of: rows of float32 that are read piece by piece, and what a rule makes of them,
which is a row again.

n members' contributions are n rows of d values each, of which no more than a piece is in memory at a time. A rule takes
rows with weights and gives one row: so rules can be put behind one another (nearest-neighbour mixing before a median),
and the result is written wherever it belongs as it is read. Equal bits on every member, for any size of the pieces and
any number of threads, because values come about by elementwise float32 operations with one rounding each, in an order
that is fixed, and whatever is summed over d is summed in integers (gram.py).

Rows are finite and bounded (payload.check_values): a contribution that is not is absent, it is never a row of zeros.
Where a contribution is sparse, what it does not name is 0, and it counts there as any other that says 0: so nobody
decides a value by being alone at it.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .tensors import Vector

PIECE_VALUES: Final = 2**14  # 64 KiB, so that a piece of each of 16 rows is in a core's cache
LONG_ROWS_MAX: Final = 64  # that are read by longer pieces where a sweep has such: of 2^16 values they take 16 MiB
LONGER: Final = 4
Part = TypeVar("Part")


class Row(Protocol):
    """(d,) float32, finite; none that is denormal (codecs.TINY)."""

    def values(self, start: int, stop: int, out: "Vector | None" = None) -> "Vector":
        """(stop - start,) of them, the caller's own to write to: in `out` where it is given, which is contiguous.
        `start` is a multiple of codecs.BLOCK.
        """
        ...


def placed(values: "Vector", out: "Vector | None") -> "Vector":
    """For `Row.values`: values that came about elsewhere, where the caller wants them."""
    if out is None:
        return values
    out[:] = values
    return out


class Weighted(NamedTuple):
    """A row and how much it counts beside others."""

    row: Row
    weight: int  # from 1 to WEIGHT_MAX (method.py)


class Sweep(Protocol):
    """Goes over `size` values piece by piece, perhaps several pieces at once; results come in order."""

    def __call__(self, part: Callable[[int, int], Part], size: int) -> Iterable[Part]: ...


def one_by_one(part: Callable[[int, int], Part], size: int) -> Iterator[Part]:
    """The Sweep of who has one thread."""
    for start in range(0, size, PIECE_VALUES):
        yield part(start, min(start + PIECE_VALUES, size))


class Rooms:
    """Memory for pieces, used again, from any thread: fresh pages cost more than most of what is done in them."""

    def __init__(self) -> None:
        self._free: deque[NDArray[np.float32]] = deque()

    def take(self, rows: int, columns: int) -> "NDArray[np.float32]":
        """(rows, columns) of any values; the caller's own until it gives it back."""
        import numpy as np

        try:
            room = self._free.pop()
        except IndexError:
            room = None
        return np.empty((rows, columns), np.float32) if room is None or room.shape != (rows, columns) else room

    def give_back(self, room: "NDArray[np.float32]") -> None:
        self._free.append(room)


def longer(sweep: Sweep) -> Sweep:
    """By pieces LONGER times as long, for parts that hold few rows at a time, or less than all of the piece: with
    PIECE_VALUES a third of their time is Python's.
    """

    def sweep_longer(part: Callable[[int, int], Part], size: int) -> Iterable[Part]:
        return sweep(lambda start, stop: part(LONGER * start, min(LONGER * stop, size)), -(-size // LONGER))

    return sweep_longer


def fitting(sweep: Sweep, rows: int) -> Sweep:
    """The same sweep, or one by no more than PIECE_VALUES where so many rows would take too much memory otherwise."""
    if rows <= LONG_ROWS_MAX:
        return sweep

    def short(part: Callable[[int, int], Part], size: int) -> Iterable[Part]:
        def parts(start: int, stop: int) -> list[Part]:
            return [part(at, min(at + PIECE_VALUES, stop)) for at in range(start, stop, PIECE_VALUES)]

        return chain.from_iterable(sweep(parts, size))

    return short
