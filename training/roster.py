"""Who is in the swarm as far as this member knows: presences, who is connected, and where everybody says they stand.

A peer may send presences of anybody, its own as often as it likes, and any head. Presences are signed by those they
speak of and ordered by sequence, so it cannot speak for others nor revive an old word of theirs. The table is bounded
by the spec's members_max: when it is full, strangers who are merely heard of are refused, and whoever is connected
makes room by displacing one who is not. It can claim a head that does not exist: whoever follows it finds nothing,
and doubts the claimant for longer and longer.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from blake3 import blake3

from shoal.transport.port import Address, PeerId

from .records import HELLO_KNOWN_MAX, Head, Offered, Present, Standing

DOUBT_S = 5.0  # a peer's head is ignored for so long after it led nowhere; doubles with each time
DOUBT_S_MAX = 300.0


@dataclass(slots=True)
class _Entry:
    present: Present
    is_connected: bool = False
    head: Head | None = None
    held: frozenset[bytes] = frozenset()  # contributions it says it holds
    idle_at: Head | None = None
    doubts: int = 0
    doubted_until: float = -1.0


class Roster:
    """The members known here, oneself not among them."""

    def __init__(self, me: PeerId, members_max: int) -> None:
        self._me = me
        self._entries_max = max(1, members_max - 1)
        self._entries: dict[PeerId, _Entry] = {}
        self._envelopes: set[bytes] = set()  # of all entries

    def hear(self, present: Present) -> bool:
        """Keep a presence if it is news and there is room; whether it was kept."""
        return self._put(present, may_displace=False)

    def greet(self, present: Present, head: Head) -> bool:
        """A peer said hello itself, over its own connection. False when there is no room for it, or it has left."""
        self._put(present, may_displace=True)
        entry = self._entries.get(present.member)
        if entry is None or entry.present.presence.standing is Standing.LEFT:
            return False
        entry.is_connected = True
        entry.head = head
        return True

    def tell(self, peer: PeerId, head: Head) -> None:
        """A connected peer says where it stands, or its contribution shows it."""
        entry = self._entries.get(peer)
        if entry is not None and entry.is_connected:
            entry.head = head

    def tell_work(self, peer: PeerId, held: Iterable[bytes], is_idle: bool) -> None:
        """Which contributions' payloads can be had from a connected peer, and whether it adds one; the newest word
        counts.
        """
        entry = self._entries.get(peer)
        if entry is not None and entry.is_connected:
            entry.held = frozenset(held)
            entry.idle_at = entry.head if is_idle else None

    def is_idle_at(self, peer: PeerId, head: Head) -> bool:
        """Whether it said that it contributes nothing to the round after `head`."""
        entry = self._entries.get(peer)
        return entry is not None and entry.idle_at == head

    def holders(self, offered: Offered) -> tuple[PeerId, ...]:
        """From whom its payload can be had: its author first, then who says so, then the other members, who may
        have it all the same.
        """
        peers = self.connected()
        ranks = {peer: (peer != offered.member, offered.hash not in self._entries[peer].held) for peer in peers}
        return tuple(sorted(peers, key=lambda peer: (ranks[peer], peer)))

    def lose(self, peer: PeerId) -> None:
        """The connection is gone."""
        entry = self._entries.get(peer)
        if entry is not None:
            entry.is_connected = False
            entry.head = None
            entry.held = frozenset()

    def doubt(self, peer: PeerId, now: float) -> None:
        """The head that `peer` told led nowhere."""
        entry = self._entries.get(peer)
        if entry is not None:
            entry.doubted_until = now + min(DOUBT_S_MAX, DOUBT_S * 2.0**entry.doubts)
            entry.doubts = min(entry.doubts + 1, 16)

    def trust(self, peer: PeerId) -> None:
        """What `peer` told proved true."""
        entry = self._entries.get(peer)
        if entry is not None:
            entry.doubts = 0
            entry.doubted_until = -1.0

    def is_member(self, peer: PeerId) -> bool:
        entry = self._entries.get(peer)
        return entry is not None and entry.present.presence.standing is not Standing.LEFT

    def is_connected(self, peer: PeerId) -> bool:
        entry = self._entries.get(peer)
        return entry is not None and entry.is_connected

    def standing(self, peer: PeerId) -> Standing | None:
        entry = self._entries.get(peer)
        return None if entry is None else entry.present.presence.standing

    def connected(self) -> tuple[PeerId, ...]:
        """All connected members, sorted."""
        return tuple(sorted(peer for peer, entry in self._entries.items() if entry.is_connected))

    def trainers(self) -> tuple[PeerId, ...]:
        """The connected ones who contribute, sorted."""
        return tuple(peer for peer in self.connected() if self.standing(peer) is Standing.TRAINER)

    def head(self, peer: PeerId) -> Head | None:
        entry = self._entries.get(peer)
        return None if entry is None else entry.head

    def heads(self, now: float) -> dict[PeerId, Head]:
        """Where the connected members say they stand, by peer id; those in doubt say nothing."""
        told = ((peer, self._entries[peer]) for peer in self.connected())
        return {peer: entry.head for peer, entry in told if entry.head is not None and entry.doubted_until <= now}

    def doubt_ends_at(self, now: float) -> float:
        """When the next doubt ends; infinity if there is none."""
        ends = (entry.doubted_until for entry in self._entries.values() if entry.is_connected)
        return min((end for end in ends if end > now), default=float("inf"))

    def is_anybody_behind(self, round: int) -> bool:
        """Whether a connected member has yet to say that it stands at `round`."""
        heads = (self._entries[peer].head for peer in self.connected())
        return any(head is None or head.round < round for head in heads)

    def table(self) -> tuple[tuple[PeerId, Standing, bool, int | None], ...]:
        """For people: peer, standing, whether it is connected, the round it says it stands at."""
        return tuple(
            (
                peer,
                entry.present.presence.standing,
                entry.is_connected,
                None if entry.head is None else entry.head.round,
            )
            for peer, entry in sorted(self._entries.items())
        )

    def addresses(self) -> dict[PeerId, tuple[Address, ...]]:
        """Where the members are that one wants to be connected to."""
        return {
            peer: tuple(Address(address) for address in entry.present.presence.addresses)
            for peer, entry in self._entries.items()
            if entry.present.presence.standing is not Standing.LEFT and entry.present.presence.addresses
        }

    def envelopes(self) -> tuple[bytes, ...]:
        """All presences, for the disk."""
        return tuple(self._entries[peer].present.envelope for peer in sorted(self._entries))

    def introductions(self, guest: PeerId) -> tuple[bytes, ...]:
        """Presences to tell `guest`: of members, connected ones first, at most HELLO_KNOWN_MAX, another choice for
        each guest.
        """
        members = [peer for peer in self._entries if peer != guest and self.is_member(peer)]
        if len(members) > HELLO_KNOWN_MAX:
            members.sort(key=lambda peer: (not self.is_connected(peer), blake3(f"{guest}{peer}".encode()).digest()))
        return tuple(self._entries[peer].present.envelope for peer in sorted(members[:HELLO_KNOWN_MAX]))

    def knows(self, envelope: bytes) -> bool:
        """Whether these very bytes are kept: they need no second look at their signature."""
        return envelope in self._envelopes

    def _put(self, present: Present, *, may_displace: bool) -> bool:
        if present.member == self._me:
            return False
        entry = self._entries.get(present.member)
        if entry is not None:
            if present.sequence <= entry.present.sequence:
                return False
            self._envelopes.discard(entry.present.envelope)
            self._envelopes.add(present.envelope)
            entry.present = present
            if present.presence.standing is Standing.LEFT:
                entry.is_connected = False
                entry.head = None
            return True
        if len(self._entries) >= self._entries_max and not self._make_room(may_displace):
            return False
        self._entries[present.member] = _Entry(present)
        self._envelopes.add(present.envelope)
        return True

    def _make_room(self, may_displace: bool) -> bool:
        """Forget one who has left, else, for a connected newcomer, the longest known of those who are not connected."""
        left = (peer for peer in self._entries if not self.is_member(peer))
        absent = (peer for peer, entry in self._entries.items() if may_displace and not entry.is_connected)
        for peer in (*left, *absent):
            self._envelopes.discard(self._entries.pop(peer).present.envelope)
            return True
        return False
