"""What one connection's talker has yet to say. A shell.

A peer that takes nothing costs no more than the bounds here: new offers and ballots push out the oldest.
"""

from collections import deque
from contextlib import suppress

import trio

from .calls import BALLOTS_MAX
from .outbox import Kind, Outbox
from .records import Offered
from .votes import Ballot, Decided

OFFERS_KEPT = 8  # own contributions that a member newly met hears of


class Talker:
    """One connection's talker task, seen from outside of it."""

    def __init__(self, now: float, *, is_acquainted: bool) -> None:
        self.outbox = Outbox(now, is_acquainted=is_acquainted)
        self.wake = trio.Event()
        self.scope = trio.CancelScope()
        self.offers: deque[Offered] = deque(maxlen=OFFERS_KEPT)
        self.is_voting = False  # ballots are on their way
        self._ballots: deque[Ballot] = deque(maxlen=BALLOTS_MAX)

    def said(self, offered: Offered) -> None:
        """It has arrived; the next one's turn."""
        with suppress(ValueError):  # many new ones may have pushed it out
            self.offers.remove(offered)
        self.outbox.want(Kind.OFFER)

    def put(self, ballot: Ballot) -> None:
        """To be said; what was said before and is repeated comes last."""
        with suppress(ValueError):
            self._ballots.remove(ballot)
        self._ballots.append(ballot)

    def put_back(self, ballots: tuple[Ballot, ...]) -> None:
        """They did not arrive; newer ones keep their places."""
        for ballot in reversed(ballots):
            if len(self._ballots) < BALLOTS_MAX and ballot not in self._ballots:
                self._ballots.appendleft(ballot)

    def take(self, round: int) -> tuple[Ballot, ...]:
        """What is to be said, but for what has been overtaken."""
        # Of the round before, too: others may need this member's vote to see how it ended.
        ballots = tuple(each for each in self._ballots if each.round >= round - 1 or isinstance(each, Decided))
        self._ballots.clear()
        return ballots
