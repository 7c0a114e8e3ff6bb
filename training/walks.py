"""What one member contributed to a round, as a row that rules aggregate.

Contributions of a member from one state are a walk: each goes on where the one before it ended, so they are added up.
Walks from several states are averaged by their weights, and together weigh as much as all of them. So a member is one
row, whatever it sends: rules that count rows count members.

Equal to the bit on every member: rows.py. A walk is no longer than 1,024 contributions (records.MEMBERS_MAX), and its
values stay below 2^30.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .combinations import Combination, taken_apart
from .gram import Mix
from .payload import Delta
from .rows import Row, Weighted

if TYPE_CHECKING:
    from .tensors import Vector


@dataclass(frozen=True, slots=True, eq=False)
class Walk:
    """A row: the sum of at least one contribution, in the order given."""

    deltas: tuple[Delta, ...]

    def values(self, start: int, stop: int, out: "Vector | None" = None) -> "Vector":
        first, *others = self.deltas
        values = first.values(start, stop, out)
        for delta in others:
            values += delta.values(start, stop)
        return values


@dataclass(frozen=True, slots=True, eq=False)
class Contributor:
    """A member whose contributions a round took."""

    member: str
    is_voter: bool
    walks: tuple[Weighted, ...]  # those with weight; none: nothing of it counts

    @property
    def weight(self) -> int:
        return sum(weight for _, weight in self.walks)

    def row(self) -> Row:
        """The weighted mean of its walks, of which there is one at least."""
        return mean_of(self.walks)


def mean_of(rows: Sequence[Weighted]) -> Row:
    """sum(w x) / sum(w), read no further than must be: the mean of one row is the row."""
    basis, weights = taken_apart(rows)
    return basis[0] if len(basis) == 1 else Combination(basis, Mix(weights, sum(weights)))
