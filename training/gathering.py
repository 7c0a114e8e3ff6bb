"""When a member may start to work: once it has heard where the others stand, else its turn may be stale before it is
done; and in round 1 with all the members the spec awaits, or a moment after others have started without them.
"""

from collections.abc import Iterable

from shoal.transport.port import PeerId

from .roster import Roster

HEAR_S = 2.0  # dialing and a hello are a few round trips; after a restart, members who are gone cost so much


class Gathering:
    """Of one member."""

    def __init__(self, members_start: int, patience_s: float) -> None:
        self._members_start = members_start
        self._patience_s = patience_s
        self._heard_at: float | None = None
        self._unheard: frozenset[PeerId] = frozenset()
        self._hears_until = float("-inf")

    def hear_out(self, now: float, peers: Iterable[PeerId]) -> None:
        """These are known or connected, and may tell where the swarm stands by now."""
        self._unheard = frozenset(peers)
        self._hears_until = now + HEAR_S

    def is_hearing(self, now: float, roster: Roster) -> bool:
        """Whether one of them has yet to say where it stands."""
        return now < self._hears_until and any(roster.head(peer) is None for peer in self._unheard)

    def hear_start(self, now: float) -> None:
        """Somebody is at work on round 1."""
        if self._heard_at is None:
            self._heard_at = now

    def missing(self, now: float, count: int) -> str | None:
        """What is waited for, with `count` members in view; None if the round may start."""
        if count >= self._members_start or now >= self._starts_short_at():
            return None
        return f"{count} of {self._members_start} members are connected"

    def deadline(self, now: float) -> float:
        """When `missing` or `is_hearing` may change by itself."""
        times = (self._hears_until, self._starts_short_at())
        return min((at for at in times if now < at), default=float("inf"))

    def _starts_short_at(self) -> float:
        """When to begin with fewer than `members_start` in view, because others have begun.

        Not at once: the missing ones' hellos are on their way as a rule, and members who begin with different views
        train on overlapping shards, by accidents of timing.
        """
        return float("inf") if self._heard_at is None else self._heard_at + self._patience_s
