"""Operations, and the signed chains they come in.

The n-th operation of a writer has the hash blake3(hash of the one before, its own bytes): it commits to all before it.
A batch is a stretch of a chain with one signature, on the number and the hash of its last operation. How a chain is cut
into batches means nothing: two batches that cover the same operations say the same, and no digest covers signatures.

A peer may send any bytes. It cannot make another's operation out of them, move one to another place, chain or swarm
(the first hash of a chain is that of its swarm and writer), nor write one operation in two ways (all is canonical).
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Final, Protocol

import msgspec
from blake3 import blake3

from shoal.transport.identity import SIGNATURE_BYTES, verify_by_key
from shoal.transport.wire import Digest, Malformed, Message, decode, encode

from .dots import TAG_BYTES, Dot, Entry, Seen, Tag, Writer

CHAIN_VERSION: Final = 1
WRITER_BYTES: Final = 32
NUMBER_MAX: Final = 2**48  # of an operation
PATH_PARTS_MAX: Final = 4
PATH_CHARS_MAX: Final = 96  # of one part
VALUE_BYTES_MAX: Final = 8192
TAKEN_MAX: Final = 64  # entries that one operation takes away
OPERATIONS_MAX: Final = 256  # of one batch
BATCH_BYTES_MAX: Final = 60_000  # fits into one gossip message

_CHAIN: Final = b"shoal/chain/1"
_BATCH: Final = "shoal/batch/1"

WriterBytes = Annotated[bytes, msgspec.Meta(min_length=WRITER_BYTES, max_length=WRITER_BYTES)]
Number = Annotated[int, msgspec.Meta(ge=1, le=NUMBER_MAX)]
Part = Annotated[str, msgspec.Meta(min_length=1, max_length=PATH_CHARS_MAX)]
Path = tuple[str, ...]
Verify = Callable[[bytes, bytes, bytes], bool]  # public key, message, signature


class Taken(Message, frozen=True):
    """An entry taken away: its operation's writer (nothing: this one), number, and the start of its hash."""

    writer: Annotated[bytes, msgspec.Meta(max_length=WRITER_BYTES)]
    number: Number
    tag: Tag


class Operation(Message, frozen=True):
    """One change to one key."""

    namespace: Annotated[str, msgspec.Meta(min_length=1, max_length=32)]
    path: Annotated[tuple[Part, ...], msgspec.Meta(min_length=1, max_length=PATH_PARTS_MAX)]
    value: Annotated[bytes, msgspec.Meta(max_length=VALUE_BYTES_MAX)] | None = None  # the entry it adds
    taken: Annotated[tuple[Taken, ...], msgspec.Meta(max_length=TAKEN_MAX)] = ()
    stamp: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0  # of a hybrid logical clock
    record: Annotated[bytes, msgspec.Meta(max_length=32)] = b""  # under which its writer was a member

    def entry(self, tag: bytes) -> Entry | None:
        return None if self.value is None else Entry(self.value, self.stamp, tag)

    def seen(self, writer: Writer) -> Sequence[Seen]:
        """What it takes away, written by `writer`."""
        if not self.taken:
            return ()
        return [Seen(Dot(Writer(each.writer or writer), each.number), each.tag) for each in self.taken]


def taken_by(writer: Writer, held: Iterable[tuple[Dot, Entry]]) -> tuple[Taken, ...]:
    """Entries as an operation of `writer` names those that it takes away: TAKEN_MAX at most."""
    return tuple(Taken(b"" if dot.writer == writer else dot.writer, dot.number, entry.tag) for dot, entry in held)


class Batch(Message, frozen=True):
    """A stretch of a writer's chain, signed once."""

    version: Annotated[int, msgspec.Meta(ge=CHAIN_VERSION, le=CHAIN_VERSION)]
    writer: WriterBytes
    first: Number  # of the first of the operations
    previous: Digest  # hash of the operation before, or of the chain's beginning
    operations: Annotated[tuple[Operation, ...], msgspec.Meta(min_length=1, max_length=OPERATIONS_MAX)]
    signature: Annotated[bytes, msgspec.Meta(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]


class BatchSigner(Protocol):
    """Whose chain it is: `identity.Identity`."""

    @property
    def public_key(self) -> bytes: ...

    def sign(self, message: bytes) -> bytes: ...


class Stretch(msgspec.Struct, frozen=True, gc=False):
    """A batch that has been read: canonical, with the hashes it implies. Its signature is checked by `is_signed`."""

    batch: Batch
    data: bytes
    hashes: tuple[bytes, ...]  # of its operations
    sizes: tuple[int, ...]  # of the same, in bytes
    writer: Writer
    first: int
    last: int

    def is_signed(self, swarm: bytes, verify: Verify = verify_by_key) -> bool:
        """Dear (0.06 ms): look at everything else first."""
        return verify(self.writer, _statement(swarm, self.last, self.hashes[-1]), self.batch.signature)


def genesis(swarm: bytes, writer: Writer) -> bytes:
    """The hash that a writer's first operation in a swarm follows."""
    return blake3(_CHAIN + swarm + writer).digest()


def chained(previous: bytes, operations: Iterable[bytes]) -> tuple[bytes, ...]:
    """The hashes of operations, as their bytes, that follow one another and `previous`."""
    hashes: list[bytes] = []
    hasher = blake3()  # one for all: to make one costs more than to hash so little
    for operation in operations:
        hasher.reset()
        hasher.update(previous + operation)
        previous = hasher.digest()
        hashes.append(previous)
    return tuple(hashes)


def tag_of(hash: bytes) -> bytes:
    return hash[:TAG_BYTES]


def seal(signer: BatchSigner, swarm: bytes, first: int, previous: bytes, operations: Sequence[Operation]) -> Stretch:
    """Operations signed as the next of the signer's chain: the `first` follows the one with the hash `previous`.

    Raises ValueError if they are none, or too many or too large for one batch: the caller's bug.
    """
    hashes = chained(previous, map(encode, operations))
    if not hashes:
        raise ValueError("a batch without an operation")
    signature = signer.sign(_statement(swarm, first + len(hashes) - 1, hashes[-1]))
    batch = Batch(CHAIN_VERSION, signer.public_key, first, previous, tuple(operations), signature)
    stretch = read_batch(encode(batch))
    if isinstance(stretch, Malformed):
        raise ValueError(stretch.reason)
    return stretch


def read_batch(data: bytes) -> Stretch | Malformed:
    """The batch in `data`, its signature not yet checked."""
    batch = decode(data, Batch, BATCH_BYTES_MAX)
    if isinstance(batch, Malformed):
        return batch
    if encode(batch) != data:
        return Malformed("a batch that is not written in its shortest form")
    operations = [encode(operation) for operation in batch.operations]
    hashes, sizes = chained(batch.previous, operations), tuple(map(len, operations))
    return Stretch(batch, data, hashes, sizes, Writer(batch.writer), batch.first, batch.first + len(hashes) - 1)


def _statement(swarm: bytes, last: int, hash: bytes) -> bytes:
    return encode((_BATCH, swarm, last, hash))
