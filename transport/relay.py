"""What a relay grants to whom: reservations and circuits, their bounds and ends. A state machine without I/O.

A relay pays for others' traffic, so everything it gives is counted: who may be reached through it (a reservation, for
`reservation_s`, as long as its holder stays connected), and who is being connected to whom (a circuit, half open or
open).

What a malicious peer may do: reserve, and ask for circuits to anybody, as often as it likes, under many ids. What it
achieves: one reservation per connection, of `reservations_max`; circuits only to who has reserved, at most
`circuits_per_peer_max` of its own and as many to any one target, each of `circuit_bytes_max` and `circuit_s_max`. It
cannot make a relay dial, or send to anybody who has not asked for it.
"""

import collections
from dataclasses import dataclass

from .port import PeerId
from .relay_messages import Limit, Status


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """What a relay gives in all; each names what it costs."""

    reservations_max: int = 128  # memory: a connection each, 0.3 MB
    circuits_max: int = 128  # memory: up to 2 MB each where both sides send and nobody reads
    circuits_per_peer_max: int = 16  # fairness; below the streams that one peer may have open
    circuit_bytes_max: int = 10**9  # bandwidth; both directions together
    circuit_s_max: float = 3600.0  # bandwidth; then both sides connect anew
    reservation_s: float = 3600.0  # how long one is good without being renewed

    @property
    def of_circuit(self) -> Limit:
        """As it is told to peers."""
        return Limit(int(self.circuit_s_max), self.circuit_bytes_max)


@dataclass(frozen=True, eq=False, slots=True)
class Circuit:
    """Granted; half open until the target agrees."""

    source: PeerId
    target: PeerId


class Relay:
    """The books of one relay."""

    def __init__(self, limits: RelayLimits) -> None:
        self.limits = limits
        self._reserved: dict[PeerId, float] = {}  # until when
        self._circuits: set[Circuit] = set()
        self._from: collections.Counter[PeerId] = collections.Counter()
        self._to: collections.Counter[PeerId] = collections.Counter()

    @property
    def reservation_count(self) -> int:
        """Expired ones included, until they are in somebody's way."""
        return len(self._reserved)

    @property
    def circuit_count(self) -> int:
        return len(self._circuits)

    def reserve(self, peer: PeerId, now: float) -> Status:
        """Let others reach `peer` for `reservation_s` from now; again, to renew."""
        if peer not in self._reserved and len(self._reserved) >= self.limits.reservations_max:
            self._reserved = {held: until for held, until in self._reserved.items() if until > now}
            if len(self._reserved) >= self.limits.reservations_max:
                return Status.RESERVATION_REFUSED
        self._reserved[peer] = now + self.limits.reservation_s
        return Status.OK

    def connect(self, source: PeerId, target: PeerId, now: float) -> Circuit | Status:
        """A circuit, or why there is none. Whoever gets one says `closed` at its end."""
        if source == target:
            return Status.PERMISSION_DENIED
        if self._reserved.get(target, now) <= now:
            return Status.NO_RESERVATION
        per_peer_max = self.limits.circuits_per_peer_max
        if (
            len(self._circuits) >= self.limits.circuits_max
            or self._from[source] >= per_peer_max
            or self._to[target] >= per_peer_max
        ):
            return Status.RESOURCE_LIMIT_EXCEEDED
        circuit = Circuit(source, target)
        self._circuits.add(circuit)
        self._from[source] += 1
        self._to[target] += 1
        return circuit

    def closed(self, circuit: Circuit) -> None:
        """A circuit that `connect` granted is over, or has not come about."""
        self._circuits.remove(circuit)
        for counts, peer in ((self._from, circuit.source), (self._to, circuit.target)):
            counts[peer] -= 1
            if not counts[peer]:
                del counts[peer]

    def is_busy(self, peer: PeerId, now: float) -> bool:
        """Whether `peer` has reserved, or is at an end of a circuit."""
        return self._reserved.get(peer, now) > now or peer in self._from or peer in self._to

    def disconnected(self, peer: PeerId) -> None:
        """Nobody can be passed on to a peer who is not there."""
        self._reserved.pop(peer, None)
