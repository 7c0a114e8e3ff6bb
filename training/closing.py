"""When a round may close, as one member sees it: everybody who is at work is in, or its time is up and enough are in.

The members need not see the same: whose turn it is proposes when it finds so, the others wait for it from when they do.
A peer that says it is at work and never is costs a round its whole span, once: who was not in the last round and does
not say that it stands where the others do is not waited for.
"""

from collections.abc import Set
from dataclasses import dataclass

from shoal.transport.port import PeerId


@dataclass(frozen=True, slots=True)
class Standings:
    """What one member sees of the open round."""

    expected: Set[PeerId]  # connected members at work on this round, oneself included if one is
    ready: Set[PeerId]  # whose contributions from the newest state can be taken
    taken_count: int  # of members whose contributions, fresh or not, can be taken
    awaited_min: int  # before the time is up, so many at least are waited for
    least: int  # a round takes no fewer
    overdue_at: float  # deadline plus grace


def missing(now: float, standings: Standings) -> str | None:
    """What is waited for; None: the round may close."""
    if standings.taken_count < standings.least:
        return f"{standings.taken_count} of at least {standings.least} contributions are in"
    if now >= standings.overdue_at:
        return None
    if len(standings.ready) < standings.awaited_min:
        return f"{len(standings.ready)} of {standings.awaited_min} contributions are in"
    late = len(standings.expected - standings.ready)
    return f"{late} of {len(standings.expected)} are still at work" if late else None


def unspread(now: float, standings: Standings, available: Set[PeerId]) -> str | None:
    """What has yet to reach a quorum: contributions of other members than those; None if nothing is waited for."""
    count = len(standings.ready - available)
    return f"{count} contributions have yet to reach a quorum" if count and now < standings.overdue_at else None
