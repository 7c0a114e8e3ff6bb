"""A swarm's log as one file: its spec, the proof that leads to its newest record, and what every round took. No I/O.

It is enough to make the model anew, on a machine that has the first state and has never heard of the swarm: the spec
says what that is, a quorum has signed which digest comes out. A file is: 8 bytes of magic, the version (u32, little-
endian), then messages, each behind its length (u32, little-endian): a `Contents`, as many `Proof`s and then as many
`Made`s as that says, and nothing after them.

Whoever made the file may have put any bytes there. What it achieves: a refusal that says where. No more is read at once
than a message may have. That every record between is proved, and who the members were, follows as in `skipping`; what
the rounds took is proved by the digest alone, at the end.
"""

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Final, TypeVar

import msgspec

from shoal.transport.wire import Digest, Malformed, Message, decode, encode

from .agreed import Position, read_record
from .history import MADE_BYTES_MAX, Made
from .records import RoundNumber
from .skipping import PROOF_BYTES_MAX, Anchor, Leap, Proof, beginning, prove, verify_proof
from .spec import SPEC_BYTES_MAX, SignedSpec, Spec, open_spec, swarm_id_of
from .votes import value_of

MAGIC: Final = b"shoal/lg"
VERSION: Final = 1
PROOFS_MAX: Final = 4096  # of 4 MiB: 16 million changes of members
CONTENTS_BYTES_MAX: Final = SPEC_BYTES_MAX + 512

M = TypeVar("M", bound=Message)
Read = Callable[[int], bytes]  # so many bytes, or as many as are left


class Contents(Message, frozen=True):
    """What the file has in it."""

    spec: SignedSpec
    trusted: Digest  # the record from which the proofs lead on; the swarm's id: from the spec
    proofs: Annotated[int, msgspec.Meta(ge=1, le=PROOFS_MAX)]
    rounds: RoundNumber  # from 1 on; the proofs end with the record of the next one, which certifies the state after it


@dataclass(frozen=True, slots=True)
class Opened:
    """A file whose beginning is sound."""

    swarm: bytes
    spec: Spec
    contents: Contents


@dataclass(frozen=True, slots=True)
class Certified:
    """Which state a quorum has certified: that after the round before the position's."""

    position: Position
    digest: bytes
    leaps: int  # records that were shown


def head(contents: Contents) -> bytes:
    """How a file begins."""
    return MAGIC + struct.pack("<I", VERSION) + framed(contents)


def framed(message: Message) -> bytes:
    body = encode(message)
    return struct.pack("<I", len(body)) + body


def proofs(anchor: Anchor, start: int, last: int, leaps: Callable[[int, int], Iterable[Leap]]) -> Iterator[Proof]:
    """The proofs that lead from the record of round `start` to that of round `last`.

    Args:
        leaps: after a round, to another: all that change the members, and the last.
    """
    while start < last:
        proof = prove(anchor, leaps(start, last))
        if not proof.leaps:
            raise ValueError(f"nothing leads from round {start} to round {last}")  # it is on this disk, and was checked
        yield proof
        anchor, start = Anchor(), proof.leaps[-1].decided.round


def open_file(read: Read) -> Opened | Malformed:
    """Up to the proofs."""
    beginning = read(len(MAGIC) + 4)
    if beginning[: len(MAGIC)] != MAGIC or len(beginning) < len(MAGIC) + 4:
        return Malformed("it is no file that `shoal log export` has written")
    (version,) = struct.unpack("<I", beginning[len(MAGIC) :])
    if version != VERSION:
        return Malformed(f"it has format {version}, and this Shoal reads format {VERSION}: a newer one may read it")
    contents = _next(read, Contents, CONTENTS_BYTES_MAX, "what is in it")
    if isinstance(contents, Malformed):
        return contents
    spec = open_spec(contents.spec)
    if isinstance(spec, Malformed):
        return spec
    return Opened(swarm_id_of(contents.spec.spec), spec, contents)


def certify(read: Read, opened: Opened, tick: Callable[[int], None]) -> Certified | Malformed:
    """Verify the proofs, from the record that `Contents.trusted` names: whether to trust it the caller decides.

    `tick` is told how many proofs are verified.
    """
    swarm, contents = opened.swarm, opened.contents
    position, trusted, leaps, newest = beginning(swarm, opened.spec), contents.trusted, 0, b""
    for number in range(contents.proofs):
        proof = _next(read, Proof, PROOF_BYTES_MAX, f"proof {number + 1} of {contents.proofs}")
        if isinstance(proof, Malformed):
            return proof
        found = verify_proof(swarm, position, trusted, proof)
        if isinstance(found, Malformed):
            return Malformed(f"its log does not hold: {found.reason}")
        if not proof.leaps:
            return Malformed(f"proof {number + 1} proves nothing")
        position, trusted, leaps, newest = found, found.record, leaps + len(proof.leaps), proof.leaps[-1].decided.value
        tick(number + 1)
    record = read_record(value_of(newest))
    if isinstance(record, Malformed):
        return record
    if record.round != contents.rounds + 1:
        return Malformed(f"it has {contents.rounds} rounds, and its newest record is that of round {record.round}")
    return Certified(position, record.base_digest, leaps)


def rounds(read: Read, contents: Contents) -> Iterator[tuple[Made, int] | Malformed]:
    """What each round took, in order, and how many bytes that is; ends with what is wrong, if anything is."""
    for round in range(1, contents.rounds + 1):
        made = _next(read, Made, MADE_BYTES_MAX, f"round {round} of {contents.rounds}")
        if isinstance(made, Malformed):
            yield made
            return
        if made.round != round:
            yield Malformed(f"round {made.round} stands where round {round} is expected")
            return
        yield made, len(encode(made))
    if read(1):
        yield Malformed(f"something follows after round {contents.rounds}, its last")


def _next(read: Read, type_: type[M], bytes_max: int, what: str) -> M | Malformed:
    length = read(4)
    if len(length) < 4:
        return Malformed(f"it ends before {what}")
    (size,) = struct.unpack("<I", length)
    if size > bytes_max:
        return Malformed(f"{what} claims {size} bytes, and {bytes_max} are the most")
    body = read(size)
    if len(body) < size:
        return Malformed(f"it ends within {what}")
    message = decode(body, type_, bytes_max)
    return Malformed(f"{what}: {message.reason}") if isinstance(message, Malformed) else message
