"""Who is in the swarm as far as this member knows: presences, who is connected, and where everybody says they stand.

A peer may say its own presence as often as it likes, and any head. Of others one hears through the store, where each
writes its own presence in a signed chain, ordered by sequence: so nobody speaks for others nor revives an old word of
theirs. The table is bounded by the spec's members_max: when it is full, strangers who are merely heard of are refused,
and whoever is connected makes room by displacing one who is not; members by the log displace strangers, and never the
other way round. It can claim a head that does not exist: whoever follows it finds nothing, and doubts the claimant for
longer and longer.
"""

from collections.abc import Iterable, Set
from dataclasses import dataclass

from shoal.transport.port import Address, PeerId

from .records import MEMBERS_MAX, Head, Offered, Present, Standing

DOUBT_S = 5.0  # a peer's head is ignored for so long after it led nowhere; doubles with each time
DOUBT_S_MAX = 300.0
GONE_MAX = 2 * MEMBERS_MAX  # remembered; more are not voters, nor known any more


@dataclass(slots=True)
class _Entry:
    present: Present
    is_connected: bool = False
    head: Head | None = None  # while connected
    held: frozenset[bytes] = frozenset()  # contributions it says it holds
    bytes_per_s: int = 0
    platform: str = ""
    idle_at: Head | None = None
    doubts: int = 0
    doubted_until: float = -1.0

    @property
    def standing(self) -> Standing:
        return self.present.presence.standing


class Roster:
    """The members known here, oneself not among them."""

    def __init__(self, me: PeerId, members_max: int) -> None:
        self.me = me
        self._entries_max = max(1, members_max - 1)
        self._entries: dict[PeerId, _Entry] = {}
        # Indexes over the entries, so that a message costs no walk over all members.
        self._seated: Set[PeerId] = frozenset()
        self._connected: set[PeerId] = set()
        self._trainers: set[PeerId] = set()  # connected ones
        self._at: dict[Head, set[PeerId]] = {}  # connected ones by head
        self._idle: set[PeerId] = set()
        self._doubted: set[PeerId] = set()
        self._deaf: set[PeerId] = set()  # connected, but they do not answer
        self._gone_at: dict[PeerId, float] = {}  # since when those who were here, or should be, are not heard
        self._unmet: set[PeerId] = set()  # of these, who was never here

    def seat(self, members: Set[PeerId]) -> None:
        """These are members by the log: no stranger takes their room, however many of them come."""
        self._seated = members

    def hear(self, present: Present) -> bool:
        """Keep a presence if it is news and there is room; whether it was kept."""
        return self._put(present, may_displace=False)

    def greet(self, present: Present, head: Head) -> bool:
        """A peer said hello itself, over its own connection. False when there is no room for it, or it has left."""
        self._put(present, may_displace=True)
        entry = self._entries.get(present.member)
        if entry is None or entry.standing is Standing.LEFT:
            return False
        entry.is_connected = True
        self._answers(present.member)
        self._connected.add(present.member)
        if entry.standing is Standing.TRAINER:
            self._trainers.add(present.member)
        self._stand(present.member, entry, head)
        return True

    def tell(self, peer: PeerId, head: Head) -> None:
        """A connected peer says where it stands, or its contribution shows where it stood."""
        self._answers(peer)
        entry = self._entries.get(peer)
        if entry is None or not entry.is_connected or entry.head == head:
            return
        if entry.head is None or entry.head.round <= head.round:
            self._stand(peer, entry, head)

    def tell_work(self, peer: PeerId, held: Iterable[bytes], bytes_per_s: int, *, is_idle: bool) -> None:
        """Which payloads can be had from a connected peer, how fast it fetches, and whether it contributes; the newest
        word counts.
        """
        entry = self._entries.get(peer)
        if entry is not None and entry.is_connected:
            entry.held = frozenset(held)
            entry.bytes_per_s = bytes_per_s
            entry.idle_at = entry.head if is_idle else None
            (self._idle.add if is_idle else self._idle.discard)(peer)

    def tell_platform(self, peer: PeerId, platform: str) -> None:
        """What computes the state there, for people."""
        entry = self._entries.get(peer)
        if entry is not None:
            entry.platform = platform

    def platform(self, peer: PeerId) -> str:
        entry = self._entries.get(peer)
        return "" if entry is None else entry.platform

    def lose(self, peer: PeerId, now: float) -> None:
        """The connection is gone."""
        if peer in self._connected:
            self._gone_at.setdefault(peer, now)
        self._disconnect(peer)

    def _disconnect(self, peer: PeerId) -> None:
        entry = self._entries.get(peer)
        if entry is not None:
            self._stand(peer, entry, None)
            entry.is_connected = False
            entry.held = frozenset()
            entry.idle_at = None
            for index in (self._connected, self._trainers, self._idle, self._deaf):
                index.discard(peer)

    def miss(self, peer: PeerId, now: float) -> None:
        """A connected peer did not answer in time: it may be frozen."""
        if peer in self._connected:
            self._deaf.add(peer)
            self._gone_at.setdefault(peer, now)

    def _answers(self, peer: PeerId) -> None:
        self._deaf.discard(peer)
        self._gone_at.pop(peer, None)
        self._unmet.discard(peer)

    def doubt(self, peer: PeerId, now: float) -> None:
        """The head that `peer` told led nowhere."""
        entry = self._entries.get(peer)
        if entry is not None:
            entry.doubted_until = now + min(DOUBT_S_MAX, DOUBT_S * 2.0**entry.doubts)
            entry.doubts = min(entry.doubts + 1, 16)
            self._doubted.add(peer)

    def doubted(self, now: float) -> Set[PeerId]:
        """Whose word is not worth a request at present."""
        return {peer for peer in self._doubted if self._entries[peer].doubted_until > now}

    def trust(self, peer: PeerId) -> None:
        """What `peer` told proved true."""
        entry = self._entries.get(peer)
        if entry is not None:
            entry.doubts = 0
            entry.doubted_until = -1.0
            self._doubted.discard(peer)

    def is_member(self, peer: PeerId) -> bool:
        entry = self._entries.get(peer)
        return entry is not None and entry.standing is not Standing.LEFT

    def is_connected(self, peer: PeerId) -> bool:
        return peer in self._connected

    def connected(self) -> tuple[PeerId, ...]:
        """All connected members, sorted."""
        return tuple(sorted(self._connected))

    def present(self) -> Set[PeerId]:
        """The connected members that answer. Not to be kept: it changes."""
        return self._connected - self._deaf if self._deaf else self._connected

    def gone(self, now: float, voters: Iterable[PeerId], patience_s: float) -> Set[PeerId]:
        """Which of these have not been heard for so long; who was never heard, since this member first asked."""
        asked = frozenset(voters)
        if len(self._gone_at) > GONE_MAX:
            self._gone_at = {peer: at for peer, at in self._gone_at.items() if peer in asked or peer in self._entries}
        absent = [voter for voter in asked if voter not in self._connected or voter in self._deaf]
        self._unmet = {voter for voter in absent if voter in self._unmet or voter not in self._gone_at}
        return frozenset(voter for voter in absent if now >= self._gone_at.setdefault(voter, now) + patience_s)

    def next_gone_at(self, now: float, patience_s: float) -> float:
        """When `gone` may say more than now."""
        times = (at + patience_s for at in self._gone_at.values())
        return min((at for at in times if at > now), default=float("inf"))

    def unmet(self, gone: Set[PeerId]) -> set[PeerId]:
        """The voters that were never connected, and for whom it is too early to say that they are gone."""
        return self._unmet - gone

    def silent_s(self, peer: PeerId, now: float) -> float | None:
        """For how long one who should be here has not been heard; None if it is, or nobody has asked."""
        gone_at = self._gone_at.get(peer)
        return None if gone_at is None else now - gone_at

    def that_hold(self, hash: bytes) -> list[PeerId]:
        """The connected members that say they hold this contribution."""
        return [peer for peer in self._connected if hash in self._entries[peer].held]

    def rates(self) -> list[int]:
        """At which the connected members say they fetch, in bytes per second."""
        return [self._entries[peer].bytes_per_s for peer in self._connected]

    def trainers(self) -> Set[PeerId]:
        """The connected members who contribute. Not to be kept: it changes."""
        return self._trainers

    def at_work(self, head: Head, contributors: Set[PeerId]) -> set[PeerId]:
        """The connected members who work on the round after `head`: they say that they stand there, or they
        contributed to it, so that they are about to say so; but for those who say that they have nothing to
        contribute.
        """
        members = (self._at.get(head, set()) | contributors) & self._trainers
        return {peer for peer in members if self._entries[peer].idle_at != head} if self._idle else members

    def head(self, peer: PeerId) -> Head | None:
        entry = self._entries.get(peer)
        return None if entry is None else entry.head

    def heads(self, now: float) -> dict[Head, Set[PeerId]]:
        """Where the connected members say they stand, and who says so; those in doubt say nothing."""
        doubted = self.doubted(now)
        return {head: rest for head, peers in self._at.items() if (rest := peers - doubted)}

    def doubt_ends_at(self, now: float) -> float:
        """When the next doubt ends; infinity if there is none."""
        ends = (self._entries[peer].doubted_until for peer in self._doubted)
        return min((end for end in ends if end > now), default=float("inf"))

    def holders(self, offered: Offered) -> tuple[PeerId, ...]:
        """From whom its payload can be had: its author, then who says so, then the other members, who may have it."""

        def rank(peer: PeerId) -> tuple[bool, bool, PeerId]:
            return peer != offered.member, offered.hash not in self._entries[peer].held, peer

        return tuple(sorted(self._connected, key=rank))

    def is_anybody_apart(self) -> bool:
        """Whether there is a member that is not connected."""
        return any(self.is_member(peer) for peer in self._entries.keys() - self._connected)

    def is_anybody_behind(self, round: int) -> bool:
        """Whether a connected member has yet to say that it stands at `round`."""
        return any(head.round < round for head in self._at)

    def table(self) -> tuple[tuple[PeerId, Standing, bool, int | None], ...]:
        """For people: peer, standing, whether it is connected, the round it says it stands at."""
        return tuple(
            (peer, entry.standing, entry.is_connected, None if entry.head is None else entry.head.round)
            for peer, entry in sorted(self._entries.items())
        )

    def addresses(self) -> dict[PeerId, tuple[Address, ...]]:
        """Where the members are that one wants to be connected to."""
        return {
            peer: tuple(Address(address) for address in entry.present.presence.addresses)
            for peer, entry in self._entries.items()
            if entry.standing is not Standing.LEFT and entry.present.presence.addresses
        }

    def _stand(self, peer: PeerId, entry: _Entry, head: Head | None) -> None:
        """Keep `_at` in step with the entry's head."""
        if entry.head is not None:
            peers = self._at[entry.head]
            peers.discard(peer)
            if not peers:
                del self._at[entry.head]
        entry.head = head
        if head is not None:
            self._at.setdefault(head, set()).add(peer)

    def _put(self, present: Present, *, may_displace: bool) -> bool:
        peer = present.member
        if peer == self.me:
            return False
        entry = self._entries.get(peer)
        if entry is None:
            if len(self._entries) >= self._entries_max and not self._make_room(peer, may_displace):
                return False
            self._entries[peer] = _Entry(present)
        elif present.sequence <= entry.present.sequence:
            return False
        else:
            entry.present = present
            if entry.standing is Standing.LEFT:
                self._disconnect(peer)
            (self._trainers.add if self._is_trainer(peer) else self._trainers.discard)(peer)
        return True

    def _is_trainer(self, peer: PeerId) -> bool:
        entry = self._entries[peer]
        return entry.is_connected and entry.standing is Standing.TRAINER

    def _make_room(self, comer: PeerId, may_displace: bool) -> bool:
        """Forget one who has left; else, for a connected newcomer, the longest known of those who are not connected: of
        the strangers, unless it is a member by the log. That takes the room of a connected stranger, too.
        """
        is_seated = comer in self._seated
        left = [peer for peer in self._entries if not self.is_member(peer)]
        strangers = [peer for peer in self._entries if peer not in self._seated]
        absent = [peer for peer in (*strangers, *self._entries) if peer not in self._connected]
        displaced = [peer for peer in absent if is_seated or peer not in self._seated] if may_displace else []
        for peer in (*left, *displaced, *(strangers if is_seated else ())):
            self._disconnect(peer)
            self._doubted.discard(peer)
            del self._entries[peer]
            return True
        return False
