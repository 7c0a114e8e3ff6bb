"""Which of a pool's directions a turn tries: more often those along which the slopes were steep (FedKSeed-Pro, Qin et
al. 2024, section 4). Integers, equal on all members.

There p is a softmax of the mean |slope| scaled to [0, 1], so no direction is e times as likely as another. Here it is
linear between the same ends, and of the magnitudes' codes instead of the magnitudes: the order stays, and no exp stands
near the state.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Final

from blake3 import blake3

LEAST: Final = 256
MOST: Final = 696  # e times that
COUNT_MAX: Final = 2**15  # of slopes remembered per direction; then both sums are halved
CODE_MAX: Final = 127

_DOMAIN: Final = b"shoal/pool-draw/1\0"


@dataclass(frozen=True, slots=True)
class History:
    """Of each direction of a pool: how many slopes were claimed along it, and the sum of their magnitudes' codes."""

    counts: tuple[int, ...]
    sums: tuple[int, ...]

    def with_claims(self, claims: Sequence[tuple[int, int]]) -> "History":
        """After these (direction, magnitude's code) more."""
        counts, sums = list(self.counts), list(self.sums)
        for index, magnitude in claims:
            counts[index] += 1
            sums[index] += magnitude
            if counts[index] > COUNT_MAX:
                counts[index] //= 2
                sums[index] //= 2
        return replace(self, counts=tuple(counts), sums=tuple(sums))


def beginning(size: int) -> History:
    """Of a pool of so many directions that nobody has tried."""
    return History((0,) * size, (0,) * size)


def draw(history: History, turn: bytes, count: int) -> tuple[int, ...]:
    """The directions that a turn tries, in order; `turn` names it. One may come twice."""
    ends = tuple(accumulate(_likelihoods(history)))
    drawn: list[int] = []
    for place in range(count):
        raw = int.from_bytes(blake3(_DOMAIN + turn + place.to_bytes(4, "little")).digest(16), "little")
        drawn.append(bisect_right(ends, raw % ends[-1]))  # 128 bits: bias below 2^-100
    return tuple(drawn)


def _likelihoods(history: History) -> list[int]:
    """LEAST to MOST; who was never tried is taken for the likeliest, so that all are."""
    known = [
        None if not count else total * LEAST // count for count, total in zip(history.counts, history.sums, strict=True)
    ]
    tried = [each for each in known if each is not None]
    low, high = min(tried, default=0), max(tried, default=0)
    span = max(high - low, 1)
    return [MOST if each is None else LEAST + (MOST - LEAST) * (each - low) // span for each in known]
