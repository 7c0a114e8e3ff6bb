"""Sorting networks over whole vectors: n vectors become, at each place, the n values there in order of size.

What is compared with what is fixed beforehand and never depends on values, so each step is a minimum and a maximum over
whole vectors: for 16 of them a fifth of the time of `numpy.sort`. Minimum and maximum round nothing; of 0.0 and -0.0
they may give either (x86 the second, ARM the one of that sign), so which zero comes out is for the caller to settle.
NaN must not occur.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Values = TypeVar("Values", "NDArray[np.float32]", "NDArray[np.float64]")

NETWORKS_KEPT: Final = 8  # 4 MB each with 1,024 wires, 10 kB with 16


class Comparator(NamedTuple):
    """Leaves the smaller of two wires' values on the first and the larger on the second."""

    first: int
    second: int
    is_smaller_used: bool
    is_larger_used: bool


@lru_cache(NETWORKS_KEPT)
def network(wires: int, start: int, stop: int, *, is_ordered: bool = True) -> tuple[Comparator, ...]:
    """After which wires `start` to `stop` hold the values of these ranks (0 is the smallest); the others, anything.
    Unless it `is_ordered`, two ranks may come out either way round.

    Batcher's odd-even merge sort (1968; for any number of wires: Knuth, The Art of Computer Programming 3, 5.2.2,
    algorithm M), without what reaches none of these wires. For 16 wires: 63 comparators and 126 operations; for the
    middle two ranks 53 and 92, or 52 and 90 where they need no order.
    """
    used = set(range(start, stop))
    kept: list[Comparator] = []
    for first, second in reversed(list(_batcher(wires))):
        is_wanted = is_ordered or bool(kept) or used != {first, second}
        if is_wanted and (first in used or second in used):
            kept.append(Comparator(first, second, first in used, second in used))
            used |= {first, second}
    return tuple(reversed(kept))


def select(
    vectors: Sequence[Values], start: int, stop: int, spare: Values | None = None, *, is_ordered: bool = True
) -> list[Values]:
    """Ranks `start` to `stop` of all vectors, from the smallest; they lie in the vectors' memory, which is used up, and
    in that of `spare`, as long as one of them, if it is given.
    """
    import numpy as np

    wires = list(vectors)
    spare = np.empty_like(wires[0]) if spare is None else spare
    for first, second, is_smaller_used, is_larger_used in network(len(wires), start, stop, is_ordered=is_ordered):
        left, right = wires[first], wires[second]
        if not is_larger_used:
            np.minimum(left, right, out=left)
        elif not is_smaller_used:
            np.maximum(left, right, out=right)
        else:  # the wires change their vectors, which costs nothing, where a copy would cost as much as a minimum
            np.minimum(left, right, out=spare)
            np.maximum(left, right, out=right)
            wires[first], spare = spare, left
    return wires[start:stop]


def _batcher(wires: int) -> Iterator[tuple[int, int]]:
    """(first, second) of each comparator, in order."""
    top = 1 << max(wires - 1, 0).bit_length() >> 1
    merged = top
    while merged:
        distance, remainder, span = merged, 0, top
        while True:
            for first in range(wires - distance):
                if first & merged == remainder:
                    yield first, first + distance
            if span == merged:
                break
            distance, remainder, span = span - merged, merged, span >> 1
        merged >>= 1
