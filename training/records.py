"""What members of a swarm say of themselves: how they stand, and what they offer to a round.

A contribution is signed, in an envelope bound to its kind, swarm and round. (A presence needs no signature: its member
says it over its own connection, and in the store its chain does.) A peer can send any bytes here; what comes out is
`Malformed` or a value whose author is proved, whose sizes are bounded and which cannot be another swarm's, round's or
kind's. Whether it is welcome, the cores decide.
"""

import enum
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
from blake3 import blake3

from shoal.transport.blobs import BlobRef
from shoal.transport.envelope import ENVELOPE_OVERHEAD_BYTES, open_stored, seal_stored
from shoal.transport.port import PeerId
from shoal.transport.wire import ADDRESSES_MAX, U64, AddressText, Digest, Malformed, Message, decode, encode

from .ports import Signer

INLINE_BYTES_MAX: Final = 4096  # payloads up to this size travel inside their contribution
MEMBERS_MAX: Final = 1024  # as in Spec.members_max

_CONTRIBUTION_DOMAIN: Final = "shoal/contribution/2"

PRESENCE_BYTES_MAX: Final = ADDRESSES_MAX * 260 + 64
CONTRIBUTION_BYTES_MAX: Final = INLINE_BYTES_MAX + 128 + ENVELOPE_OVERHEAD_BYTES

StateDigest = Annotated[bytes, msgspec.Meta(max_length=32)]  # 32 bytes, or none for methods without a common state
RoundNumber = Annotated[int, msgspec.Meta(ge=0, le=2**31)]
Samples = Annotated[int, msgspec.Meta(ge=1, le=2**24)]
InlinePayload = Annotated[bytes, msgspec.Meta(max_length=INLINE_BYTES_MAX)]
ContributionBytes = Annotated[bytes, msgspec.Meta(max_length=CONTRIBUTION_BYTES_MAX)]


class Standing(enum.IntEnum):
    """What a member is at present. The numbers are on the wire."""

    TRAINER = 1
    PAUSED = 2  # follows, contributes nothing, is not waited for
    STORAGE = 3  # keeps and serves, never contributes
    LEFT = 4


class Head(Message, frozen=True):
    """Where a member stands: the newest round it applied. Round 0's record is the swarm id."""

    round: RoundNumber
    record: Digest
    digest: StateDigest  # of the state after that round


class Presence(Message, frozen=True):
    """A member's own word about itself, kept in the store. The sequence orders them."""

    sequence: U64
    standing: Standing
    addresses: Annotated[tuple[AddressText, ...], msgspec.Meta(max_length=ADDRESSES_MAX)]


class Contribution(Message, frozen=True):
    """What a member offers to a round; the envelope names member and round."""

    base_round: RoundNumber  # it started from the state after that round, which is before its own
    base: Digest  # that round's record
    base_digest: StateDigest  # the state it started from
    samples: Samples
    payload: InlinePayload | BlobRef
    local: BlobRef | None = None  # the author's local value as it started from the state, where that is audited


@dataclass(frozen=True, slots=True)
class Present:
    """A presence whose author is proved."""

    member: PeerId
    presence: Presence

    @property
    def sequence(self) -> int:
        return self.presence.sequence


@dataclass(frozen=True, slots=True)
class Offered:
    """A contribution whose author is proved."""

    hash: bytes
    member: PeerId
    round: int
    contribution: Contribution
    envelope: bytes

    @property
    def ref(self) -> BlobRef | None:
        """Where the payload is, if not inside."""
        payload = self.contribution.payload
        return payload if isinstance(payload, BlobRef) else None

    @property
    def payload_bytes(self) -> int:
        payload = self.contribution.payload
        return payload.size if isinstance(payload, BlobRef) else len(payload)


def seal_contribution(signer: Signer, swarm: bytes, round: int, contribution: Contribution) -> Offered:
    envelope = seal_stored(signer, _CONTRIBUTION_DOMAIN, swarm, round, 0, encode(contribution))
    return Offered(blake3(envelope).digest(), signer.peer_id, round, contribution, envelope)


def open_contribution(data: bytes, swarm: bytes) -> Offered | Malformed:
    opened = open_stored(data, _CONTRIBUTION_DOMAIN, swarm, CONTRIBUTION_BYTES_MAX)
    if isinstance(opened, Malformed):
        return opened
    contribution = decode(opened.body, Contribution, CONTRIBUTION_BYTES_MAX)
    if isinstance(contribution, Malformed):
        return contribution
    if contribution.base_round >= opened.round:
        return Malformed(f"a contribution to round {opened.round} that starts from round {contribution.base_round}")
    return Offered(blake3(data).digest(), opened.signer, opened.round, contribution, data)


def turn_seed(swarm: bytes, round: int, base_round: int, member: str) -> int:
    """64 bits for a member's randomness in a turn, equal wherever they are computed."""
    turn = (swarm, round, member) if base_round == round - 1 else (swarm, round, base_round, member)
    return int.from_bytes(blake3(encode(turn)).digest()[:8], "big")
