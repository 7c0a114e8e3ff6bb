"""Who is a member of which of this node's swarms: for its relay, which serves members."""

import math
from typing import Final

import trio

from shoal.training.records import Standing
from shoal.transport.port import PeerId

from .swarms import Swarms

LOOK_S: Final = 1.0  # how old the answer may be: it takes a walk over all members, and is needed for each circuit


class Fellows:
    """Known from one look at the swarms to the next."""

    def __init__(self, swarms: Swarms) -> None:
        self._swarms = swarms
        self._looked_at = -math.inf
        self._in: dict[PeerId, frozenset[bytes]] = {}

    def swarms_of(self, peer: PeerId) -> frozenset[bytes]:
        """The ids of this node's swarms in which `peer` is a member, as far as is known here."""
        now = trio.current_time()
        if now - self._looked_at >= LOOK_S:
            self._looked_at = now
            self._look()
        return self._in.get(peer, frozenset())

    def all(self) -> frozenset[PeerId]:
        """Everybody who is in any of them."""
        self.swarms_of(PeerId(""))
        return frozenset(self._in)

    def _look(self) -> None:
        found: dict[PeerId, set[bytes]] = {}
        for joined in self._swarms.all():
            for member in () if joined.service is None else joined.service.status().members:
                if member.standing is not Standing.LEFT:
                    found.setdefault(member.peer, set()).add(joined.folder.swarm)
        self._in = {peer: frozenset(ids) for peer, ids in found.items()}
