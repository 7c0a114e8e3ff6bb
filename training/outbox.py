"""What is still to be said to one peer: a set of kinds, not a queue of messages.

Every message is made from the present state when it is sent, so nothing piles up for a peer that is slow or frozen, a
message that was lost is simply still due, and what has been overtaken is never sent. A peer that never answers costs
one request per pause, which doubles up to RETRY_S_MAX. To a stranger nothing is said before it spoke first: that this
node is in a swarm, and the swarm's id, are nobody's business who does not know it.
"""

import enum
import math

RETRY_S = 0.25  # after a first failure; doubles
RETRY_S_MAX = 8.0
HELLO_EVERY_S = 30.0  # heads and presences are compared anew so often, whatever was lost meanwhile


class Kind(enum.IntEnum):
    """In the order they are sent."""

    HELLO = 1
    BALLOTS = 2  # votes and proposals
    WORDS = 3  # changes of membership that this member wants
    OFFER = 4  # this member's contributions
    HAVE = 5


class Outbox:
    """One peer's."""

    def __init__(self, now: float, *, is_acquainted: bool = True) -> None:
        self._due: set[Kind] = set()
        self._failures = 0
        self._not_before = now
        self._hello_at = now if is_acquainted else math.inf

    def meet(self, now: float) -> None:
        """The peer said hello: it is no stranger any more."""
        self._hello_at = min(self._hello_at, now + HELLO_EVERY_S)

    def want(self, kind: Kind) -> None:
        """Say this, again if it was said before."""
        self._due.add(kind)

    def take(self, now: float) -> Kind | None:
        """What to send now; report its fate with `sent` or `failed`."""
        if now < self._not_before:
            return None
        if now >= self._hello_at:
            self._due.add(Kind.HELLO)
        if not self._due:
            return None
        kind = min(self._due)
        self._due.discard(kind)
        if kind is Kind.HELLO:
            self._hello_at = now + HELLO_EVERY_S
        return kind

    def is_due(self, kind: Kind) -> bool:
        """Whether this was not said yet."""
        return kind in self._due

    def sent(self) -> None:
        self._failures = 0

    def failed(self, kind: Kind, now: float) -> None:
        """No answer: it is due again after a pause."""
        self._due.add(kind)
        self._not_before = now + min(RETRY_S_MAX, RETRY_S * 2.0**self._failures)
        self._failures = min(self._failures + 1, 16)

    def drop(self) -> None:
        """The peer is not in the swarm: nothing is due but a hello, later."""
        self._due.clear()

    def wakes_at(self) -> float:
        """When `take` may give something without a further `want`."""
        return max(self._not_before, float("-inf") if self._due else self._hello_at)
