"""How large slopes have been lately, and how large one may be: integers, equal on all members.

A slope is the derivative of the loss along a direction, as a code (scalar_codes.py). What a turn claims beyond `bound`
times the median of recent ones counts as that much, with its sign: honest slopes vary by a factor of twenty from one
run to the next, so no fixed limit fits, but not by that much from one round to the next.

What a malicious member may claim is any code. Where nobody recomputes it (private samples) it pulls the state by at
most `bound` honest members' median slopes, along directions that are not its choice. Members with less than half of all
weight do not move the median beyond what honest ones claim, unless honest slopes are all 0. (A median over different
directions does not help: every slope multiplies another direction, so there is nothing to agree about;
docs/decisions.md.)
"""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

from .scalar_codes import MAGNITUDES

CODES: Final = len(MAGNITUDES)  # 0 among them
MASS: Final = 2**20  # of all that one round claims
MEMORY: Final = 16  # rounds after which a round's mass has fallen to 1/e, about

Recent = tuple[int, ...]  # (CODES,) mass by magnitude, [0] always 0
NONE: Final[Recent] = (0,) * CODES


def remembered(recent: Recent, claims: Sequence[tuple[int, bytes]]) -> Recent:
    """With one round more, of walks' weights and codes. Slopes of 0 say nothing about how large the others are."""
    total = sum(weight for weight, _ in claims)
    masses = [mass - mass // MEMORY for mass in recent]
    for weight, codes in claims:
        magnitudes = [code & 127 for code in codes if code & 127]
        for magnitude in magnitudes:
            masses[magnitude] += weight * MASS // (total * len(magnitudes))
    return tuple(masses)


def largest(recent: Recent, bound: int) -> int:
    """The largest magnitude, 1 to 127, that is at most `bound` times the median; 127 where nothing is known."""
    total = sum(recent)
    if not total:
        return CODES - 1
    median = next(code for code, mass in enumerate(accumulate(recent)) if 2 * mass >= total)
    return bisect_right(MAGNITUDES, bound * MAGNITUDES[median]) - 1


def bounded(code: int, limit: int) -> int:
    """The code with a magnitude of at most `limit`."""
    return (code & 128) | min(code & 127, limit)
