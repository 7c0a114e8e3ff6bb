"""What members of a swarm say to one another about rounds: the messages, byte by byte, and the signed things they
carry.

Two things are signed, each an envelope bound to its kind, swarm and round: a member's contribution to a round, and its
proposal of how a round ends. (Its presence needs no signature: it says it over its own connection, and in the store its
chain does.) A peer can send any bytes here; what comes out is `Malformed` or a value whose author is proved, whose
sizes are bounded and which cannot be another swarm's, round's or kind's. Whether it is welcome, the cores decide.
"""

import enum
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Final

import msgspec
from blake3 import blake3

from shoal.transport.blobs import BlobRef
from shoal.transport.envelope import ENVELOPE_OVERHEAD_BYTES, open_stored, seal_stored
from shoal.transport.port import PeerId, Unary
from shoal.transport.wire import ADDRESSES_MAX, U64, AddressText, Digest, Malformed, Message, PeerIdText, decode, encode

from .ports import Signer
from .spec import SPEC_BYTES_MAX, SignedSpec

PROTOCOL_VERSION: Final = 1

INLINE_BYTES_MAX: Final = 4096  # payloads up to this size travel inside their contribution
MEMBERS_MAX: Final = 1024  # as in Spec.members_max
HELD_MAX: Final = MEMBERS_MAX  # contributions announced at once
ASK_MAX: Final = 32  # contributions asked for at once

_CONTRIBUTION_DOMAIN: Final = "shoal/contribution/1"
_PROPOSAL_DOMAIN: Final = "shoal/proposal/1"
_RECORD_DOMAIN: Final = b"shoal/record/1\0"

PRESENCE_BYTES_MAX: Final = ADDRESSES_MAX * 260 + 64
CONTRIBUTION_BYTES_MAX: Final = INLINE_BYTES_MAX + 128 + ENVELOPE_OVERHEAD_BYTES
PROPOSAL_BYTES_MAX: Final = MEMBERS_MAX * 104 + 128 + ENVELOPE_OVERHEAD_BYTES

StateDigest = Annotated[bytes, msgspec.Meta(max_length=32)]  # 32 bytes, or none for methods without a common state
RoundNumber = Annotated[int, msgspec.Meta(ge=0, le=2**31)]
Samples = Annotated[int, msgspec.Meta(ge=1, le=2**24)]
InlinePayload = Annotated[bytes, msgspec.Meta(max_length=INLINE_BYTES_MAX)]
ContributionBytes = Annotated[bytes, msgspec.Meta(max_length=CONTRIBUTION_BYTES_MAX)]
ProposalBytes = Annotated[bytes, msgspec.Meta(max_length=PROPOSAL_BYTES_MAX)]


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

    base: Digest  # the record it started from, of the round before
    base_digest: StateDigest  # the state it started from
    samples: Samples
    payload: InlinePayload | BlobRef


class Taken(Message, frozen=True):
    member: PeerIdText
    contribution: Digest  # hash of the contribution's envelope


class Record(Message, frozen=True):
    """What a round ended with. Its hash covers exactly this; neither who proposed it nor a signature, so that two
    proposers of the same set name the same record.
    """

    previous: Digest
    round: RoundNumber
    base_digest: StateDigest
    taken: Annotated[tuple[Taken, ...], msgspec.Meta(min_length=1, max_length=MEMBERS_MAX)]  # sorted by member


class Hello(Message, frozen=True):
    """Sent to every peer that connects, and its answer."""

    version: U64
    presence: Presence
    head: Head


class Offer(Message, frozen=True):
    contribution: ContributionBytes


class Have(Message, frozen=True):
    """The sender's head, and which contributions to the round after it the sender holds whole and checked."""

    head: Head
    held: Annotated[tuple[Digest, ...], msgspec.Meta(max_length=HELD_MAX)]
    is_idle: bool  # it is not going to contribute to that round: nobody need wait for it


class Propose(Message, frozen=True):
    proposal: ProposalBytes


class Ack(Message, frozen=True):
    """Heard; and where the answerer stands."""

    head: Head


class AskHead(Message, frozen=True):
    pass


class TellHead(Message, frozen=True):
    head: Head
    proposal: ProposalBytes  # of the head's record; empty for round 0
    checkpoint: BlobRef | None  # the state after the head's round, as `Method.save` writes it


class AskRecord(Message, frozen=True):
    round: RoundNumber


class AskContributions(Message, frozen=True):
    wanted: Annotated[tuple[Digest, ...], msgspec.Meta(min_length=1, max_length=ASK_MAX)]


class TellContributions(Message, frozen=True):
    """Those of the wanted ones that the answerer has."""

    contributions: Annotated[tuple[ContributionBytes, ...], msgspec.Meta(max_length=ASK_MAX)]


class AskSpec(Message, frozen=True):
    pass


class Calls:
    """The methods of one swarm. The swarm is in their names: who asks a node that is not in it gets UNKNOWN_METHOD."""

    def __init__(self, swarm: bytes) -> None:
        # 16 bytes name the swarm well enough for routing; what is signed is bound to all 32.
        prefix = f"/shoal/swarm/{PROTOCOL_VERSION}/{swarm[:16].hex()}"
        hello_max = PRESENCE_BYTES_MAX + 256
        self.hello: Unary[Hello, Hello] = Unary(f"{prefix}/hello", Hello, Hello, hello_max, hello_max)
        self.offer: Unary[Offer, Ack] = Unary(f"{prefix}/offer", Offer, Ack, CONTRIBUTION_BYTES_MAX + 16, 256)
        self.have: Unary[Have, Ack] = Unary(f"{prefix}/have", Have, Ack, HELD_MAX * 34 + 256, 256)
        self.propose: Unary[Propose, Ack] = Unary(f"{prefix}/propose", Propose, Ack, PROPOSAL_BYTES_MAX + 16, 256)
        self.head: Unary[AskHead, TellHead] = Unary(f"{prefix}/head", AskHead, TellHead, 16, PROPOSAL_BYTES_MAX + 512)
        self.record: Unary[AskRecord, Propose] = Unary(
            f"{prefix}/record", AskRecord, Propose, 16, PROPOSAL_BYTES_MAX + 16
        )
        self.contributions: Unary[AskContributions, TellContributions] = Unary(
            f"{prefix}/contributions",
            AskContributions,
            TellContributions,
            ASK_MAX * 34 + 16,
            ASK_MAX * (CONTRIBUTION_BYTES_MAX + 8) + 16,
        )
        self.spec: Unary[AskSpec, SignedSpec] = Unary(f"{prefix}/spec", AskSpec, SignedSpec, 16, SPEC_BYTES_MAX + 128)

    def names(self) -> tuple[str, ...]:
        methods = (self.hello, self.offer, self.have, self.propose, self.head, self.record, self.contributions)
        return (*(method.name for method in methods), self.spec.name)


def topic(swarm: bytes) -> str:
    """Where contributions and proposals are gossiped: a hash, for whoever is connected hears of topics."""
    return f"/shoal/swarm/{PROTOCOL_VERSION}/{blake3(b'shoal/swarm/topic/1' + swarm).hexdigest()}"


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


@dataclass(frozen=True, slots=True)
class Proposed:
    """A proposal whose author is proved; its record is consistent in itself."""

    hash: bytes  # of the record
    proposer: PeerId
    record: Record
    envelope: bytes


def record_hash(record: Record) -> bytes:
    return blake3(_RECORD_DOMAIN + encode(record)).digest()


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
    return Offered(blake3(data).digest(), opened.signer, opened.round, contribution, data)


def seal_proposal(signer: Signer, swarm: bytes, record: Record) -> Proposed:
    envelope = seal_stored(signer, _PROPOSAL_DOMAIN, swarm, record.round, 0, encode(record))
    return Proposed(record_hash(record), signer.peer_id, record, envelope)


def open_proposal(data: bytes, swarm: bytes) -> Proposed | Malformed:
    opened = open_stored(data, _PROPOSAL_DOMAIN, swarm, PROPOSAL_BYTES_MAX)
    if isinstance(opened, Malformed):
        return opened
    record = decode(opened.body, Record, PROPOSAL_BYTES_MAX)
    if isinstance(record, Malformed):
        return record
    if record.round != opened.round or record.round == 0:
        return Malformed(f"a proposal for round {opened.round} holds the record of round {record.round}")
    members = [taken.member for taken in record.taken]
    if any(left >= right for left, right in pairwise(members)):
        return Malformed("a record's members are not sorted, or one stands in it twice")
    return Proposed(record_hash(record), opened.signer, record, data)


def turn_seed(swarm: bytes, round: int, member: str) -> int:
    """64 bits for a member's randomness in a round, equal wherever they are computed."""
    return int.from_bytes(blake3(encode((swarm, round, member))).digest()[:8], "big")
