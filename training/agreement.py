"""How a round closes: when, by whose proposal, and which of two records prevails.

The rule for now: a round may close when everybody expected is in, or when its time is up and enough are in; then the
connected member with the lowest peer id proposes the set it holds, and the member of rank k does so after k spans of
silence. Of two heads the higher round prevails, then the smaller record hash.

What this cannot do: prevent a split. In a partition both sides close rounds, and one side's rounds are lost when they
meet. A lying proposer can leave contributions out, and a lone liar with a forged branch of its own can be followed.
Agreement by votes takes this module's place behind `Closing`; until then a swarm is for members who know one another.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from shoal.transport.port import PeerId

from .records import Head


@dataclass(frozen=True, slots=True)
class Standings:
    """What one member sees of the open round."""

    expected: tuple[PeerId, ...]  # sorted: connected members at work on this round, oneself included if one is
    held: frozenset[PeerId]  # whose contributions are here, whole and checked
    overdue_at: float  # deadline plus grace


@dataclass(frozen=True, slots=True)
class Propose:
    reason: str


@dataclass(frozen=True, slots=True)
class Wait:
    until: float  # look again then, or when something changes
    reason: str


class Closing(Protocol):
    """One round's closing, as one member decides it. Same standings at the same times, same decisions."""

    def decide(self, now: float, standings: Standings) -> Propose | Wait: ...


class LowestPeerCloses:
    """The rule above."""

    def __init__(self, me: PeerId, members_min: int, silence_s: float) -> None:
        self._me = me
        self._members_min = members_min
        self._silence_s = silence_s
        self._ready_at: float | None = None

    def decide(self, now: float, standings: Standings) -> Propose | Wait:
        missing = [peer for peer in standings.expected if peer not in standings.held]
        if len(standings.held) < self._members_min:
            self._ready_at = None
            until = standings.overdue_at if now < standings.overdue_at else float("inf")
            return Wait(until, f"{len(standings.held)} of at least {self._members_min} contributions are in")
        if missing and now < standings.overdue_at:
            self._ready_at = None
            return Wait(standings.overdue_at, f"{len(missing)} of {len(standings.expected)} are still at work")
        if self._ready_at is None:
            self._ready_at = now
        if self._me not in standings.expected:
            return Wait(float("inf"), "not taking part in this round")
        rank = standings.expected.index(self._me)
        proposes_at = self._ready_at + rank * self._silence_s
        if now < proposes_at:
            return Wait(proposes_at, f"{standings.expected[0]} proposes")
        why = "everybody is in" if not missing else f"time is up, {len(missing)} are missing"
        return Propose(why if rank == 0 else f"{why}, and {rank} before this one stayed silent")


def follow(mine: Head, told: Mapping[PeerId, Head]) -> Head | None:
    """The head to go over to, or None to stay.

    Higher round, then smaller record hash: a total order, so members who tell one another their heads end at the same
    one. Where only the state differs, the state of the most members prevails, then the smaller digest.
    """
    best = min((_rank(head) for head in told.values()), default=None)
    if best is None or best > _rank(mine):
        return None
    support: dict[bytes, int] = {}
    heads = [head for head in told.values() if _rank(head) == best]
    if best == _rank(mine):
        if not mine.digest:
            return None  # no common state: nothing to differ in
        heads.append(mine)
    for head in heads:
        support[head.digest] = support.get(head.digest, 0) + 1
    digest = min(support, key=lambda digest: (-support[digest], digest))
    if best == _rank(mine) and digest == mine.digest:
        return None
    return next(head for head in heads if head.digest == digest)


def _rank(head: Head) -> tuple[int, bytes]:
    return -head.round, head.record
