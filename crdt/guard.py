"""Whether this node may write: it must not begin a second history of its own chain. A machine without I/O.

A data directory that was copied, restored from a backup or emptied is behind what its node had written. Whoever goes on
writing there forks the chain, honestly, and nothing it writes counts any more. So before its first write after each
start a node hears from its peers how far its own chain goes, whatever its disk says of it: an emptied disk looks like a
newcomer's. What proves that the disk is behind is an operation that this key signed and this disk has not: then the
node does not write any more, and needs a new key.

While no peer answers, nothing is written. To write after some time alone would be safe for who was always alone, for
whom there is nobody to read it; it would fork the chain of who was restored and started without its network.

A peer may claim any head: ahead of the disk without the operations that prove it, it has said nothing; behind or none,
it is one of ANSWERS_MAX who are asked. What it cannot: keep a node from writing, while another peer answers truly.
"""

import enum
import math
from typing import Final

from shoal.transport.port import PeerId

ANSWERS_MAX: Final = 3  # peers that have to agree, if so many answer
PATIENCE_S: Final = 3.0  # after the first answer


class Standing(enum.Enum):
    """Whether writes go on."""

    ASKING = "asking its peers how far its own chain goes"
    WRITES = "writes"
    REFUSES = "refuses to write"


class Guard:
    """See the module's text.

    Args:
        is_damaged: the disk has lost what it had, and says so: operations that come back prove nothing.
        has_ended: nothing more can count on this node's chain, whatever the peers say.
    """

    def __init__(self, *, is_damaged: bool = False, has_ended: bool = False) -> None:
        self.standing = Standing.REFUSES if has_ended else Standing.ASKING
        self.is_damaged = is_damaged
        self._agree: set[PeerId] = set()
        self._decides_at = math.inf

    def agrees(self, peer: PeerId, now: float) -> None:
        """A peer's head of this node's chain is one that this node has too."""
        if self.standing is Standing.ASKING and peer not in self._agree:
            self._agree.add(peer)
            self._decides_at = min(self._decides_at, now + PATIENCE_S)
            self.look(now)

    def came_back(self) -> None:
        """An operation that this key signed came from a peer, and was not on disk."""
        if self.is_damaged and self.standing is Standing.ASKING:
            self._agree.clear()  # they said so of less
            self._decides_at = math.inf
        else:
            self.standing = Standing.REFUSES

    def look(self, now: float) -> None:
        """Decide, if it is time to."""
        if self.standing is Standing.ASKING and (len(self._agree) >= ANSWERS_MAX or now >= self._decides_at):
            self.standing = Standing.WRITES

    @property
    def deadline(self) -> float:
        """When to `look`."""
        return self._decides_at if self.standing is Standing.ASKING else math.inf
