"""By how much each contribution that a record takes counts: integers, a pure function of the record and the log.

A weight is the samples that stand behind a contribution, halved for each round that it is stale. Contributions of one
member from one state are a walk, which the method adds up and counts once, by the largest of their weights. Where some
members have no votes, their walks together have at most a fifth of all weight.

What a malicious member may claim is as many samples as the spec allows, so it has the share of weight that these give
it: robust aggregation has to bear that. Who has no vote may come under as many keys and contribute as often as it
likes: all of them never have more than that fifth, and nothing where no voter's contribution is taken.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from shoal.transport.port import PeerId

from .members import Electorate

STALE: Final = tuple(2**16 >> staleness for staleness in range(17))  # per sample; docs/decisions.md has the figures
VOTED_PARTS: Final = 4  # to one part for all that have no votes


@dataclass(frozen=True, slots=True)
class Taken:
    """A contribution that a record takes, as its weight sees it."""

    member: PeerId
    base_round: int  # the round whose end it started from
    samples: int  # at most 2^24
    staleness: int  # rounds that took something since then; 0: it started from the newest state


def weights(taken: Sequence[Taken], electorate: Electorate) -> tuple[int, ...]:
    """Of each, in the order given, up to method.WEIGHT_MAX. `electorate` is that which decides on the record.

    Where no voter's contribution is taken nobody has any weight, and the state stays as it is. Somebody always has a
    vote, and a record needs a quorum's, so voters are there; one that wants the swarm to go on contributes a sample.
    Were the others then given all weight, a round in which the voters are slow would be enough for strangers' keys to
    make of the state what they like.
    """
    room = _counted(each for each in taken if electorate.votes(each.member)) // VOTED_PARTS
    claimed = _counted(each for each in taken if not electorate.votes(each.member))
    if claimed <= room:
        return tuple(map(_full, taken))
    return tuple(_full(each) if electorate.votes(each.member) else _full(each) * room // claimed for each in taken)


def _full(taken: Taken) -> int:
    """Its weight where nobody's is cut."""
    return taken.samples * STALE[taken.staleness] if taken.staleness < len(STALE) else 0


def _counted(taken: Iterable[Taken]) -> int:
    """The full weight of these together, of each walk the largest."""
    walks: dict[tuple[PeerId, int], int] = {}
    for each in taken:
        walk = each.member, each.base_round
        walks[walk] = max(walks.get(walk, 0), _full(each))
    return sum(walks.values())
