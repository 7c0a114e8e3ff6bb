"""The routing table: whom this node knows, by distance from itself (Maymounkov and Mazieres 2002; S/Kademlia 2007).

One bucket per number of leading bits shared with this node's position, each with room for `bucket_size` peers. Who is
in stays as long as it answers: long-lived peers live longer, and newcomers cannot push the old out. When a bucket is
full the peer heard of longest ago is checked, and only its silence makes room for the newest of the bucket's spares.

Only who has answered a question enters. A peer that merely asks, or is merely named by others, is checked first.

What a malicious peer may do: make ids at will, name peers at will. What it cannot do: enter without answering at an
address; have more than a few of its ids in one bucket or in the table from one range of addresses (`contacts`); push
out a peer that answers. The shares of a range are settings, since a university's cluster is one range.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec

from shoal.transport.port import Address, PeerId
from shoal.transport.wire import AddressText, Message, PeerIdText

from .contacts import CONTACT_ADDRESSES_MAX, Contact

SAVED_MAX: Final = 1024
SAVED_BYTES_MAX: Final = 4 * 2**20


@dataclass(frozen=True, slots=True)
class TableSettings:
    bucket_size: int = 20  # k; more: more copies of everything, longer lookups
    spares: int = 8  # per bucket, to take the place of who falls silent
    narrow_per_bucket: int = 2  # peers of one IPv4 /24 or IPv6 /48; fewer: a cluster is found less well
    wide_per_bucket: int = 5  # of one IPv4 /16 or IPv6 /32
    narrow_in_total: int = 8
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


class RoutingTable:
    """Args:
    self_id: whose table this is.
    seed: of the refreshed keys.
    """

    def __init__(self, self_id: PeerId, settings: TableSettings, seed: int) -> None:
        raise NotImplementedError

    def answered(self, contact: Contact, met_at: Address | None, now: float) -> None:
        """A peer answered a question of ours.

        Args:
            contact: with the addresses it can be dialed at.
            met_at: the address of the connection to it, which it cannot make up.
        """
        raise NotImplementedError

    def asked(self, contact: Contact, met_at: Address | None, now: float) -> None:
        """A peer asked us something: it may be worth a `Check`, which `due` will order."""
        raise NotImplementedError

    def failed(self, peer: PeerId, now: float) -> None:
        """A peer did not answer in time, or could not be reached."""
        raise NotImplementedError

    def closest(self, position: int, count: int) -> list[Contact]:
        """The peers closest to a position, closest first: those that answered last time, then the doubtful."""
        raise NotImplementedError

    def is_near(self, position: int) -> bool:
        """Whether this node is among the k closest to a position that it knows of, and so should hold what lies there."""
        raise NotImplementedError

    def looked_up(self, position: int, now: float) -> None:
        """Something near this position was looked up: its bucket needs no refresh for a while."""
        raise NotImplementedError

    @property
    def deadline(self) -> float:
        """When `due` should be asked again, at the latest."""
        raise NotImplementedError

    def due(self, now: float) -> list[Check | Refresh]:
        """What keeps the table fresh: a few checks and refreshes at a time."""
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def to_save(self) -> SavedTable:
        """To write to disk every now and then (`wire.encode`)."""
        raise NotImplementedError

    def restore(self, saved: SavedTable) -> list[Contact]:
        """Peers of an earlier run, to join through. None enters the table before it has answered."""
        raise NotImplementedError

    def contacts(self) -> Iterable[Contact]:
        """All of them, sorted by distance from this node."""
        raise NotImplementedError
