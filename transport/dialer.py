"""Whom to dial when: a node's kept peers, their addresses in turn, backoff and jitter. A state machine without I/O.

A peer's addresses are tried one after another; the next one is started when the last has failed or has not answered
for STAGGER_S, so that a dead address first in the list costs half a second and not a connection. A whole round of
failures doubles the pause before the next round. Events and the time go in, addresses to dial come out of `due`; the
same seed and events give the same dials.

IPv6 comes first among equals; addresses through a relay come after the others, for a relay costs somebody else's
bandwidth, but for one, which is the second of all, for it may be the only one that works; and last what this machine
cannot reach (`addresses.dialing_order`).

Of two peers who keep each other the one with the smaller id dials at once and the other gives it a head start:
otherwise they would mostly end up with two connections.

A malicious peer may announce any addresses, and accept and drop connections as it likes. It gets one dial of its
addresses per pause, of at most PAUSE_S_MAX with ADDRESSES_KEPT each, and a connection that was dropped early does not
shorten the pause.
"""

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from .addresses import dialing_order
from .port import Address, Missing, PeerId, Undialed
from .wire import ADDRESSES_MAX

STAGGER_S: Final = 0.5  # shorter: more useless dials to slow peers; longer: dead addresses cost more
HEAD_START_S: Final = 0.5
PAUSE_S_MIN: Final = 0.5
PAUSE_S_MAX: Final = 30.0  # how long a peer that comes back may have to wait for us, unless it dials itself
STABLE_S: Final = 10.0  # a connection that lasted so long proves the peer well: the next pause is short again
DIALS_MAX: Final = 16  # under way at once; sockets and handshakes (about 3 ms of CPU each)
PEERS_KEPT_MAX: Final = 1024
ADDRESSES_KEPT: Final = ADDRESSES_MAX


@dataclass(frozen=True, slots=True)
class Dial:
    """Dial this address now, and tell `ended` how it went."""

    peer: PeerId
    address: Address


@dataclass(slots=True)
class _Kept:
    addresses: tuple[Address, ...]
    next_at: float  # when to dial again
    index: int = 0  # of the address that comes next
    rounds_failed: int = 0
    dialing: list[Address] = field(default_factory=list[Address])
    connected_at: float | None = None
    failures: dict[Address, Undialed] = field(default_factory=dict[Address, Undialed])  # the last of each


class Dialer:
    """The schedule of all kept peers.

    Args:
        self_id: the dialing node.
        seed: of the jitter.
    """

    def __init__(self, self_id: PeerId, seed: int) -> None:
        self.self_id = self_id
        self._seed = seed
        self._kept: dict[PeerId, _Kept] = {}
        self._dials_under_way = 0
        self._families = frozenset({"ip4", "ip6"})

    @property
    def kept_count(self) -> int:
        return len(self._kept)

    def is_kept(self, peer: PeerId) -> bool:
        return peer in self._kept

    def keep(self, peer: PeerId, addresses: Iterable[Address], now: float, is_connected: bool) -> bool:
        """Stay connected to `peer`; again, with other addresses, to replace them. False: too many peers are kept."""
        addresses = tuple(dialing_order(tuple(dict.fromkeys(addresses))[:ADDRESSES_KEPT], self._families))
        kept = self._kept.get(peer)
        if kept is None:
            if peer == self.self_id or len(self._kept) >= PEERS_KEPT_MAX:
                return peer == self.self_id
            head_start = 0.0 if self.self_id < peer else HEAD_START_S
            kept = self._kept[peer] = _Kept(addresses, now + head_start)
            if is_connected:
                self.connected(peer, now)
        elif kept.addresses != addresses:
            kept.addresses, kept.index = addresses, 0
            kept.failures = {address: why for address, why in kept.failures.items() if address in addresses}
            if not kept.dialing:
                kept.next_at = min(kept.next_at, now + self._jitter(peer, 0) * PAUSE_S_MIN)
        return True

    def lead_out(self, families: frozenset[str]) -> None:
        """Which of ip4 and ip6 lead out of this machine, now that it is elsewhere."""
        if families != self._families:
            self._families = families
            for kept in self._kept.values():
                kept.addresses, kept.index = tuple(dialing_order(kept.addresses, families)), 0

    def hurry(self, now: float) -> None:
        """This machine is somewhere else: dial everybody who is missing at once, the pauses begin anew."""
        for kept in self._kept.values():
            kept.rounds_failed, kept.index = 0, 0
            if kept.connected_at is None:
                kept.next_at = min(kept.next_at, now)

    def release(self, peer: PeerId) -> None:
        """Dials under way are finished and reported as before."""
        self._kept.pop(peer, None)

    def addresses(self, peer: PeerId) -> tuple[Address, ...]:
        """Of a kept peer."""
        kept = self._kept.get(peer)
        return () if kept is None else kept.addresses

    @property
    def deadline(self) -> float:
        """When `due` should be asked again, at the latest."""
        if self._dials_under_way >= DIALS_MAX:
            return math.inf  # `ended` will make room
        waiting = (kept.next_at for kept in self._kept.values() if kept.connected_at is None and kept.addresses)
        return min(waiting, default=math.inf)

    def due(self, now: float) -> list[Dial]:
        """What to dial now: the longest overdue first, sorted by id where that is equal."""
        dials: list[Dial] = []
        overdue = sorted(
            (kept.next_at, peer)
            for peer, kept in self._kept.items()
            if kept.connected_at is None and kept.addresses and kept.next_at <= now
        )
        for _, peer in overdue[: DIALS_MAX - self._dials_under_way]:
            kept = self._kept[peer]
            address = kept.addresses[kept.index]
            self._advance(peer, kept, now)
            if address not in kept.dialing:
                kept.dialing.append(address)
                dials.append(Dial(peer, address))
        self._dials_under_way += len(dials)
        return dials

    def ended(self, dial: Dial, now: float, is_connected: bool) -> None:
        """A dial that `due` ordered is over."""
        self._dials_under_way -= 1
        kept = self._kept.get(dial.peer)
        if kept is None:
            return
        if dial.address in kept.dialing:
            kept.dialing.remove(dial.address)
        if is_connected:
            self.connected(dial.peer, now)
        elif kept.connected_at is None and not kept.dialing:  # the stagger is for slow addresses; this one has failed
            pause = 0.0 if kept.index else self._pause(dial.peer, kept.rounds_failed - 1)
            kept.next_at = min(kept.next_at, now + pause)

    def failed(self, dial: Dial, failure: Undialed) -> bool:
        """Why a dial came to nothing. Whether that is news."""
        kept = self._kept.get(dial.peer)
        if kept is None or kept.connected_at is not None or dial.address not in kept.addresses:
            return False
        last, kept.failures[dial.address] = kept.failures.get(dial.address), failure
        return last is None or last.why is not failure.why

    def missing(self) -> tuple[Missing, ...]:
        """As `Transport.missing`."""
        return tuple(
            Missing(
                peer, kept.addresses, tuple(kept.failures[each] for each in kept.addresses if each in kept.failures)
            )
            for peer, kept in sorted(self._kept.items())
            if kept.connected_at is None
        )

    def connected(self, peer: PeerId, now: float) -> None:
        """There is a connection to `peer`, whoever dialed."""
        kept = self._kept.get(peer)
        if kept is not None and kept.connected_at is None:
            kept.connected_at = now
            kept.index = 0
            kept.failures.clear()

    def disconnected(self, peer: PeerId, now: float) -> None:
        """The last connection to `peer` is gone."""
        kept = self._kept.get(peer)
        if kept is None or kept.connected_at is None:
            return
        if now - kept.connected_at >= STABLE_S:
            kept.rounds_failed = 0
        kept.connected_at, kept.index = None, 0
        kept.next_at = now + self._pause(peer, kept.rounds_failed)
        kept.rounds_failed += 1

    def _advance(self, peer: PeerId, kept: _Kept, now: float) -> None:
        """On to the next address, or, after the last, to the pause before the next round."""
        kept.index = (kept.index + 1) % len(kept.addresses)
        if kept.index:
            kept.next_at = now + STAGGER_S
        else:
            kept.next_at = now + STAGGER_S + self._pause(peer, kept.rounds_failed)
            kept.rounds_failed += 1

    def _pause(self, peer: PeerId, rounds_failed: int) -> float:
        """Seconds before the next round: doubled with each, and between half and all of that."""
        pause = min(PAUSE_S_MAX, PAUSE_S_MIN * 2.0 ** min(max(rounds_failed, 0), 16))
        return pause * self._jitter(peer, rounds_failed)

    def _jitter(self, peer: PeerId, round: int) -> float:
        """A number in [0.5, 1) that seed, peers and round fix: nodes that lost a peer together come back apart."""
        text = f"{self._seed}/{self.self_id}/{peer}/{round}".encode()
        return 0.5 + int.from_bytes(hashlib.blake2b(text, digest_size=6).digest(), "big") / 2**49
