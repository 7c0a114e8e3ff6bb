"""The books of a node's connections: who is connected, by which ways, and which of them is the best.

Of several connections with a peer the newest direct one carries what is begun from now on, else the newest that a relay
carries: who moved to another network has a new connection before anybody knows that the old one is dead.
"""

import enum
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import trio

from .addresses import Endpoint, Ranges
from .paths import Way
from .port import Address, Connection, PeerId, Refusal
from .pruning import Seat
from .tcp_service import Socket
from .yamux_service import YamuxStream


class Established(Protocol):
    """A connection whose other side has proved who it is."""

    @property
    def peer(self) -> PeerId: ...
    @property
    def rtt_s(self) -> float | None: ...
    @property
    def carried_bytes(self) -> int: ...
    @property
    def is_at_rest(self) -> bool: ...
    @property
    def stream_count(self) -> int: ...
    @property
    def is_over(self) -> bool: ...
    @property
    def ended(self) -> trio.Event:
        """Set once all of it is gone, a little after it is over."""
        ...

    async def open_stream(self, protocol: str) -> YamuxStream | Refusal: ...

    def doubt(self) -> None:
        """Let the other side show soon that it is there."""
        ...


class How(enum.Enum):
    """How a connection came about."""

    DIALED = "dialed"  # where the peer, or its relay, listens
    ACCEPTED = "accepted"
    PUNCHED = "punched"


@dataclass(eq=False, slots=True)
class Entry:
    """One connection."""

    number: int
    established: Established
    socket: Socket
    remote: Endpoint
    ranges: Ranges | None
    how: How
    made_at: float
    used_at: float
    carried_bytes: int = 0  # when it was last looked at
    is_closing: bool = False  # as good as gone

    @property
    def peer(self) -> PeerId:
        return self.established.peer

    @property
    def address(self) -> Address:
        return self.remote.address

    @property
    def seen(self) -> Endpoint:
        """The address that a name stood for when it was dialed."""
        if self.is_relayed or self.remote.kind in ("ip4", "ip6"):
            return self.remote
        remote = self.socket.remote
        return self.remote if remote is None else replace(remote, peer=self.peer)

    @property
    def is_outbound(self) -> bool:
        """Whether its address is one that can be dialed again."""
        return self.how is How.DIALED

    @property
    def is_relayed(self) -> bool:
        return self.remote.relay is not None


class Books:
    """All connections that stand, those that are being closed included."""

    def __init__(self) -> None:
        self._entries: dict[PeerId, list[Entry]] = {}

    @property
    def peers(self) -> tuple[PeerId, ...]:
        return tuple(self._entries)

    def __contains__(self, peer: PeerId) -> bool:
        return peer in self._entries

    def __iter__(self) -> Iterator[Entry]:
        return (entry for entries in list(self._entries.values()) for entry in list(entries))

    def count(self, peer: PeerId) -> int:
        """Those that are being closed included."""
        return len(self._entries.get(peer, ()))

    def enter(self, entry: Entry) -> bool:
        """Whether it is the first with its peer."""
        entries = self._entries.setdefault(entry.peer, [])
        entries.append(entry)
        return len(entries) == 1

    def strike(self, entry: Entry) -> bool:
        """Whether it was the last with its peer."""
        entries = self._entries[entry.peer]
        entries.remove(entry)
        if not entries:
            del self._entries[entry.peer]
        return not entries

    def standing(self, peer: PeerId) -> list[Entry]:
        """Those that are neither over nor being closed, the oldest first."""
        entries = self._entries.get(peer, ())
        return [entry for entry in entries if not entry.is_closing and not entry.established.is_over]

    def best(self, peer: PeerId) -> Entry | None:
        """The one that carries what is begun from now on."""
        return _best(self.standing(peer))

    def dialable(self, peer: PeerId) -> Endpoint | None:
        """Where a peer was dialed that is still connected so, and not through a relay."""
        entries = [each for each in self.standing(peer) if each.how is How.DIALED and not each.is_relayed]
        return entries[-1].seen if entries else None

    def was_dialed_by(self, peer: PeerId) -> bool:
        """Whether a peer has dialed this node, not through a relay, and is still connected so."""
        return any(each.how is How.ACCEPTED and not each.is_relayed for each in self.standing(peer))

    def way(self, peer: PeerId) -> Way:
        """How a peer is connected."""
        best = self.best(peer)
        return Way.NONE if best is None else Way.RELAYED if best.is_relayed else Way.DIRECT

    def outdone(self, settled_since: float) -> list[Entry]:
        """Relayed ones that nothing uses any more, as a direct one has stood since then."""
        return [
            entry
            for entry in self
            if entry.is_relayed
            and not entry.is_closing
            and not entry.established.stream_count
            and any(not each.is_relayed and each.made_at <= settled_since for each in self.standing(entry.peer))
        ]

    def summaries(self) -> tuple[Connection, ...]:
        """What a person wants to know of each peer's connections: of the best one, but for the bytes."""
        return tuple(_summary(peer, entries) for peer, entries in sorted(self._entries.items()))

    def seats(
        self, now: float, is_busy: Callable[[PeerId], bool], is_kept: Callable[[PeerId], bool]
    ) -> dict[Seat, Entry]:
        """Each connection that stands, as of now. A kept peer's further connections are as any stranger's."""
        relays = {entry.remote.relay for entry in self}
        seats: dict[Seat, Entry] = {}
        for peer in self._entries:
            standing = self.standing(peer)
            kept = _best(standing) if is_kept(peer) else None
            is_peer_busy = peer in relays or is_busy(peer)
            for entry in standing:
                established = entry.established
                if established.carried_bytes != entry.carried_bytes:
                    entry.carried_bytes, entry.used_at = established.carried_bytes, now
                is_under_way = is_peer_busy or not established.is_at_rest
                is_ours = entry.how is not How.ACCEPTED
                seat = Seat(entry.number, entry is kept, is_ours, is_under_way, entry.used_at, entry.ranges)
                seats[seat] = entry
        return seats


def _best(entries: Iterable[Entry]) -> Entry | None:
    return max(entries, key=lambda entry: (not entry.is_relayed, entry.number), default=None)


def _summary(peer: PeerId, entries: list[Entry]) -> Connection:
    best = _best(entries)
    assert best is not None
    return Connection(
        peer=peer,
        address=best.address,
        is_relayed=best.is_relayed,
        is_outbound=best.is_outbound,
        rtt_s=best.established.rtt_s,
        bytes_sent=sum(entry.socket.own.bytes_sent for entry in entries),
        bytes_received=sum(entry.socket.own.bytes_received for entry in entries),
        limit_bytes=best.socket.limit_bytes,
    )
