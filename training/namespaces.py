"""What a swarm's members keep in their store: who they are, and where, what each has contributed lately, and which
state it holds.

Each namespace has typed values and one author per key, the member whose peer id the path begins with. The rules follow
from the spec, so that all members refuse the same.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Final, TypeVar

import msgspec

from shoal.crdt.dots import Writer
from shoal.crdt.operation import Operation
from shoal.crdt.register import read, write
from shoal.crdt.replica import Replica
from shoal.crdt.rules import Kind, Rule, Rules
from shoal.transport.blobs import BlobRef
from shoal.transport.identity import public_key_of
from shoal.transport.port import PeerId
from shoal.transport.wire import Digest, Malformed, Message, decode, encode

from .records import PRESENCE_BYTES_MAX, Offered, Presence, Present, RoundNumber, Samples
from .spec import Spec

MEMBERS: Final = "members"
CONTRIBUTIONS: Final = "contributions"
CHECKPOINTS: Final = "checkpoints"
STORE_NAME: Final = "store.db"  # beside the rounds

ROUNDS_INDEXED: Final = 16  # of each member's contributions: what is older is in the log
WRITERS_PER_MEMBER: Final = 4  # members come and go; below the spec's members_max times this, nobody is refused

_INDEXED_BYTES_MAX: Final = 256
_CHECKPOINT_BYTES_MAX: Final = 128

V = TypeVar("V", bound=Message)


class Indexed(Message, frozen=True):
    """That a member has made a contribution, and where its payload is."""

    round: RoundNumber
    contribution: Digest  # hash of its envelope
    base: Digest  # the record it started from
    samples: Samples
    payload_bytes: Annotated[int, msgspec.Meta(ge=0, le=2**36)]
    payload: BlobRef | None  # None: it travels inside the contribution


class Checkpoint(Message, frozen=True):
    """That a member holds the state after a round."""

    round: RoundNumber
    state: BlobRef


NAMESPACES: Final[Mapping[str, Rule]] = {
    MEMBERS: Rule(Kind.REGISTER, schema=Presence, value_bytes_max=PRESENCE_BYTES_MAX),
    CONTRIBUTIONS: Rule(Kind.REGISTER, path_parts=2, schema=Indexed, value_bytes_max=_INDEXED_BYTES_MAX),
    CHECKPOINTS: Rule(Kind.REGISTER, schema=Checkpoint, value_bytes_max=_CHECKPOINT_BYTES_MAX),
}


def rules_of(spec: Spec) -> Rules:
    """What may be written in the store of this swarm."""
    return Rules(NAMESPACES, _writer(PeerId(spec.creator)), writers_max=WRITERS_PER_MEMBER * spec.members_max)


def present_operation(replica: Replica, member: PeerId, presence: Presence) -> Operation:
    return write(replica.cell(MEMBERS, member), MEMBERS, (member,), _writer(member), encode(presence))


def indexed_operation(replica: Replica, offered: Offered) -> Operation:
    """A slot for each round, taken again ROUNDS_INDEXED rounds later."""
    path = (str(offered.member), str(offered.round % ROUNDS_INDEXED))
    contribution = offered.contribution
    indexed = Indexed(
        offered.round, offered.hash, contribution.base, contribution.samples, offered.payload_bytes, offered.ref
    )
    return write(replica.cell(CONTRIBUTIONS, *path), CONTRIBUTIONS, path, _writer(offered.member), encode(indexed))


def checkpoint_operation(replica: Replica, member: PeerId, checkpoint: Checkpoint) -> Operation:
    return write(replica.cell(CHECKPOINTS, member), CHECKPOINTS, (member,), _writer(member), encode(checkpoint))


def members(replica: Replica) -> Iterator[Present]:
    """Who has ever said how it stands, sorted by peer id."""
    for path in replica.keys(MEMBERS):
        presence = _value(replica, MEMBERS, path, Presence)
        if presence is not None:
            yield Present(PeerId(path[0]), presence)


def contributions(replica: Replica) -> Iterator[tuple[PeerId, Indexed]]:
    """The index of recent contributions, sorted by member."""
    for path in replica.keys(CONTRIBUTIONS):
        indexed = _value(replica, CONTRIBUTIONS, path, Indexed)
        if indexed is not None:
            yield PeerId(path[0]), indexed


def holders(replica: Replica, state: BlobRef) -> Iterator[PeerId]:
    """The members that said last that they hold this state, sorted by peer id."""
    for path in replica.keys(CHECKPOINTS):
        checkpoint = _value(replica, CHECKPOINTS, path, Checkpoint)
        if checkpoint is not None and checkpoint.state == state:
            yield PeerId(path[0])


def _writer(member: PeerId) -> Writer:
    return Writer(public_key_of(member) or b"")  # what it signed has been verified: it is a key


def _value(replica: Replica, namespace: str, path: tuple[str, ...], type_: type[V]) -> V | None:
    data = read(replica.cell(namespace, *path))
    value = None if data is None else decode(data, type_, len(data))
    return None if isinstance(value, Malformed) else value
