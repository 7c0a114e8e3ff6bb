"""What aggregation shows of each member's contribution, in integers that are equal on every member.

The record after the one that took the contributions says it, and reputation goes by that (reputation.py). What a
malicious member may do is choose what it contributes: what these figures then are, and what follows from them, is
measured in docs/robustness.md. It cannot choose the figures of others by more than it moves the median that they are
compared with, except `nearest`: a voter that copies another gives both the same cosine.

A repetition is found by sketches of what was contributed lately: which of 1,024 values are positive. Sketches are
small and found without a pass over the rows, and scaling, coding and a little noise leave them nearly as they are.
Where the values are is known to all, so who changes the signs of these alone repeats unseen: for those who do so on
purpose there are audits, and that old contributions point less and less where the median points.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

import msgspec

from shoal.transport.wire import Message

from .codecs import BLOCK
from .combinations import measure
from .gram import Gram
from .rows import Row, Sweep

if TYPE_CHECKING:
    from .tensors import Vector

COSINE: Final = 2**15  # of two equal directions
LENGTH: Final = 2**8  # of a row as long as the others usually are
LENGTH_MAX: Final = 2**16
OVERLAP: Final = 2**10  # of a contribution that repeats another
SKETCHED: Final = 2**10  # values
SKETCHED_BLOCKS: Final = 64  # in which they are, so that a row is read in few places
SKETCHED_MIN: Final = 32  # positive values in one or the other of two sketches: fewer agree by chance
SKETCHES_MAX: Final = 256  # kept: 32 KiB of a saved state
ROUNDS_KEPT: Final = 4  # whose sketches are, or fewer where there are more members
ROWS_MAX: Final = 1024  # records.MEMBERS_MAX

Cosine = Annotated[int, msgspec.Meta(ge=-COSINE, le=COSINE)]
Sketch = Annotated[bytes, msgspec.Meta(max_length=SKETCHED // 8)]


class Evidence(Message, frozen=True):
    """Of what one member contributed to one round; all 0 where none of it had any weight, and only there."""

    similarity: Cosine = 0  # the cosine of the angle to the coordinate median of all voters' rows
    length: Annotated[int, msgspec.Meta(ge=0, le=LENGTH_MAX)] = 0  # Euclidean, over the median of all voters'
    nearest: Cosine = 0  # the largest cosine to another member's row; to a voter's, for voters
    beside: Annotated[int, msgspec.Meta(ge=0, lt=ROWS_MAX)] = 0  # which member's, in the order of members; 0 if none
    repeated: Annotated[int, msgspec.Meta(ge=0, le=OVERLAP)] = 0  # how much was contributed before; all of a zero row


NOTHING: Final = Evidence()


class Testimony(Message, frozen=True):
    """What a round's aggregation found, and what the next one's needs of it. Both are part of the shared state."""

    evidence: Annotated[tuple[Evidence, ...], msgspec.Meta(max_length=ROWS_MAX)] = ()  # members sorted
    sketches: Annotated[tuple[tuple[Sketch, ...], ...], msgspec.Meta(max_length=ROUNDS_KEPT)] = ()  # newest round first


class Given(NamedTuple):
    """What one member contributed to the round: its walks combined."""

    row: Row
    is_voters: bool


def testify(
    given: Sequence[Given | None], reference: Row, aggregate: Row, before: Testimony, size: int, sweep: Sweep
) -> Testimony:
    """What the round shows. Exact: integers made of the rows' Gram matrix, which is the same for any sweep.

    Args:
        given: of each member that the round took, sorted by member; None where nothing of it had any weight.
        reference: the coordinate median of the voters' rows; zeros where there are none.
        aggregate: the round's result; who sends it back in the next rounds repeats it.
        before: the testimony of the round before that took anything, or Testimony().
    """
    present = [place for place, each in enumerate(given) if each is not None]
    rows = [each.row for each in given if each is not None]
    voters = [each.is_voters for each in given if each is not None]
    measured = measure([*rows, reference], size, sweep)
    typical = _typical_square(measured, voters)
    sketches = [sketch(row, size) for row in rows]
    known = [earlier for round in before.sketches for earlier in round]
    evidence = [NOTHING] * len(given)
    for i, place in enumerate(present):
        square = measured.products[i][i]
        others = [j for j in range(len(rows)) if j != i and (voters[j] or not voters[i])]
        nearest, beside = max(((_cosine(measured, i, j), -j) for j in others), default=(0, 0))
        repeated = max((overlap(sketches[i], earlier) for earlier in known), default=0) if square else OVERLAP
        evidence[place] = Evidence(
            _cosine(measured, i, len(rows)),
            _length(square, typical),
            nearest,
            present[-beside] if others else 0,
            repeated,
        )
    first = sorted(range(len(rows)), key=lambda i: not voters[i])[: SKETCHES_MAX - 1]
    newest = (sketch(aggregate, size), *(sketches[i] for i in first))
    return Testimony(tuple(evidence), _latest((newest, *before.sketches)))


def sketch(row: Row, size: int) -> Sketch:
    """A bit for each of up to SKETCHED values, spread evenly over up to SKETCHED_BLOCKS blocks: 1 where positive."""
    import numpy as np

    blocks = -(-size // BLOCK)
    count = min(blocks, SKETCHED_BLOCKS)
    step = -(-count * BLOCK // SKETCHED)
    pieces: list[Vector] = []
    for place in range(count):
        start = place * blocks // count * BLOCK
        pieces.append(row.values(start, min(start + BLOCK, size))[::step])
    return np.packbits(np.concatenate(pieces)[:SKETCHED] > 0).tobytes()


def overlap(left: Sketch, right: Sketch) -> int:
    """How much of two sketches is the same, in OVERLAP: of the values positive in one of them, those that are in both
    (Jaccard 1912). So that rows of many zeros do not agree by those.
    """
    a, b = int.from_bytes(left, "big"), int.from_bytes(right, "big")
    either = (a | b).bit_count()
    return OVERLAP * (a & b).bit_count() // either if either >= SKETCHED_MIN else 0


def _typical_square(measured: Gram, voters: Sequence[bool]) -> int:
    """The (lower) median of the voters' squared norms, in the matrix's units; 0 for none."""
    squares = sorted(measured.products[i][i] for i, votes in enumerate(voters) if votes)
    return squares[(len(squares) - 1) // 2] if squares else 0


def _length(square: int, typical: int) -> int:
    if square == 0:
        return 0
    return min(math.isqrt(LENGTH**2 * square // typical), LENGTH_MAX) if typical else LENGTH_MAX


def _cosine(measured: Gram, i: int, j: int) -> int:
    """Rounded towards 0; 0 if one of the rows is 0."""
    inner = measured.products[i][j]
    squares = measured.products[i][i] * measured.products[j][j]
    if squares == 0:
        return 0
    size = min(math.isqrt(COSINE**2 * inner**2 // squares), COSINE)
    return size if inner >= 0 else -size


def _latest(rounds: Sequence[tuple[Sketch, ...]]) -> tuple[tuple[Sketch, ...], ...]:
    """As many of the newest rounds as there is room for."""
    kept: list[tuple[Sketch, ...]] = []
    for sketches in rounds[:ROUNDS_KEPT]:
        if sum(map(len, kept)) + len(sketches) > SKETCHES_MAX:
            break
        kept.append(sketches)
    return tuple(kept)
