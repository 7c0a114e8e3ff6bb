"""How a round closes: when, by whose proposal, and which of two records prevails.

The rule for now: a round may close when everybody expected is in, or when its time is up and enough are in; then the
connected member with the lowest peer id proposes the set it holds, and the member of rank k does so after k spans of
silence. Of two heads the higher round prevails, then the smaller record hash.

What this cannot do: prevent a split. In a partition both sides close rounds, and one side's rounds are lost when they
meet. A lying proposer can leave contributions out, and a lone liar with a forged branch of its own can be followed.
Agreement by votes takes this module's place behind `Closing`; until then a swarm is for members who know one another.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Protocol

from shoal.transport.port import PeerId

from .records import Head


@dataclass(frozen=True, slots=True)
class Standings:
    """What one member sees of the open round."""

    expected: Set[PeerId]  # connected members at work on this round, oneself included if one is
    held: Set[PeerId]  # whose contributions are here, whole and checked
    awaited_min: int  # before the time is up, so many at least are waited for
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
        expected, held = standings.expected, standings.held
        is_overdue = now >= standings.overdue_at
        reason = self._not_ready(standings, is_overdue)
        if reason is not None:
            self._ready_at = None
            return Wait(float("inf") if is_overdue else standings.overdue_at, reason)
        if self._ready_at is None:
            self._ready_at = now
        if self._me not in expected:
            return Wait(float("inf"), "not taking part in this round")
        # Only those whose contributions are here are known to be awake. Who has none itself comes after all who have.
        ahead = [peer for peer in expected & held if peer < self._me or self._me not in held]
        proposes_at = self._ready_at + len(ahead) * self._silence_s
        if now < proposes_at:
            return Wait(proposes_at, f"{min(ahead)} proposes")
        missing = len(expected - held)
        why = f"time is up, {missing} are missing" if missing else "everybody is in"
        return Propose(f"{why}, and {len(ahead)} before this one stayed silent" if ahead else why)

    def _not_ready(self, standings: Standings, is_overdue: bool) -> str | None:
        count = len(standings.held)
        if count < self._members_min:
            return f"{count} of at least {self._members_min} contributions are in"
        if is_overdue:
            return None
        if count < standings.awaited_min:
            return f"{count} of {standings.awaited_min} contributions are in"
        missing = len(standings.expected - standings.held)
        return f"{missing} of {len(standings.expected)} are still at work" if missing else None


def follow(mine: Head, told: Mapping[Head, Set[PeerId]]) -> Head | None:
    """The head to go over to, or None to stay.

    Higher round, then smaller record hash: a total order, so members who tell one another their heads end at the same
    one. Where only the state differs, the state of the most members prevails, then the smaller digest.
    """
    best = min(map(_rank, told), default=None)
    if best is None or best > _rank(mine):
        return None
    support = {head: len(peers) for head, peers in told.items() if _rank(head) == best}
    if best == _rank(mine):
        if not mine.digest:
            return None  # no common state: nothing to differ in
        support[mine] = support.get(mine, 0) + 1
    chosen = min(support, key=lambda head: (-support[head], head.digest))
    return None if chosen == mine else chosen


def _rank(head: Head) -> tuple[int, bytes]:
    return -head.round, head.record
