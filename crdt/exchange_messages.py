"""What two replicas say to each other to become equal, byte by byte: two methods per swarm.

`compare` asks with digests and is answered with the heads that differ. `settle` hands over what the other lacks, asks
for what is missing here, and is answered with that, in pieces. Whoever asks works out both, so an exchange costs whom
it asks little: it remembers nothing between two calls.
"""

from typing import Annotated, Final

import msgspec
from blake3 import blake3

from shoal.transport.port import Unary
from shoal.transport.wire import U64, Digest, Message

from .heads import BUCKETS, SALT_BYTES, SHORT_BYTES
from .operation import BATCH_BYTES_MAX, NUMBER_MAX, WriterBytes

EXCHANGE_VERSION: Final = 1
HASH_BYTES: Final = 16  # of an operation's hash: to make two alike costs 2^64 hashes, and confuses one's own chain only
HEADS_MAX: Final = 1024  # in one answer
MARKS_MAX: Final = 64  # of one want
WANTS_MAX: Final = 512  # in one question
SEARCHES_MAX: Final = 16  # of these with more than one mark
BATCHES_MAX: Final = 2048  # in one message
PIECE_BYTES: Final = 256 * 1024  # of batches in one message; a batch has at most BATCH_BYTES_MAX

ShortHash = Annotated[bytes, msgspec.Meta(min_length=HASH_BYTES, max_length=HASH_BYTES)]
ChainNumber = Annotated[int, msgspec.Meta(ge=0, le=NUMBER_MAX)]
BatchBytes = Annotated[bytes, msgspec.Meta(max_length=BATCH_BYTES_MAX)]
BucketNumber = Annotated[int, msgspec.Meta(ge=0, lt=BUCKETS)]


class Compare(Message, frozen=True):
    """All heads in short."""

    version: U64
    digest: Digest
    salt: Annotated[bytes, msgspec.Meta(min_length=SALT_BYTES, max_length=SALT_BYTES)]
    buckets: Annotated[bytes, msgspec.Meta(min_length=BUCKETS * SHORT_BYTES, max_length=BUCKETS * SHORT_BYTES)]
    start: BucketNumber  # which bucket is answered first


class ShortHead(Message, frozen=True):
    writer: WriterBytes
    number: ChainNumber
    hash: ShortHash
    is_forked: bool


class Compared(Message, frozen=True):
    """The answerer's heads in the buckets that differ; no buckets: all is equal."""

    buckets: Annotated[tuple[BucketNumber, ...], msgspec.Meta(max_length=BUCKETS)]  # of whose heads none is left out
    heads: Annotated[tuple[ShortHead, ...], msgspec.Meta(max_length=HEADS_MAX)]
    own: ShortHead | None  # of the asker's chain, if anything differs: what it must know before it writes
    is_whole: bool  # no other buckets differ


class Mark(Message, frozen=True):
    """A place in a chain."""

    number: ChainNumber
    hash: ShortHash


class Want(Message, frozen=True):
    """What comes after the highest of these marks that the answerer's chain goes through, and the proof of a fork."""

    writer: WriterBytes
    marks: Annotated[tuple[Mark, ...], msgspec.Meta(min_length=1, max_length=MARKS_MAX)]  # descending


class Unmet(Message, frozen=True):
    """The answerer's chain goes through none of the marks. What is up to `base` it has as a snapshot only."""

    writer: WriterBytes
    base: ChainNumber


class Settle(Message, frozen=True):
    wants: Annotated[tuple[Want, ...], msgspec.Meta(max_length=WANTS_MAX)]
    batches: Annotated[tuple[BatchBytes, ...], msgspec.Meta(max_length=BATCHES_MAX)]  # that the answerer lacks


class Settled(Message, frozen=True):
    batches: Annotated[tuple[BatchBytes, ...], msgspec.Meta(max_length=BATCHES_MAX)]
    rest: Annotated[tuple[Want, ...], msgspec.Meta(max_length=WANTS_MAX)]  # to be asked next: there was no room
    unmet: Annotated[tuple[Unmet, ...], msgspec.Meta(max_length=WANTS_MAX)]


_HEAD_BYTES: Final = 34 + 9 + 18 + 2
_MARK_BYTES: Final = 1 + 9 + 18
_WANTS_BYTES: Final = WANTS_MAX * (1 + 34 + 3 + _MARK_BYTES) + SEARCHES_MAX * MARKS_MAX * _MARK_BYTES
_BATCHES_BYTES: Final = PIECE_BYTES + 5 * BATCHES_MAX
COMPARE_BYTES_MAX: Final = 1024
COMPARED_BYTES_MAX: Final = HEADS_MAX * _HEAD_BYTES + 2 * BUCKETS + 64
SETTLE_BYTES_MAX: Final = _BATCHES_BYTES + _WANTS_BYTES + 64
SETTLED_BYTES_MAX: Final = _BATCHES_BYTES + _WANTS_BYTES + WANTS_MAX * 44 + 64


class Calls:
    """The methods of one swarm's store. Who asks a node that is not in the swarm gets UNKNOWN_METHOD."""

    def __init__(self, swarm: bytes) -> None:
        # 16 bytes name the swarm well enough for routing; what is signed is bound to all 32.
        prefix = f"/shoal/store/{EXCHANGE_VERSION}/{swarm[:16].hex()}"
        self.compare: Unary[Compare, Compared] = Unary(
            f"{prefix}/compare", Compare, Compared, COMPARE_BYTES_MAX, COMPARED_BYTES_MAX
        )
        self.settle: Unary[Settle, Settled] = Unary(
            f"{prefix}/settle", Settle, Settled, SETTLE_BYTES_MAX, SETTLED_BYTES_MAX
        )


def topic(swarm: bytes) -> str:
    """Where fresh operations are gossiped: a hash, for whoever is connected hears of topics."""
    return f"/shoal/store/{EXCHANGE_VERSION}/{blake3(b'shoal/store/topic/1' + swarm).hexdigest()}"
