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
        self._ballots: deque[Ballot] = deque(maxlen=BALLOTS_MAX)
        self._under_way: list[Ballot] = []

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

    def take(self, round: int) -> tuple[Ballot, ...]:
        """What is to be said, but for what has been overtaken; tell its end to `ended`. What is under way waits: on a
        slow line a large proposal would be repeated before it has come.
        """
        # Of the round before, too: others may need this member's vote to see how it ended.
        wanted = [each for each in self._ballots if each.round >= round - 1 or isinstance(each, Decided)]
        ballots = tuple(each for each in wanted if each not in self._under_way)
        self._ballots = deque((each for each in wanted if each in self._under_way), BALLOTS_MAX)
        self._under_way += ballots
        return ballots

    def ended(self, ballots: tuple[Ballot, ...], *, have_arrived: bool) -> None:
        """These were taken; what did not arrive is to be said again, newer ones keep their places."""
        for ballot in reversed(ballots):
            self._under_way.remove(ballot)
            if not have_arrived and len(self._ballots) < BALLOTS_MAX and ballot not in self._ballots:
                self._ballots.appendleft(ballot)
        if self._ballots:
            self.outbox.want(Kind.BALLOTS)
