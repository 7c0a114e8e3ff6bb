"""How members have behaved, as the log tells: who is trusted how far, and what they have against one another. No I/O.

Each record says it in full, as it follows from the record before: so a newest record is enough to know by how much
each contribution counts, and everybody who has two of them can check it.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property

from shoal.transport.port import PeerId
from shoal.transport.wire import Malformed, Message

from . import verdicts
from .evidence import NOTHING, Evidence
from .members import Change, Electorate, Opine
from .reputation import Reputation, Rules, Taken, Verdict
from .spec import BAN_ROUNDS
from .verdicts import Case, Cases


class Conduct(Message, frozen=True):
    """After a record."""

    reputation: Reputation = Reputation()
    cases: Cases = ()


@dataclass(frozen=True)
class Behaviour:
    """What a next record goes on from."""

    conduct: Conduct = field(default_factory=Conduct)
    members: tuple[PeerId, ...] = ()  # whose contributions the newest record took, sorted: the next one has evidence
    rules: Rules = field(default_factory=lambda: Rules(BAN_ROUNDS))  # the spec's

    @cached_property
    def bans(self) -> Mapping[PeerId, int]:
        """Of members that were ever banned, the last round of the latest time."""
        standings = self.conduct.reputation.standings
        return {PeerId(standing.member): standing.banned_until for standing in standings if standing.banned_until}


def after(
    before: Behaviour, round: int, electorate: Electorate, evidence: Sequence[Evidence], changes: Sequence[Change]
) -> Conduct | Malformed:
    """The conduct after the record of `round`. `electorate` is that which decides on it.

    Args:
        evidence: of the contributions that the record before took, one for each of their members; or none, where
            those who decide cannot read states.
    """
    if len(evidence) not in (0, len(before.members)):
        return Malformed(f"evidence of {len(evidence)} members, where {len(before.members)} have contributed")
    if any(each.beside >= len(evidence) for each in evidence):
        return Malformed("evidence that names a member beyond those who have contributed")
    settled = judged(before, round, electorate, changes)
    if settled is None:
        return Malformed("an opinion that was said before, or comes too late")
    cases, found = settled
    taken = shown(before, evidence)
    faults = [Verdict(each.member, each.fault) for each in found]
    reputation = before.conduct.reputation.after(round, taken, faults, before.rules, voters_of(electorate))
    return Conduct(reputation, cases)


def judged(
    before: Behaviour, round: int, electorate: Electorate, changes: Sequence[Change]
) -> tuple[tuple[Case, ...], tuple[verdicts.Verdict, ...]] | None:
    """The cases after the record of `round`, and its verdicts; None if an opinion among the changes is not wanted."""
    words = [change for change in changes if isinstance(change, Opine)]
    cases = verdicts.after(before.conduct.cases, round, words)
    return None if cases is None else verdicts.settled(cases, electorate)


def shown(before: Behaviour, evidence: Sequence[Evidence]) -> list[Taken]:
    """Whose contributions the newest record took, and what a next one with this evidence says of them: whether they had
    votes, too, for the electorate may have changed since, and who begins at an anchor knows no other.
    """
    said = evidence or [NOTHING] * len(before.members)
    return [Taken(member, each.is_voters, each) for member, each in zip(before.members, said, strict=True)]


def voters_of(electorate: Electorate) -> Set[PeerId]:
    return {PeerId(seat.member) for seat in electorate.seats if seat.votes}
