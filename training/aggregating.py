"""One round's aggregate: what the voters' rule makes of their rows, what of the others' is mixed in, and what shows.

What a malicious member may send is any finite row (walks.py). With a vote it is one row among the voters' and the rule
bears it, as long as it is one of f. Where a round took few voters' contributions, rows of zeros stand for the others:
a round that holds the contributions of its proposer alone moves next to nothing.

Who has no votes decides nothing for those who do, however many they are: their rows are in no rule, no n and no f. The
coordinate median of theirs is cut down to the length of the voters' aggregate and has at most a fifth of the result:
they move the state by at most a quarter of what the voters do, and cannot hide what the voters say.

Equal to the bit on every member: rows.py.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from .codecs import flush_tiny
from .combinations import SHARE, Combination, Derived, Measured, measured, summed
from .evidence import Given, Testimony, compared, concluded
from .gram import Mix, gram
from .order_statistics import CoordinateMedian, median_of
from .rows import Rooms, Row, Sweep, Weighted, longer, placed
from .rules import aggregate, filled, plain
from .walks import Contributor, mean_of
from .weights import VOTED_PARTS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .tensors import Vector


# Makes of the aggregate's values `start` to `stop` what is to be made of them.
Take = Callable[[int, int, "Vector"], None]


class Terms(NamedTuple):
    """How voters' rows are aggregated."""

    rule: str
    f: int  # of how many rows the result is to be worth something whatever they say
    previous: Row  # the last aggregate


class Room(NamedTuple):
    """Where rows are gone over and written. The aggregate may lie in `vectors`: whoever writes there reads it first,
    piece by piece.
    """

    sweep: Sweep
    vectors: "tuple[Vector, Vector]"  # (d,) each

    @property
    def size(self) -> int:
        return len(self.vectors[0])


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """A row that is in memory."""

    whole: "Vector"  # (d,)

    def values(self, start: int, stop: int, out: "Vector | None" = None) -> "Vector":
        return self.whole[start:stop].copy() if out is None else placed(self.whole[start:stop], out)


@dataclass(frozen=True, slots=True, eq=False)
class Scaled:
    """A row: a vector in memory times a factor."""

    whole: "Vector"  # (d,)
    factor: "np.float32"

    def values(self, start: int, stop: int, out: "Vector | None" = None) -> "Vector":
        import numpy as np

        return flush_tiny(np.multiply(self.whole[start:stop], self.factor, out=out))


def trusted_mean(contributors: Sequence[Contributor], room: Room) -> Row:
    """The aggregate of a swarm whose voters trust one another: the weighted mean of all their walks."""
    voters, strangers = _parts(contributors)
    return _mixed_in(_mean_of_walks(voters), voters, strangers, room)


def attested(contributors: Sequence[Contributor], terms: Terms, before: Testimony, room: Room, take: Take) -> Testimony:
    """Has the aggregate taken, and gives what it shows of each contributor. The voters' Gram matrix serves both.

    Args:
        contributors: sorted by member; one voter at least has weight.
        before: the testimony of the state before this round.
    """
    voters, strangers = _parts(contributors)
    rows = [each.row() for each in voters]
    expected = None if strangers else _expected(voters, rows, terms)
    reference = Held(room.vectors[0]) if strangers else CoordinateMedian([Weighted(row, 1) for row in rows])
    made = _Made(len(rows), expected, take, room.vectors[0] if strangers else None)
    needed = [terms.previous] if terms.rule == "centered_clipping" else []
    known = measured([*rows, *needed], Derived(reference, made), room.size, room.sweep)
    terms = terms._replace(previous=known[len(rows)]) if needed else terms
    places = {each.member: place for place, each in enumerate(voters)}
    given = [
        Given(known[places[each.member]] if each.is_voter else each.row(), each.is_voter) if each.walks else None
        for each in contributors
    ]
    shown = compared(given, known[-1], before, room.size, room.sweep)  # before others lie where the median does
    result = _mixed_in(_of_voters(voters, known, terms, room), voters, strangers, room)
    testimony = concluded(shown, result, before, room.size)  # before the next state lies where the result may
    if not _is_same(result, rows, expected):
        carried_out(result, room, take)
    return testimony


@dataclass(frozen=True, slots=True, eq=False)
class _Made:
    """What is made of the voters' rows while their pieces are in the cache: the coordinate median, which is given and
    perhaps written; and before that, the aggregate if it is what `expected` says, which is taken.
    """

    voters: int
    expected: Mix | None
    take: "Take"
    vector: "Vector | None"  # for the median
    rooms: Rooms = field(default_factory=Rooms)

    def __call__(self, start: int, stop: int, pieces: "NDArray[np.float32]", out: "Vector") -> None:
        voters = pieces[: self.voters]
        total, spare = room = self.rooms.take(2, stop - start)
        if self.expected is not None:
            self.take(start, stop, summed(voters, self.expected, total, spare))
        median_of(list(voters), spare, out)
        self.rooms.give_back(room)
        if self.vector is not None:
            self.vector[start:stop] = out


def _expected(voters: Sequence[Contributor], rows: Sequence[Row], terms: Terms) -> Mix | None:
    """What the rule makes of the rows where nobody's is unusual, and as a rule nobody's is: then the aggregate is taken
    in the sweep that measures, and the rows are read once. Else it is taken again, as it is.
    """
    weighted = [Weighted(row, voter.weight) for row, voter in zip(rows, voters, strict=True)]
    is_filled = len(filled(terms.rule, weighted, terms.f)) > len(weighted)
    return None if is_filled else plain(terms.rule, weighted, terms.f)


def _is_same(result: Row, rows: Sequence[Row], expected: Mix | None) -> bool:
    if expected is None or not isinstance(result, Combination) or result.mix != expected:
        return False
    read = [row.row if isinstance(row, Measured) else row for row in result.rows]
    return len(read) == len(rows) and all(one is other for one, other in zip(read, rows, strict=True))


def carried_out(row: Row, room: Room, take: Take) -> None:
    """Have all of the row taken. A combination reads one row at a time, so that longer pieces fit the cache."""
    rooms = Rooms()

    def part(start: int, stop: int) -> None:
        room = rooms.take(1, stop - start)
        take(start, stop, row.values(start, stop, room[0]))
        rooms.give_back(room)

    sweep = longer(room.sweep) if isinstance(row, Combination) else room.sweep
    for _ in sweep(part, room.size):
        pass


def written(row: Row, vector: "Vector", sweep: Sweep) -> Held:
    """The row, once it is in `vector`."""

    def part(start: int, stop: int) -> None:
        row.values(start, stop, vector[start:stop])

    for _ in sweep(part, len(vector)):
        pass
    return Held(vector)


def _parts(contributors: Sequence[Contributor]) -> tuple[list[Contributor], list[Contributor]]:
    """Voters and the others, those with weight."""
    present = [each for each in contributors if each.walks]
    return [each for each in present if each.is_voter], [each for each in present if not each.is_voter]


def _of_voters(voters: Sequence[Contributor], rows: Sequence[Row], terms: Terms, room: Room) -> Row:
    if terms.rule == "mean":
        return _mean_of_walks(voters)
    weighted = [Weighted(row, voter.weight) for row, voter in zip(rows, voters, strict=False)]
    enough = filled(terms.rule, weighted, terms.f)
    return aggregate(terms.rule, enough, terms.f, terms.previous, room.size, room.sweep)


def _mean_of_walks(voters: Sequence[Contributor]) -> Row:
    return mean_of([walk for voter in voters for walk in voter.walks])


def _mixed_in(row: Row, voters: Sequence[Contributor], strangers: Sequence[Contributor], room: Room) -> Row:
    """(V row + S short) / (V + S): `short` is the median of strangers' rows, cut down to the length of `row`."""
    voted = sum(voter.weight for voter in voters)
    others = min(sum(stranger.weight for stranger in strangers), voted // VOTED_PARTS)
    if not others:
        return row
    medians = CoordinateMedian([Weighted(stranger.row(), 1) for stranger in strangers])
    both = written(row, room.vectors[1], room.sweep), written(medians, room.vectors[0], room.sweep)
    lengths = gram(both, room.size, room.sweep)
    bound, square = lengths.products[0][0], lengths.products[1][1]
    short = 1.0 if square <= bound else math.sqrt(bound / square)
    shares = round(voted / (voted + others) * SHARE), round(others / (voted + others) * short * SHARE)
    return Combination(both, Mix(shares, SHARE))
