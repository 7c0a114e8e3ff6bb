"""The routing table: whom this node knows, by distance from itself (Maymounkov and Mazieres 2002; S/Kademlia 2007).

One bucket per number of leading bits shared with this node's position, each with room for `bucket_size` peers. Who is
in stays as long as it answers: long-lived peers live longer, and newcomers cannot push the old out. When a bucket is
full the peer heard of longest ago is checked, and only its silence makes room for the newest of the bucket's spares.

Only who has answered a question enters, and where it can be reached. A peer that merely asks, or is merely named by
others, is checked first.

What a malicious peer may do: make ids at will, name peers at will. What it cannot do: enter without answering at an
address; have more than a few of its ids in one bucket or in the table from one range of addresses (`contacts`); push
out a peer that answers. The shares of a range are settings, since a university's cluster is one range.
"""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Annotated, Final

import msgspec
from blake3 import blake3

from shoal.transport.addresses import parse_endpoint
from shoal.transport.multiaddrs import peer_bytes
from shoal.transport.port import Address, PeerId
from shoal.transport.wire import AddressText, Malformed, Message, PeerIdText

from .contacts import CONTACT_ADDRESSES_MAX, Contact, Ranges, ranges_of
from .keys import BLAKE3_MULTIHASH, position_of, position_of_peer, shared_bits

SAVED_MAX: Final = 1024
SAVED_BYTES_MAX: Final = 4 * 2**20
CHECKS_MAX: Final = 8  # under way at once
CHECK_S_MAX: Final = 30.0  # then its owner has forgotten to say how it went
CANDIDATES_MAX: Final = 64  # peers that asked and wait to be checked
RECHECK_S: Final = 20.0  # after a failure, doubled with each up to RECHECK_S_MAX: a node cut off gets back by these
RECHECK_S_MAX: Final = 300.0
REFRESHED_MAX: Final = 9  # the deepest bucket; deeper ones hold neighbours, found by looking up this node itself
_TRIES_MAX: Final = 4096  # hashes to find a key in a bucket: 2 ms on average in the deepest, 8 ms at worst
_SELF: Final = -1  # stands for this node's own position among the buckets to refresh


@dataclass(frozen=True, slots=True)
class TableSettings:
    bucket_size: int = 20  # k; more: more copies of everything, longer lookups
    spares: int = 8  # per bucket, to take the place of who falls silent
    narrow_per_bucket: int = 2  # peers of one IPv4 /24 or IPv6 /48; fewer: a cluster is found less well
    wide_per_bucket: int = 5  # of one IPv4 /16 or IPv6 /32
    narrow_in_total: int = 8  # below half of bucket_size: else a lookup may begin with peers of one range alone
    wide_in_total: int = 32
    failures_max: int = 3  # in a row, then a peer is dropped
    idle_s: float = 900.0  # heard of so long ago: worth a check before a newcomer is turned away
    refresh_s: float = 3600.0  # a bucket in which nothing was looked up for so long is refreshed


@dataclass(frozen=True, slots=True)
class Check:
    """Ask this peer anything (a PING will do) and tell `answered` or `failed`."""

    contact: Contact


@dataclass(frozen=True, slots=True)
class Refresh:
    """Look up the peers closest to this key (a FIND_NODE of it): it lies in a bucket long untouched."""

    key: bytes


class SavedContact(Message, frozen=True):
    peer: PeerIdText
    addresses: Annotated[tuple[AddressText, ...], msgspec.Meta(max_length=CONTACT_ADDRESSES_MAX)]


class SavedTable(Message, frozen=True):
    """What survives a restart: the peers worth asking first, best first."""

    version: Annotated[int, msgspec.Meta(ge=1, le=1)]
    contacts: Annotated[tuple[SavedContact, ...], msgspec.Meta(max_length=SAVED_MAX)]


@dataclass(slots=True)
class _Entry:
    contact: Contact
    position: int
    met_at: Address | None
    ranges: Ranges | None
    heard_at: float
    failures: int = 0
    failed_at: float = -math.inf  # the first of these failures
    recheck_at: float = math.inf


@dataclass(slots=True)
class _Bucket:
    entries: dict[PeerId, _Entry] = field(default_factory=dict[PeerId, _Entry])  # heard of longest ago first
    spares: dict[PeerId, _Entry] = field(default_factory=dict[PeerId, _Entry])  # likewise


class RoutingTable:
    """Args:
    self_id: whose table this is.
    seed: of the refreshed keys.
    """

    def __init__(self, self_id: PeerId, settings: TableSettings, seed: int) -> None:
        self._self_id, self._settings, self._seed = self_id, settings, seed
        self._position = position_of_peer(self_id)
        self._buckets: dict[int, _Bucket] = {}
        self._narrow: Counter[str] = Counter()
        self._wide: Counter[str] = Counter()
        self._candidates: dict[PeerId, _Entry] = {}
        self._checking: dict[PeerId, tuple[float, Contact]] = {}  # until when, and where they say they listen
        self._touched_at: dict[int, float] = {}  # by bucket
        self._answered_at = -math.inf
        self._refresh_count = 0

    def answered(self, contact: Contact, met_at: Address | None, now: float) -> None:
        """A peer answered a question of ours.

        Args:
            contact: with the addresses it was dialed at or says of itself (`peer_records`), never those that only
                others say; none to keep what is known.
            met_at: the address of the connection to it, which it cannot make up.
        """
        peer = contact.peer
        if peer == self._self_id:
            return
        self._answered_at = now
        _, checked = self._checking.pop(peer, (0.0, contact))
        self._candidates.pop(peer, None)
        bucket = self._buckets.setdefault(self._index(peer), _Bucket())
        entry = self._entry(contact, met_at, now)
        old = bucket.entries.get(peer) or bucket.spares.get(peer)
        if not contact.addresses:
            entry.contact = checked if old is None else old.contact
        if not entry.contact.addresses:
            return
        if self._remove(bucket, peer) or len(bucket.entries) < self._settings.bucket_size:
            if self._fits(bucket, entry):
                self._insert(bucket, entry)
            return
        bucket.spares.pop(peer, None)
        bucket.spares[peer] = entry
        if len(bucket.spares) > self._settings.spares:
            del bucket.spares[next(iter(bucket.spares))]

    def asked(self, contact: Contact, met_at: Address | None, now: float) -> None:
        """A peer asked us something: it may be worth a `Check`, which `due` will order.

        Args:
            contact: with the addresses it says of itself; none: it is a client, which nobody should ask.
        """
        peer = contact.peer
        if peer == self._self_id or peer in self._candidates or peer in self._checking:
            return
        bucket = self._buckets.setdefault(self._index(peer), _Bucket())
        known = bucket.entries.get(peer)
        if known is not None:
            known.heard_at = now
            bucket.entries[peer] = bucket.entries.pop(peer)
            return
        if not contact.addresses:
            return
        candidate = self._entry(contact, met_at, now)
        waiting = [each for each in self._candidates.values() if each.ranges and each.ranges == candidate.ranges]
        if (
            len(self._candidates) < CANDIDATES_MAX
            and len(waiting) < self._settings.narrow_per_bucket
            and len(bucket.entries) < self._settings.bucket_size
            and self._fits(bucket, candidate)
        ):
            self._candidates[peer] = candidate

    def failed(self, peer: PeerId, now: float) -> None:
        """A peer did not answer in time, or could not be reached."""
        self._checking.pop(peer, None)
        self._candidates.pop(peer, None)
        bucket = self._buckets.get(self._index(peer))
        if bucket is None:
            return
        bucket.spares.pop(peer, None)
        entry = bucket.entries.get(peer)
        if entry is None:
            return
        if not entry.failures:
            entry.failed_at = now
        entry.failures += 1
        entry.recheck_at = now + min(RECHECK_S_MAX, RECHECK_S * 2.0 ** min(entry.failures - 1, 6))
        # When nobody answers, it is this node that is cut off: it keeps whom it knows.
        if entry.failures >= self._settings.failures_max and self._answered_at >= entry.failed_at:
            self._remove(bucket, peer)
            self._promote(bucket)

    def closest(self, position: int, count: int) -> list[Contact]:
        """The peers closest to a position, closest first, without the doubtful unless all are: then this node is cut
        off rather than everybody gone.
        """
        entries = [entry for entry in self._entries() if not entry.failures] or list(self._entries())
        ranked = sorted([(entry.position ^ position, entry.contact) for entry in entries], key=itemgetter(0))
        return [contact for _, contact in ranked[:count]]

    def known(self, contact: Contact) -> Contact:
        """The contact as it has answered before, if it has: what others say of its addresses may be wrong."""
        bucket = self._buckets.get(self._index(contact.peer))
        entry = None if bucket is None else bucket.entries.get(contact.peer)
        return contact if entry is None or not entry.contact.addresses else entry.contact

    def is_near(self, position: int) -> bool:
        """Whether this node is among the k closest to a position that it knows of: it should hold what lies there."""
        own = self._position ^ position
        closer = sum(1 for entry in self._entries() if not entry.failures and entry.position ^ position < own)
        return closer < self._settings.bucket_size

    def looked_up(self, position: int, now: float) -> None:
        """Something near this position was looked up: its bucket needs no refresh for a while."""
        bits = shared_bits(self._position, position)
        self._touched_at[_SELF if position == self._position else bits] = now

    @property
    def deadline(self) -> float:
        """When `due` should be asked again, at the latest."""
        wakings = [self._touched_at.get(number, -math.inf) + self._settings.refresh_s for number in self._refreshed()]
        if len(self._checking) >= CHECKS_MAX:
            return min([*wakings, *(until for until, _ in self._checking.values())])
        wakings += [candidate.heard_at for candidate in self._candidates.values()]
        wakings += [at for at, _ in self._rechecks()]
        return min(wakings, default=math.inf)

    def due(self, now: float) -> list[Check | Refresh]:
        """What keeps the table fresh: a few checks and refreshes at a time."""
        for peer in [peer for peer, (until, _) in self._checking.items() if until <= now]:
            self.failed(peer, now)
        wanted = list(self._candidates.values())
        wanted += [entry for at, entry in sorted(self._rechecks(), key=lambda each: each[0]) if at <= now]
        effects: list[Check | Refresh] = []
        for entry in wanted[: max(0, CHECKS_MAX - len(self._checking))]:
            self._candidates.pop(entry.contact.peer, None)
            self._checking[entry.contact.peer] = (now + CHECK_S_MAX, entry.contact)
            effects.append(Check(entry.contact))
        for number in self._refreshed():
            if self._touched_at.get(number, -math.inf) + self._settings.refresh_s <= now:
                self._touched_at[number] = now
                effects.append(Refresh(self._key_in(number)))
        return effects

    def __len__(self) -> int:
        return sum(len(bucket.entries) for bucket in self._buckets.values())

    def to_save(self) -> SavedTable:
        """To write to disk every now and then (`wire.encode`)."""
        ranked = sorted(self._entries(), key=lambda entry: (entry.failures, -entry.heard_at, entry.contact.peer))
        contacts = (entry.contact for entry in ranked[:SAVED_MAX])
        return SavedTable(1, tuple(SavedContact(contact.peer, contact.addresses) for contact in contacts))

    def contacts(self) -> tuple[Contact, ...]:
        """All of them, sorted by distance from this node."""
        ranked = sorted(self._entries(), key=lambda entry: entry.position ^ self._position)
        return tuple(entry.contact for entry in ranked)

    def _entry(self, contact: Contact, met_at: Address | None, now: float) -> _Entry:
        address = met_at or next(iter(contact.addresses), None)
        return _Entry(contact, position_of_peer(contact.peer), met_at, ranges_of(address), now)

    def _entries(self) -> Iterator[_Entry]:
        return (entry for bucket in self._buckets.values() for entry in bucket.entries.values())

    def _index(self, peer: PeerId) -> int:
        return shared_bits(self._position, position_of_peer(peer))

    def _fits(self, bucket: _Bucket, entry: _Entry) -> bool:
        """Whether its ranges leave room for one more, in the bucket and in the table."""
        ranges, settings = entry.ranges, self._settings
        if ranges is None:
            return True
        within = [each.ranges for each in bucket.entries.values() if each.ranges is not None]
        return (
            sum(each.narrow == ranges.narrow for each in within) < settings.narrow_per_bucket
            and sum(each.wide == ranges.wide for each in within) < settings.wide_per_bucket
            and self._narrow[ranges.narrow] < settings.narrow_in_total
            and self._wide[ranges.wide] < settings.wide_in_total
        )

    def _insert(self, bucket: _Bucket, entry: _Entry) -> None:
        bucket.spares.pop(entry.contact.peer, None)
        bucket.entries[entry.contact.peer] = entry
        if entry.ranges is not None:
            self._narrow[entry.ranges.narrow] += 1
            self._wide[entry.ranges.wide] += 1

    def _remove(self, bucket: _Bucket, peer: PeerId) -> bool:
        """Whether it was there."""
        entry = bucket.entries.pop(peer, None)
        if entry is not None and entry.ranges is not None:
            for count, name in ((self._narrow, entry.ranges.narrow), (self._wide, entry.ranges.wide)):
                count[name] -= 1
                if not count[name]:
                    del count[name]
        return entry is not None

    def _promote(self, bucket: _Bucket) -> None:
        """The newest spare that fits takes the free place."""
        for peer in reversed(list(bucket.spares)):
            spare = bucket.spares[peer]
            if self._fits(bucket, spare):
                self._insert(bucket, spare)
                return

    def _rechecks(self) -> Iterator[tuple[float, _Entry]]:
        """Who is to be checked, and from when: the doubtful, and the oldest of a full bucket with spares."""
        for bucket in self._buckets.values():
            for place, entry in enumerate(bucket.entries.values()):
                if entry.contact.peer in self._checking:
                    continue
                if entry.failures:
                    yield entry.recheck_at, entry
                elif place == 0 and bucket.spares and len(bucket.entries) >= self._settings.bucket_size:
                    yield entry.heard_at + self._settings.idle_s, entry

    def _refreshed(self) -> Iterator[int]:
        """The buckets to refresh: this node's own surroundings, then all from the farthest to the deepest used."""
        used = [index for index, bucket in self._buckets.items() if bucket.entries]
        if used:
            yield _SELF
            yield from range(min(max(used), REFRESHED_MAX) + 1)

    def _key_in(self, number: int) -> bytes:
        """A key in a bucket, another one each time; in a deep one, the best of _TRIES_MAX."""
        if number == _SELF:
            return peer_bytes(self._self_id)
        self._refresh_count += 1
        start = blake3(f"{self._seed}/{number}/{self._refresh_count}".encode()).digest()
        key, best = b"", -1
        for attempt in range(_TRIES_MAX):
            tried = BLAKE3_MULTIHASH + start[:-4] + attempt.to_bytes(4, "big")
            bits = shared_bits(self._position, position_of(tried))
            if bits == number:
                return tried
            if best < bits < number:
                key, best = tried, bits
        return key


def restored(saved: SavedTable) -> list[Contact]:
    """Peers of an earlier run, to join through. None enters the table before it has answered."""
    contacts: list[Contact] = []
    for each in saved.contacts:
        endpoints = [parse_endpoint(address) for address in each.addresses]
        addresses = tuple(
            endpoint.address
            for endpoint in endpoints
            if not isinstance(endpoint, Malformed) and endpoint.peer == each.peer
        )
        if addresses:
            contacts.append(Contact(PeerId(each.peer), addresses))
    return contacts
