"""What came for the round after the open one, kept until that opens: a contribution a member, and a few proposals."""

from shoal.transport.port import PeerId

from .proposals import PENDING_MAX
from .records import Offered, Proposed


class Early:
    """Of one round."""

    def __init__(self, members_max: int) -> None:
        self._members_max = members_max
        self._offers: dict[PeerId, Offered] = {}
        self._proposals: dict[PeerId, Proposed] = {}

    def add_offer(self, offered: Offered) -> None:
        """A member's first counts, here as later."""
        if len(self._offers) < self._members_max:
            self._offers.setdefault(offered.member, offered)

    def add_proposal(self, proposed: Proposed) -> None:
        if len(self._proposals) < PENDING_MAX:
            self._proposals.setdefault(proposed.proposer, proposed)

    def take(self) -> tuple[tuple[Offered, ...], tuple[Proposed, ...]]:
        """All of it; nothing stays."""
        taken = tuple(self._offers.values()), tuple(self._proposals.values())
        self._offers, self._proposals = {}, {}
        return taken
