"""By how much each contribution that a record takes counts: integers, a pure function of the record and the log.

A weight is the samples that stand behind a contribution, halved for each round that it is stale, times how far the
member is trusted. Contributions of one member from one state are a walk, which the method adds up and counts once, by
the largest of their weights. A walk of more turns than there was time for weighs less, in proportion, and so do walks
of one member from several states. Where some members have no votes, their walks together have at most a fifth of all
weight, and move the state by at most a fifth of all turns.

What a malicious member may claim is as many samples as the spec allows: nobody counts them. No samples count beyond
four times the usual, before trust is looked at. As many turns as it likes do not multiply that share: it has time for
one in each round that went by, and for as many more as members with more than a third of all votes have made, which
they do while no round can close. Who has no vote may come under as many keys and contribute as often as it likes: all
of them never have more than that fifth, and nothing where no voter's contribution is taken.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from shoal.transport.port import PeerId

from .ledger import Closed, Ledger
from .members import Electorate
from .reputation import TRUST_MAX, TRUST_START, trust_of

STALE: Final = tuple(2**16 >> staleness for staleness in range(17))  # per sample; docs/decisions.md has the figures
VOTED_PARTS: Final = 4  # to one part for all that have no votes
LARGEST: Final = 4  # times the usual samples: a machine that does more in a round has its work count for so much

Walk = tuple[PeerId, int]  # whose it is, and the round whose end it started from


@dataclass(frozen=True, slots=True)
class Taken:
    """A contribution that a record takes, as its weight sees it."""

    member: PeerId
    base_round: int  # the round whose end it started from
    samples: int  # at most 2^24
    staleness: int  # rounds that took something since then; 0: it started from the newest state


def weights(
    taken: Sequence[Taken], electorate: Electorate, trust: Callable[[PeerId], int] = lambda _: TRUST_MAX
) -> tuple[int, ...]:
    """Of each, in the order given, up to method.WEIGHT_MAX. `electorate` is that which decides on the record, `trust`
    what the record says of how members have behaved (reputation.py).

    Where no voter's contribution is taken nobody has any weight, and the state stays as it is. Somebody always has a
    vote, and a record needs a quorum's, so voters are there; one that wants the swarm to go on contributes a sample.
    Were the others then given all weight, a round in which the voters are slow would be enough for strangers' keys to
    make of the state what they like.
    """
    made = _turns(taken)
    spare = _spare_turns(made, electorate)
    plain = [(each, _weight(each, made[each.member][each.staleness], spare)) for each in _cut(taken, electorate)]
    trusted = [(each, weight * trust(each.member) // TRUST_MAX) for each, weight in plain]
    full = _one_members_walks(trusted)
    voted = [_walk(pair) for pair in full if electorate.votes(pair[0].member)]
    others = [_walk(pair) for pair in full if not electorate.votes(pair[0].member)]
    bounds = [
        (sum(measure(voted).values()) // VOTED_PARTS, max(1, sum(measure(others).values())))
        for measure in (walks, _reaches)
    ]
    return tuple(
        weight
        if electorate.votes(each.member)
        else min(weight, *(weight * room // claimed for room, claimed in bounds))
        for each, weight in full
    )


def weights_in(closed: Closed, ledger: Ledger) -> tuple[int, ...] | None:
    """Of each contribution that a record took, in its order; None where it is not known how stale they were."""
    taken: list[Taken] = []
    for share in closed.record.taken:
        stale = ledger.staleness(share.base_round, closed.record.round - 1)
        if stale is None:
            return None
        taken.append(Taken(PeerId(share.member), share.base_round, share.samples, stale))
    standings = closed.record.conduct.reputation.standings
    trust = {standing.member: trust_of(standing, closed.record.round) for standing in standings}
    return weights(taken, closed.voters, lambda member: trust.get(member, TRUST_START))


def walks(weighed: Iterable[tuple[Walk, int]]) -> dict[Walk, int]:
    """The weight of each walk: the largest of its contributions'."""
    found: dict[Walk, int] = {}
    for walk, weight in weighed:
        found[walk] = max(found.get(walk, 0), weight)
    return found


def _turns(taken: Iterable[Taken]) -> dict[PeerId, dict[int, int]]:
    """Of each member: how many of its contributions are so stale or less, for each staleness that one of them has."""
    found: dict[PeerId, Counter[int]] = {}
    for each in taken:
        found.setdefault(each.member, Counter())[each.staleness] += 1
    made: dict[PeerId, dict[int, int]] = {}
    for member, counts in found.items():
        count = 0
        for staleness in sorted(counts):
            count += counts[staleness]
            made.setdefault(member, {})[staleness] = count
    return made


def _spare_turns(made: Mapping[PeerId, Mapping[int, int]], electorate: Electorate) -> int:
    """How many turns more than rounds went by there was time for, as members with more than a third of all votes have
    shown: the newest one, and what was made while no round could close. Fewer might all be lying.
    """
    beyond = {member: max(count - stale for stale, count in counts.items()) for member, counts in made.items()}
    votes = 0
    for member in sorted(beyond, key=lambda member: -beyond[member]):
        votes += electorate.votes(member)
        if 3 * votes > electorate.total:
            return max(1, beyond[member])
    return 1


def _weight(taken: Taken, made: int, spare: int) -> int:
    """Of a member that made so many turns since the state that this one started from."""
    if taken.staleness >= len(STALE):
        return 0
    return taken.samples * STALE[taken.staleness] * min(made, taken.staleness + spare) // made


def _cut(taken: Sequence[Taken], electorate: Electorate) -> list[Taken]:
    """With nobody's samples above LARGEST times what voters usually have, the upper one of two medians. Before trust is
    looked at: who claims enough would count as much as anybody while nobody trusts it.
    """
    largest: dict[PeerId, int] = {}
    for each in taken:
        if electorate.votes(each.member):
            largest[each.member] = max(largest.get(each.member, 0), each.samples)
    usual = sorted(largest.values())
    most = LARGEST * usual[len(usual) // 2] if usual else 0
    return [replace(each, samples=min(each.samples, most)) for each in taken]


def _one_members_walks(weighed: Sequence[tuple[Taken, int]]) -> list[tuple[Taken, int]]:
    """With the weights of a member's walks from several states scaled, so that together they weigh no more than the
    weightiest, nor lead further than the one that leads furthest. Without the first, who sends one contribution from
    each state that is not too old would weigh twice as much as the others; without the second, one turn from the newest
    state and five from each of two before would move the state by 1.76 times as much as one turn.
    """
    pairs = [_walk(pair) for pair in weighed]
    scales = _scales(walks(pairs)), _scales(_reaches(pairs))
    return [
        (each, min(weight * most // max(1, all_) for most, all_ in (scale[each.member] for scale in scales)))
        for each, weight in weighed
    ]


def _walk(weighed: tuple[Taken, int]) -> tuple[Walk, int]:
    taken, weight = weighed
    return (taken.member, taken.base_round), weight


def _reaches(weighed: Sequence[tuple[Walk, int]]) -> dict[Walk, int]:
    """By how much each walk moves the state, at most: its turns are added up, and the sum has the walk's weight."""
    counts = Counter(walk for walk, _ in weighed)
    return {walk: weight * counts[walk] for walk, weight in walks(weighed).items()}


def _scales(measured: Mapping[Walk, int]) -> dict[PeerId, tuple[int, int]]:
    """Of each member the largest of its walks' measures, and their sum."""
    scales: dict[PeerId, tuple[int, int]] = {}
    for (member, _), measure in measured.items():
        most, all_ = scales.get(member, (0, 0))
        scales[member] = max(most, measure), all_ + measure
    return scales
