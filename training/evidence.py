"""What aggregation shows of each member's contribution, in integers that are equal on every member.

The record after the one that took the contributions says it, and reputation goes by that (reputation.py). What a
malicious member may do is choose what it contributes: what these figures then are, and what follows from them, is
measured in docs/robustness.md. It cannot choose the figures of others by more than it moves the median that they are
compared with, except `nearest`: a voter that copies another gives both the same cosine; and `repeated`: one that sends
what another has announced, and is in an earlier round with it, makes that one repeat it.

Who has no votes costs nothing, and may be many: its row is compared with voters' rows and the median alone, and what it
contributed is held against no voter that contributes the same later. Else a stranger that is quick would send what a
slow voter has announced.

A repetition is found by sketches of what was contributed lately: which of 1,024 values are positive. Sketches are
small and found without a pass over the rows, and scaling, coding and a little noise leave them nearly as they are.
Where the values are is known to all, so who changes the signs of these alone repeats unseen: for those who do so on
purpose there are audits, and that old contributions point less and less where the median points.
"""

import math
from collections.abc import Sequence
from itertools import accumulate
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
ROUNDS_KEPT: Final = 4  # whose sketches are, or fewer where there are more voters
ROWS_MAX: Final = 1024  # records.MEMBERS_MAX
CROWD: Final = 64  # rows of members without votes that are measured at a time

Cosine = Annotated[int, msgspec.Meta(ge=-COSINE, le=COSINE)]
Sketch = Annotated[bytes, msgspec.Meta(max_length=SKETCHED // 8)]


class Evidence(Message, frozen=True):
    """Of what one member contributed to one round; all 0 where none of it had any weight, and only there."""

    similarity: Cosine = 0  # the cosine of the angle to the coordinate median of all voters' rows
    length: Annotated[int, msgspec.Meta(ge=0, le=LENGTH_MAX)] = 0  # Euclidean, over the median of all voters'
    nearest: Cosine = 0  # the largest cosine to another member's row, a voter's
    beside: Annotated[int, msgspec.Meta(ge=0, lt=ROWS_MAX)] = 0  # which member's, in the order of members; 0 if none
    repeated: Annotated[int, msgspec.Meta(ge=0, le=OVERLAP)] = 0  # how much was contributed before; all of a zero row
    is_voters: bool = False  # whether the member had votes when the round took it


NOTHING: Final = Evidence()


class Sketched(Message, frozen=True):
    """A round's."""

    voters: Annotated[tuple[Sketch, ...], msgspec.Meta(max_length=SKETCHES_MAX)] = ()  # and the aggregate's, first
    others: Annotated[tuple[Sketch, ...], msgspec.Meta(max_length=SKETCHES_MAX)] = ()


class Testimony(Message, frozen=True):
    """What a round's aggregation found, and what the next one's needs of it. Both are part of the shared state."""

    evidence: Annotated[tuple[Evidence, ...], msgspec.Meta(max_length=ROWS_MAX)] = ()  # members sorted
    sketches: Annotated[tuple[Sketched, ...], msgspec.Meta(max_length=ROUNDS_KEPT)] = ()  # newest round first


class Given(NamedTuple):
    """What one member contributed to the round: its walks combined."""

    row: Row
    is_voters: bool


class Compared(NamedTuple):
    """What can be said before the aggregate is known."""

    evidence: tuple[Evidence, ...]
    voters: tuple[Sketch, ...]
    others: tuple[Sketch, ...]


def testify(
    given: Sequence[Given | None], reference: Row, aggregate: Row, before: Testimony, size: int, sweep: Sweep
) -> Testimony:
    """What the round shows: `compared` and `concluded`."""
    return concluded(compared(given, reference, before, size, sweep), aggregate, before, size)


def compared(given: Sequence[Given | None], reference: Row, before: Testimony, size: int, sweep: Sweep) -> Compared:
    """Exact: integers made of the rows' Gram matrix, which is the same for any sweep. O((v^2 + v s) d) for v voters and
    s others.

    Args:
        given: of each member that the round took, sorted by member; None where nothing of it had any weight.
        reference: the coordinate median of the voters' rows; zeros where there are none.
        before: the testimony of the round before that took anything, or Testimony().
    """
    rows = {place: each.row for place, each in enumerate(given) if each is not None}
    voters = [place for place, each in enumerate(given) if each is not None and each.is_voters]
    others = [place for place, each in enumerate(given) if each is not None and not each.is_voters]
    sketches = {place: sketch(row, size) for place, row in rows.items()}
    theirs = [earlier for round in before.sketches for earlier in round.voters]
    everybodys = [*theirs, *(earlier for round in before.sketches for earlier in round.others)]
    evidence = [NOTHING] * len(given)
    for crowd in ([], *(others[first : first + CROWD] for first in range(0, len(others), CROWD))):
        places, known = [*voters, *crowd], everybodys if crowd else theirs
        measured = measure([*(rows[place] for place in places), reference], size, sweep)
        for i in range(len(voters) if crowd else 0, len(places)):
            repeated = max((overlap(sketches[places[i]], earlier) for earlier in known), default=0)
            evidence[places[i]] = _evidence(measured, i, voters, repeated)
    made = (tuple(sketches[place] for place in some) for some in (voters, others))
    return Compared(tuple(evidence), *made)


def concluded(found: Compared, aggregate: Row, before: Testimony, size: int) -> Testimony:
    """With the round's result: who sends it back in the next rounds repeats it."""
    voters = (sketch(aggregate, size), *found.voters)[:SKETCHES_MAX]
    newest = Sketched(voters, found.others[:SKETCHES_MAX])
    return Testimony(found.evidence, _latest((newest, *before.sketches)))


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


def _evidence(measured: Gram, i: int, voters: Sequence[int], repeated: int) -> Evidence:
    """Of row `i`. The matrix has the voters' rows first, whose places are `voters`, and the reference last."""
    square = measured.products[i][i]
    squares = sorted(measured.products[j][j] for j in range(len(voters)))
    typical = squares[(len(squares) - 1) // 2] if squares else 0  # the (lower) median
    others = ((_cosine(measured, i, j), -place) for j, place in enumerate(voters) if j != i)
    nearest, beside = max(others, default=(0, 0))
    similarity, length = _cosine(measured, i, len(measured) - 1), _length(square, typical)
    repeated = repeated if square else OVERLAP
    return Evidence(similarity, length, nearest, -beside, repeated, is_voters=i < len(voters))


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


def _latest(rounds: Sequence[Sketched]) -> tuple[Sketched, ...]:
    """As many of the newest rounds as there is room for, by voters' sketches; others have what is left. Else a crowd
    that costs nothing would have voters' earlier rounds be forgotten.
    """
    voters = [round.voters for round in rounds[:ROUNDS_KEPT]]
    sums = accumulate(len(each) for each in voters)
    count = sum(each <= SKETCHES_MAX for each in sums)
    left = SKETCHES_MAX - sum(len(each) for each in voters[:count])
    kept: list[Sketched] = []
    for round in rounds[:count]:
        others = round.others[:left]
        left -= len(others)
        kept.append(Sketched(round.voters, others))
    return tuple(kept)
