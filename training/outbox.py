"""What is still to be said to one peer: a set of kinds, not a queue of messages.

Every message is made from the present state when it is sent, so nothing piles up for a peer that is slow or frozen, a
message that was lost is simply still due, and what has been overtaken is never sent. Nothing waits for the answer to
something else, else each hop of agreement might take a round trip. But a peer that has yet to answer, or did not last
time, has one request at a time, and one that never does costs one per pause, which doubles up to RETRY_S_MAX. To a
stranger nothing is said before it spoke first: that this node is in a swarm, and the swarm's id, are nobody's business
who does not know it.
"""

import enum
import math
from collections import Counter
from typing import Final

RETRY_S = 0.25  # after a first failure; doubles
RETRY_S_MAX = 8.0
HELLO_EVERY_S = 30.0  # heads and presences are compared anew so often, whatever was lost meanwhile
BALLOTS_AT_ONCE: Final = 4  # messages under way: the votes of two attempts; of other kinds one, or the older may win


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
        self._under_way: Counter[Kind] = Counter()  # messages that have yet to be answered
        self._answers = False  # the peer did when last asked
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
        """What to send now; report its fate with `sent`, `failed` or `dropped`."""
        if now < self._not_before or self._is_asked():
            return None
        if now >= self._hello_at:
            self._due.add(Kind.HELLO)
        kind = min(self._free(), default=None)
        if kind is None:
            return None
        self._due.discard(kind)
        self._under_way[kind] += 1
        if kind is Kind.HELLO:
            self._hello_at = now + HELLO_EVERY_S
        return kind

    def is_unsaid(self, kind: Kind) -> bool:
        """Whether this is due, or has yet to be answered."""
        return kind in self._due or self._under_way[kind] > 0

    def sent(self, kind: Kind) -> None:
        """It arrived."""
        self._under_way[kind] -= 1
        self._answers = True
        self._failures = 0

    def failed(self, kind: Kind, now: float) -> None:
        """No answer: it is due again after a pause. What fails together makes it no longer."""
        self._under_way[kind] -= 1
        self._answers = False
        self._due.add(kind)
        if now >= self._not_before:
            self._not_before = now + min(RETRY_S_MAX, RETRY_S * 2.0**self._failures)
            self._failures = min(self._failures + 1, 16)

    def dropped(self, kind: Kind) -> None:
        """The peer is not in the swarm: nothing is due but a hello, later."""
        self._under_way[kind] -= 1
        self._answers = False
        self._due.clear()

    def wakes_at(self) -> float:
        """When `take` may give something without a further `want`, or the end of what is under way."""
        if self._is_asked():
            return math.inf
        return max(self._not_before, float("-inf") if self._free() else self._hello_at)

    def _is_asked(self) -> bool:
        """Whether the peer is to answer before anything else is said."""
        return not self._answers and self._under_way.total() > 0

    def _free(self) -> list[Kind]:
        """What is due and need not wait for what is under way."""
        return [kind for kind in self._due if self._under_way[kind] < (BALLOTS_AT_ONCE if kind is Kind.BALLOTS else 1)]
