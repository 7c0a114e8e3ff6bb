"""Opens signed envelopes, each once: what many peers relay is verified the first time and recognized by its hash
after that.

A peer may send any bytes, its own or others', forged or real, as fast as the transport lets it. It gets at most its
allowance of verifications; what it repeats costs a hash. However many keys it comes under, they have no more together
than PEERS_MAX peers: beyond these a newcomer goes on with what the one that was quiet for longest has left.
"""

from collections.abc import Callable
from typing import TypeVar

from blake3 import blake3

from shoal.transport.port import PeerId
from shoal.transport.wire import Malformed

from .allowance import Allowance
from .records import Offered, Present

OPENED_MAX = 512  # envelopes remembered; memory: up to 5 KB each
PEERS_MAX = 512  # allowances; more than a node has connections

Opened = TypeVar("Opened", Offered, Present)


class Opener:
    """One swarm's."""

    def __init__(self, swarm: bytes) -> None:
        self._swarm = swarm
        self._opened: dict[tuple[object, bytes], object] = {}
        self._allowances: dict[PeerId, Allowance] = {}  # who was quiet for longest comes first

    def open(
        self, now: float, peer: PeerId, data: bytes, open_: Callable[[bytes, bytes], Opened | Malformed]
    ) -> Opened | Malformed:
        """What `open_` (one of records.open_*) makes of `data`, which `peer` sent."""
        key = (open_, blake3(data).digest())
        known = self._opened.get(key)
        if known is not None:
            return known  # type: ignore[return-value]  # the key holds the function whose value this is
        if not self.allows(now, peer, 1):
            return Malformed("too many envelopes in too short a time")
        opened = open_(data, self._swarm)
        if not isinstance(opened, Malformed):  # else one liar's garbage would push the others' envelopes out
            if len(self._opened) >= OPENED_MAX:
                del self._opened[next(iter(self._opened))]
            self._opened[key] = opened
        return opened

    def allows(self, now: float, peer: PeerId, count: int) -> bool:
        """Whether so many more signatures of what `peer` sent may be verified now."""
        allowance = self._allowances.pop(peer, None)
        if allowance is None and len(self._allowances) >= PEERS_MAX:
            allowance = self._allowances.pop(next(iter(self._allowances)))
        self._allowances[peer] = allowance or Allowance(now)
        return self._allowances[peer].takes(now, count)
