"""What a relay grants to whom: reservations and circuits, their bounds and ends. A state machine without I/O.

A relay pays for others' traffic, so everything it gives is counted: who may be reached through it (a reservation, for
`reservation_s`, as long as its holder stays connected), who is being connected to whom (a circuit, half open or open),
and the bytes of a day.

A circuit is *full* if its ends are both members of one swarm that this node is in, or if it serves strangers as well.
All others get a *punching* circuit: enough to meet and to open a direct connection, too little to live on. The limit in
each answer says which it is.

What a malicious peer may do: reserve, and ask for circuits to anybody, as often as it likes, under many ids and from
many addresses. What it achieves: one reservation per connection, as a stranger of the strangers' quarter alone, of
which one range of addresses has an eighth (narrow) or a quarter (wide); circuits only to who has reserved, at most
`circuits_per_peer_max` of its own and as many to any one target, each of `circuit_bytes_max` and `circuit_s_max`; as a
stranger PUNCHING ones, which are counted apart. It cannot make a relay dial, send to anybody who has not asked for it,
or carry more than `day_bytes_max` a day. Whoever is a member of an open swarm of ours is no stranger: that is what an
open swarm means.
"""

import collections
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from .addresses import Ranges
from .port import PeerId
from .relay_messages import Limit, Status

DAY_S: Final = 24 * 3600.0
PUNCHING: Final = Limit(120, 128 * 1024)  # as go-libp2p: for two handshakes and an agreement on when to dial
PUNCHING_FROM_MAX: Final = 4  # of one source; fewer: a newcomer meets its swarm more slowly
PUNCHING_TO_MAX: Final = 8  # to one target
STRANGERS_SHARE: Final = 4  # of reservations and of circuits, one in so many
NARROW_SHARE: Final = 8  # of the strangers' places, one in so many for a narrow range of addresses
WIDE_SHARE: Final = 4  # and for a wide one


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """What a relay gives in all; each names what it costs."""

    reservations_max: int = 128  # memory: a connection each, 0.3 MB
    circuits_max: int = 128  # full ones; memory: up to 2 MB each where both sides send and nobody reads
    circuits_per_peer_max: int = 16  # fairness; below the streams that one peer may have open
    circuit_bytes_max: int = 10**9  # bandwidth; both directions together
    circuit_s_max: float = 3600.0  # bandwidth; then both sides connect anew
    reservation_s: float = 3600.0  # how long one is good without being renewed
    day_bytes_max: int = 50 * 10**9  # bandwidth; of all circuits, each byte once
    mbit_max: float = 0.0  # all circuits together, both directions; 0: what the line takes
    serves_strangers: bool = True  # as it does members

    @property
    def of_circuit(self) -> Limit:
        """A full one, as it is told to peers."""
        return Limit(int(self.circuit_s_max), self.circuit_bytes_max)

    @property
    def bytes_per_s_max(self) -> float:
        """Of all circuits together."""
        return self.mbit_max * 1e6 / 8 or math.inf

    @property
    def strangers_max(self) -> int:
        """Reservations of strangers: all, or their share."""
        return self.reservations_max if self.serves_strangers else max(1, self.reservations_max // STRANGERS_SHARE)

    @property
    def punching_max(self) -> int:
        """Circuits for punching, beside the full ones."""
        return max(1, self.circuits_max // STRANGERS_SHARE)


@dataclass(frozen=True, eq=False, slots=True)
class Circuit:
    """Granted; half open until the target agrees."""

    source: PeerId
    target: PeerId
    swarm: bytes | None  # which pays for it: both are members of it; None: strangers
    limit: Limit
    is_full: bool
    ranges: Ranges | None  # of the source


@dataclass(frozen=True, slots=True)
class _Reservation:
    until: float
    ranges: Ranges | None


class _Places:
    """Circuits of one kind, and how many there may be: in all, of one source, to one target, from one range."""

    def __init__(self, all_max: int, from_max: int, to_max: int, narrow_max: int) -> None:
        self._bounds = all_max, from_max, to_max, narrow_max
        self._taken: collections.Counter[object] = collections.Counter()

    def have_room(self, circuit: Circuit) -> bool:
        """Whether there is a place for one more."""
        taken = zip(_places_of(circuit), self._bounds, strict=False)  # who is exempt of ranges has none
        return all(self._taken[place] < bound for place, bound in taken)

    def take(self, circuit: Circuit) -> None:
        self._taken.update(_places_of(circuit))

    def give_back(self, circuit: Circuit) -> None:
        for place in _places_of(circuit):
            self._taken[place] -= 1
            if not self._taken[place]:
                del self._taken[place]


def _places_of(circuit: Circuit) -> tuple[object, ...]:
    """What a circuit counts for, in the order of `_Places`."""
    narrow = () if circuit.ranges is None else (circuit.ranges.narrow,)
    return "all", ("from", circuit.source), ("to", circuit.target), *narrow


class Relay:
    """The books of one relay.

    Args:
        swarms_of: the ids of those swarms of this node's own in which a peer is a member. Asked often: must be cheap.
    """

    def __init__(self, limits: RelayLimits, swarms_of: Callable[[PeerId], frozenset[bytes]] | None = None) -> None:
        self.limits = limits
        self.swarms_of = swarms_of or _in_no_swarm
        self.is_public = True  # a relay that others cannot dial is of no use: it says no
        self._reserved: dict[PeerId, _Reservation] = {}
        self._left: dict[Circuit, int] = {}  # bytes that each open circuit may still carry
        per_peer_max, punching_max = limits.circuits_per_peer_max, limits.punching_max
        self._full = _Places(limits.circuits_max, per_peer_max, per_peer_max, limits.circuits_max)
        narrow_max = max(1, punching_max // NARROW_SHARE)
        self._punching = _Places(punching_max, PUNCHING_FROM_MAX, PUNCHING_TO_MAX, narrow_max)
        self._busy: collections.Counter[PeerId] = collections.Counter()  # at an end of so many circuits
        self._day_began = -math.inf
        self._day_left = limits.day_bytes_max

    @property
    def reservation_count(self) -> int:
        """Expired ones included, until they are in somebody's way."""
        return len(self._reserved)

    @property
    def circuit_count(self) -> int:
        return len(self._left)

    def reserve(self, peer: PeerId, now: float, ranges: Ranges | None = None) -> tuple[Status, Limit]:
        """Let others reach `peer` for `reservation_s` from now; again, to renew. With what circuits to it may carry.

        Args:
            ranges: of the address at which it is connected; None: exempt.
        """
        is_member = bool(self.swarms_of(peer))
        limit = self.limits.of_circuit if is_member or self.limits.serves_strangers else PUNCHING
        if not self.is_public:
            return Status.PERMISSION_DENIED, limit
        # Who is refused had better look for another relay: so it is also where nothing can be carried.
        if self._is_spent(now) or not self._may_hold(peer, ranges, now, is_member=is_member):
            return Status.RESERVATION_REFUSED, limit
        self._reserved[peer] = _Reservation(now + self.limits.reservation_s, ranges)
        return Status.OK, limit

    def connect(self, source: PeerId, target: PeerId, now: float, ranges: Ranges | None = None) -> Circuit | Status:
        """A circuit, or why there is none. Whoever gets one says `closed` at its end.

        Args:
            ranges: of the address at which `source` is connected; None: exempt.
        """
        reservation = self._reserved.get(target)
        if source == target or not self.is_public:
            return Status.PERMISSION_DENIED
        if reservation is None or reservation.until <= now:
            return Status.NO_RESERVATION
        shared = self.swarms_of(source) & self.swarms_of(target)
        is_full = bool(shared) or self.limits.serves_strangers
        limit = self.limits.of_circuit if is_full else PUNCHING
        circuit = Circuit(source, target, min(shared, default=None), limit, is_full, ranges)
        places = self._places(circuit)
        if self._is_spent(now) or not places.have_room(circuit):
            return Status.RESOURCE_LIMIT_EXCEEDED
        places.take(circuit)
        self._left[circuit] = limit.data_bytes
        self._busy.update((source, target))
        return circuit

    def spend(self, circuit: Circuit, count: int, now: float) -> bool:
        """Whether an open circuit may carry so many bytes more; if not, it is at its end."""
        if self._is_spent(now) or self._left[circuit] < count:
            return False
        self._left[circuit] -= count
        self._day_left -= count
        return True

    def closed(self, circuit: Circuit) -> None:
        """A circuit that `connect` granted is over, or has not come about."""
        del self._left[circuit]
        self._places(circuit).give_back(circuit)
        for peer in (circuit.source, circuit.target):
            self._busy[peer] -= 1
            if not self._busy[peer]:
                del self._busy[peer]

    def is_busy(self, peer: PeerId, now: float) -> bool:
        """Whether `peer` has reserved, or is at an end of a circuit."""
        reservation = self._reserved.get(peer)
        return (reservation is not None and reservation.until > now) or peer in self._busy

    def disconnected(self, peer: PeerId) -> None:
        """Nobody can be passed on to a peer who is not there."""
        self._reserved.pop(peer, None)

    def _places(self, circuit: Circuit) -> _Places:
        return self._full if circuit.is_full else self._punching

    def _is_spent(self, now: float) -> bool:
        """Whether the day's bytes are used up. A day begins when the one before is over and somebody asks."""
        if now - self._day_began >= DAY_S:
            self._day_began, self._day_left = now, self.limits.day_bytes_max
        return self._day_left <= 0

    def _may_hold(self, peer: PeerId, ranges: Ranges | None, now: float, *, is_member: bool) -> bool:
        """Whether there is room for a reservation of `peer`, beside those of others that have not expired."""
        if is_member and peer in self._reserved:
            return True
        others = {held: each for held, each in self._reserved.items() if each.until > now and held != peer}
        if len(others) >= self.limits.reservations_max:
            return False
        if not is_member:
            most = self.limits.strangers_max
            strangers = [each for held, each in others.items() if not self.swarms_of(held)]
            wide = [each for each in strangers if _are_in_one(ranges, each.ranges)]
            narrow_count = sum(each.ranges == ranges for each in wide)
            if (
                len(strangers) >= most
                or len(wide) >= max(1, most // WIDE_SHARE)
                or narrow_count >= max(1, most // NARROW_SHARE)
            ):
                return False
        if peer not in self._reserved:
            self._reserved = others
        return True


def _in_no_swarm(_: PeerId) -> frozenset[bytes]:
    return frozenset()


def _are_in_one(one: Ranges | None, other: Ranges | None) -> bool:
    """Whether two addresses are in one wide range."""
    return one is not None and other is not None and one.wide == other.wide
