"""A member whose log was damaged: what it has signed may be lost, so for a while it says nothing.

It cannot have signed anything beyond what a quorum tells, and CAREFUL_ROUNDS after that. What is told counts once the
log up to there is here: a peer may tell any round, and would else silence this member for good.
"""

from collections.abc import Mapping, Set

from shoal.transport.port import PeerId

from .agreeing import Agreement
from .records import Head

CAREFUL_ROUNDS = 2  # that one may have signed beyond the newest that others tell: it votes on one, having decided one
ROUNDS_MAX = 2**31


class TakingCare:
    """One member's; it is careful from `begin` on."""

    def __init__(self, me: PeerId, agreement: Agreement) -> None:
        self._me = me
        self._agreement = agreement
        self._is_waiting = False  # for a quorum to tell where it stands
        self._through = -1

    def begin(self) -> None:
        """What this member has signed may be lost."""
        self._is_waiting = True
        self._agreement.abstain_through(ROUNDS_MAX)

    def is_over(self, told: Mapping[Head, Set[PeerId]], newest: int) -> bool:
        """Whether it has just come to its end: a quorum has told of a round, and that one and the next two are over.

        Args:
            told: who says that it stands where, but for those in doubt.
            newest: round of the log here.
        """
        if self._is_waiting:
            tellers = {peer for peers in told.values() for peer in peers}
            if not self._agreement.position.electorate.is_quorum(tellers | {self._me}) or not tellers:
                return False
            if max(head.round for head in told) > newest:
                return False  # the log is on its way here; or that is a lie, and its author doubted before long
            self._is_waiting = False
            self._through = newest + CAREFUL_ROUNDS
            self._agreement.abstain_through(self._through)
        if not 0 <= self._through < newest:
            return False
        self._through = -1
        return True
