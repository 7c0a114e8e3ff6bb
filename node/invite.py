"""Invites: one string that says which swarm, and where some of its members can be reached.

An invite is `shoal:` and base32 in lower case, which survives mail, capitals and line breaks; it holds a version, the
fields below and a checksum. With a ticket in it, it is a secret: whoever reads it can join (`training.admission`).

What a malicious invite may hold: addresses of anybody's machines, which are dialed once; a swarm nobody wants, whose
spec is shown before joining; a ticket that lets nobody in; and a record that is not the members', so that the node
follows whoever made it up, or nobody: whose invite one follows, one trusts. It cannot make the node believe another
spec than the one whose hash it names, nor talk to another peer than the ids it names.
"""

import base64
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated

import msgspec
from blake3 import blake3

from shoal.transport.envelope import Signature
from shoal.transport.identity import peer_id_of, public_key_of
from shoal.transport.port import Address, Connection, PeerId
from shoal.transport.wire import AddressText, Digest, Malformed, Message, decode, encode

from .complaint import Complaint, Exit

if TYPE_CHECKING:
    from shoal.training.admission import Ticket  # not while running: commands read invites without what trains

PREFIX = "shoal:"
VERSION = 1
CHECKSUM_BYTES = 5  # one mistyped invite in 10^12 passes
MEMBERS_MAX = 4  # enough that one sleeping laptop does not spoil the invite, few enough for a chat message
ADDRESSES_PER_MEMBER_MAX = 4  # IPv6 may take two, and a relay or the LAN has room still
BYTES_MAX = 8192


class InvitedBy(Message, frozen=True):
    """A member to join through."""

    key: Digest  # the 32 bytes of its Ed25519 public key, which are its peer id
    addresses: Annotated[tuple[AddressText, ...], msgspec.Meta(max_length=8)]  # without /p2p/<peer id>

    @property
    def peer(self) -> PeerId:
        return peer_id_of(self.key)


class Granted(Message, frozen=True):
    """The first member's ticket, without its key, which the invite names already."""

    seed: Digest
    signature: Signature


class Invite(Message, frozen=True):
    """What the string holds."""

    swarm: Digest
    members: Annotated[tuple[InvitedBy, ...], msgspec.Meta(min_length=1, max_length=16)]
    record: Digest | None = None  # hash of a recent one, by which a newcomer tells the members' log from one made up
    granted: Granted | None = None

    def addresses(self) -> list[tuple[PeerId, tuple[Address, ...]]]:
        """Whom to dial, and where, in the invite's order."""
        return [
            (member.peer, tuple(Address(f"{address}/p2p/{member.peer}") for address in member.addresses))
            for member in self.members
        ]


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach the multiaddr."""
    return address.startswith(("/ip4/127.", "/ip6/::1/", "/dns4/localhost/", "/dns/localhost/", "/dns6/localhost/"))


def is_unspecified(address: str) -> bool:
    """Whether the multiaddr is "any address of this machine", which nobody can dial."""
    return address.startswith(("/ip4/0.0.0.0/", "/ip6/::/"))


def make_invite(
    swarm: bytes,
    own: PeerId,
    addresses: Sequence[str],
    connections: Iterable[Connection] = (),
    ticket: "Ticket | None" = None,
    record: bytes | None = None,
) -> Invite:
    """An invite that names this node first, then connected members whose address was dialed and so is known to work.

    Args:
        swarm: the swarm's id.
        addresses: this node's own: first what its owner says others can reach, then as its transport knows them.
        connections: to other members of the swarm.
        ticket: this node's own.
        record: the hash of the newest that this node knows.
    """
    dialed = (c for c in connections if c.is_outbound and not c.is_relayed and c.peer != own)
    known = [(own, best(own, addresses)), *((c.peer, best(c.peer, (c.address,))) for c in dialed)]
    # Who gives a ticket is named in any case: the others, or a search, then lead to the swarm.
    members = [InvitedBy(key_of(peer), places) for peer, places in known if places or (peer == own and ticket)]
    granted = None if ticket is None else Granted(ticket.seed, ticket.signature)
    return Invite(swarm, tuple(members[:MEMBERS_MAX]), record, granted)


def key_of(peer: PeerId) -> bytes:
    """The key inside of a peer id: 32 bytes instead of 52 characters."""
    key = public_key_of(peer)
    if key is None:
        raise ValueError(f"{peer} is not the id of an Ed25519 key")  # the transport connects to no others
    return key


def best(peer: PeerId, addresses: Sequence[str]) -> tuple[str, ...]:
    """The few addresses of `peer` worth sending to somebody: loopback last, no duplicates, without its id."""
    bare = dict.fromkeys(address.removesuffix(f"/p2p/{peer}") for address in addresses if not is_unspecified(address))
    return tuple(sorted(bare, key=is_loopback)[:ADDRESSES_PER_MEMBER_MAX])


def format_invite(invite: Invite) -> str:
    """The string to send to a friend."""
    body = bytes([VERSION]) + encode(invite)
    text = base64.b32encode(body + checksum(body)).decode().rstrip("=").lower()
    return PREFIX + text


def parse_invite(text: str) -> Invite:
    """What an invite says. White space anywhere in it is ignored.

    Raises:
        Complaint: it is no invite, is mistyped or cut short, or a newer Shoal made it.
    """
    packed = "".join(text.split()).strip("\"'`<>").lower()
    if not packed.startswith(PREFIX):
        raise Complaint(f"an invite begins with '{PREFIX}', this one with '{packed[:12]}'", Exit.INVITE)
    letters = packed.removeprefix(PREFIX).upper()
    mistyped = Complaint(
        f"this invite is mistyped or incomplete ({len(letters)} characters after '{PREFIX}'): copy it once more",
        Exit.INVITE,
    )
    if len(letters) > BYTES_MAX:
        raise mistyped
    try:
        data = base64.b32decode(letters + "=" * (-len(letters) % 8))
    except ValueError as error:  # binascii.Error is one; another is raised for letters that are not ASCII
        raise mistyped from error
    body, check = data[:-CHECKSUM_BYTES], data[-CHECKSUM_BYTES:]
    if len(body) < 2 or checksum(body) != check:
        raise mistyped
    if body[0] > VERSION:
        raise Complaint(
            "this invite was made by a newer Shoal: update yours as you installed it, then try again", Exit.INVITE
        )
    invite = decode(body[1:], Invite, BYTES_MAX)
    if isinstance(invite, Malformed):
        raise Complaint(f"this invite is not sound ({invite.reason}): ask for a fresh one", Exit.INVITE)
    return invite


def checksum(body: bytes) -> bytes:
    return blake3(b"shoal/invite/1\0" + body).digest(CHECKSUM_BYTES)
