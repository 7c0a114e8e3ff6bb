"""What the members of a swarm say to one another, call by call, byte by byte.

A peer may call any of these with any bytes, at any rate its transport allows. Each message's size is bounded here,
before it is read; what is signed in it is verified before it is believed; what is not (heads, what somebody holds) is
that peer's own word, which costs at most a request that leads nowhere.
"""

from typing import Annotated, Final

import msgspec
from blake3 import blake3

from shoal.transport.blobs import BlobRef
from shoal.transport.port import Unary
from shoal.transport.wire import U64, Digest, Message

from .history import Made
from .members import CHANGES_TOLD_MAX, Change
from .records import (
    CONTRIBUTION_BYTES_MAX,
    MEMBERS_MAX,
    PRESENCE_BYTES_MAX,
    ContributionBytes,
    Head,
    Presence,
    RoundNumber,
)
from .skipping import Proof
from .spec import SPEC_BYTES_MAX, SignedSpec
from .votes import Ballot, Decided, Vote

PROTOCOL_VERSION: Final = 2

HELD_MAX: Final = MEMBERS_MAX  # contributions announced at once
ASK_MAX: Final = 32  # contributions asked for at once
BALLOTS_MAX: Final = 8  # said at once: a proposal, and the votes of two attempts
LOG_TOLD_MAX: Final = 64  # records told at once
ROUNDS_TOLD_MAX: Final = 1024  # of whose contributions is told at once
CHANGES_TOLD_BYTES_MAX: Final = CHANGES_TOLD_MAX * 2048
TOLD_BYTES_MAX: Final = 4 * 1024 * 1024  # of ballots, or of the log, at once
PLATFORM_CHARS_MAX: Final = 120
VOTE_BYTES_MAX: Final = 256  # without what binds its voter


class Hello(Message, frozen=True):
    """Sent to every peer that connects, and its answer."""

    version: U64
    presence: Presence
    head: Head
    platform: Annotated[str, msgspec.Meta(max_length=PLATFORM_CHARS_MAX)]  # for people: what computed the state
    yours: Annotated[tuple[Vote, ...], msgspec.Meta(max_length=BALLOTS_MAX)]  # the peer's newest that the sender knows


class Offer(Message, frozen=True):
    contribution: ContributionBytes


class Have(Message, frozen=True):
    """Where the sender stands, and which contributions it holds, whole and checked."""

    head: Head
    held: Annotated[tuple[Digest, ...], msgspec.Meta(max_length=HELD_MAX)]
    is_idle: bool  # it is not going to contribute to the next round: nobody need wait for it
    bytes_per_s: U64  # at which it has fetched payloads lately; 0: not known


class Ballots(Message, frozen=True):
    """Votes, proposals, or how rounds ended."""

    ballots: Annotated[tuple[Ballot, ...], msgspec.Meta(min_length=1, max_length=BALLOTS_MAX)]


class Words(Message, frozen=True):
    """Changes that a next record should make, each with its proof."""

    changes: Annotated[tuple[Change, ...], msgspec.Meta(min_length=1, max_length=CHANGES_TOLD_MAX)]


class Ack(Message, frozen=True):
    """Heard; and where the answerer stands."""

    head: Head


class AskHead(Message, frozen=True):
    pass


class TellHead(Message, frozen=True):
    head: Head
    checkpoint: BlobRef | None  # the state after the head's round, as `Method.save` writes it


class AskStore(Message, frozen=True):
    """For a snapshot of the store."""

    digest: Digest  # as a record names it


class TellStore(Message, frozen=True):
    snapshot: BlobRef | None  # its pieces, framed as in `compacting`


class AskLog(Message, frozen=True):
    """For the records from this round on."""

    round: RoundNumber


class TellLog(Message, frozen=True):
    """As many as fit, in order; none if the answerer is no further, or does not keep them."""

    log: Annotated[tuple[Decided, ...], msgspec.Meta(max_length=LOG_TOLD_MAX)]


class AskProof(Message, frozen=True):
    """For the way from this record to one near the newest."""

    record: Digest


class TellProof(Message, frozen=True):
    """None if the answerer does not have that record."""

    proof: Proof | None


class AskHistory(Message, frozen=True):
    """For what the rounds from `first` to `last` took."""

    first: RoundNumber
    last: RoundNumber


class TellHistory(Message, frozen=True):
    """As many as fit, in order, from `first` on; none if the answerer does not have that one."""

    rounds: Annotated[tuple[Made, ...], msgspec.Meta(max_length=ROUNDS_TOLD_MAX)]


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
        hello_max = PRESENCE_BYTES_MAX + BALLOTS_MAX * VOTE_BYTES_MAX + 4 * PLATFORM_CHARS_MAX + 256
        self.hello: Unary[Hello, Hello] = Unary(f"{prefix}/hello", Hello, Hello, hello_max, hello_max)
        self.offer: Unary[Offer, Ack] = Unary(f"{prefix}/offer", Offer, Ack, CONTRIBUTION_BYTES_MAX + 16, 256)
        self.have: Unary[Have, Ack] = Unary(f"{prefix}/have", Have, Ack, HELD_MAX * 34 + 256, 256)
        self.ballots: Unary[Ballots, Ack] = Unary(f"{prefix}/ballots", Ballots, Ack, TOLD_BYTES_MAX, 256)
        self.words: Unary[Words, Ack] = Unary(f"{prefix}/words", Words, Ack, CHANGES_TOLD_BYTES_MAX, 256)
        self.head: Unary[AskHead, TellHead] = Unary(f"{prefix}/head", AskHead, TellHead, 16, 512)
        self.log: Unary[AskLog, TellLog] = Unary(f"{prefix}/log", AskLog, TellLog, 16, TOLD_BYTES_MAX)
        self.proof: Unary[AskProof, TellProof] = Unary(f"{prefix}/proof", AskProof, TellProof, 64, TOLD_BYTES_MAX)
        self.history: Unary[AskHistory, TellHistory] = Unary(
            f"{prefix}/history", AskHistory, TellHistory, 16, TOLD_BYTES_MAX
        )
        self.store: Unary[AskStore, TellStore] = Unary(f"{prefix}/store", AskStore, TellStore, 64, 64)
        self.contributions: Unary[AskContributions, TellContributions] = Unary(
            f"{prefix}/contributions",
            AskContributions,
            TellContributions,
            ASK_MAX * 34 + 16,
            ASK_MAX * (CONTRIBUTION_BYTES_MAX + 8) + 16,
        )
        self.spec: Unary[AskSpec, SignedSpec] = Unary(f"{prefix}/spec", AskSpec, SignedSpec, 16, SPEC_BYTES_MAX + 128)

    def names(self) -> tuple[str, ...]:
        methods = (self.hello, self.offer, self.have, self.ballots, self.words, self.head, self.log)
        others = (self.proof, self.history, self.store, self.contributions, self.spec)
        return (*(method.name for method in methods), *(method.name for method in others))


def topic(swarm: bytes) -> str:
    """Where contributions and votes are gossiped: a hash, for whoever is connected hears of topics."""
    return f"/shoal/swarm/{PROTOCOL_VERSION}/{blake3(b'shoal/swarm/topic/2' + swarm).hexdigest()}"
