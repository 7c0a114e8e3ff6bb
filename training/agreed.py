"""The log's records: what the members have agreed on, round by round, and what makes a record one that can follow.

A record's hash covers the record before it, the contributions taken, all changes of membership and votes, the state
before, what that showed of who made it, how the members have behaved since the beginning, and now and then what they
compact their store to; never attempt, proposer or signatures, which are its
certificate: a value that bound some in one attempt may be decided in another, as the same record.

A member may propose any bytes. What it cannot: have honest members vote for a record that does not follow theirs, makes
changes that do not fit or are not proved, or claims another electorate than follows from them.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated

import msgspec

from shoal.crdt.compact import WriterMark
from shoal.transport.envelope import Verify
from shoal.transport.identity import verify
from shoal.transport.port import PeerId
from shoal.transport.wire import Digest, Malformed, Message, PeerIdText, decode, encode

from .conduct import Behaviour, Conduct
from .conduct import after as conduct_after
from .evidence import Evidence
from .members import Change, Electorate, Expel, Join, Leave, Opine, Remove, Vouch
from .records import MEMBERS_MAX, RoundNumber, Samples, StateDigest
from .votes import VALUE_BYTES_MAX, Value, proves, value_of

CHANGES_MAX = 256  # in one record
FRONTIER_MAX = 4096  # writers in a frontier: 72 bytes of a record for each

# Whether somebody is let in for this reason, and with how many votes; None: it is not.
Admits = Callable[[PeerId, bytes], int | None]


class Share(Message, frozen=True):
    """A contribution that a record takes."""

    member: PeerIdText
    round: RoundNumber  # that it was made for
    base_round: RoundNumber  # the round whose end it started from; of one place one is ever taken
    contribution: Digest  # hash of its envelope, which names its payload
    samples: Samples


class StoreMark(Message, frozen=True):
    """What the members put in the place of their store's operations: the snapshot at a frontier."""

    frontier: Annotated[tuple[WriterMark, ...], msgspec.Meta(min_length=1, max_length=FRONTIER_MAX)]  # sorted by writer
    digest: Digest  # `compact.digest_of` the snapshot's pieces


class AgreedRecord(Message, frozen=True):
    """See the module's text."""

    previous: Digest
    round: RoundNumber
    base_digest: StateDigest  # of the state that the taken contributions started from
    taken: Annotated[tuple[Share, ...], msgspec.Meta(max_length=MEMBERS_MAX)]  # sorted by member, round and base
    changes: Annotated[tuple[Change, ...], msgspec.Meta(max_length=CHANGES_MAX)]
    electorate: Digest  # after these changes
    store: StoreMark | Digest | None = None  # agreed on here; else the digest of what was agreed on before, if anything
    evidence: Annotated[tuple[Evidence, ...], msgspec.Meta(max_length=MEMBERS_MAX)] = ()  # see `Behaviour.members`
    conduct: Conduct = Conduct()  # after this record

    @property
    def mark(self) -> StoreMark | None:
        """What the members compact their store to from this record on."""
        return self.store if isinstance(self.store, StoreMark) else None

    @property
    def snapshot(self) -> bytes | None:
        """The digest of the newest snapshot that the members have agreed on."""
        return self.store.digest if isinstance(self.store, StoreMark) else self.store


@dataclass(frozen=True, slots=True)
class Position:
    """Where the log stands: what a next record has to follow."""

    round: int
    record: bytes  # hash of the newest record; of round 0 the swarm's id
    electorate: Electorate
    snapshot: bytes | None = None  # of the store: the digest of the newest that is agreed on
    behaviour: Behaviour = field(default_factory=Behaviour)

    def is_banned(self, member: PeerId) -> bool:
        """Whether the next record takes nothing of it."""
        return self.behaviour.bans.get(member, 0) > self.round

    def after(self, record: AgreedRecord, hash: bytes, electorate: Electorate | None = None) -> "Position":
        """Where the log stands after a record that follows it, though perhaps not at once; `electorate`: if changed."""
        members = tuple(PeerId(member) for member in sorted({share.member for share in record.taken}))
        behaviour = Behaviour(record.conduct, members, self.behaviour.rules)
        return Position(record.round, hash, electorate or self.electorate, record.snapshot, behaviour)


def record_value(record: AgreedRecord) -> Value:
    return value_of(encode(record))


def read_record(value: Value) -> AgreedRecord | Malformed:
    record = decode(value.data, AgreedRecord, VALUE_BYTES_MAX)
    if isinstance(record, Malformed):
        return record
    if encode(record) != value.data:
        return Malformed("a record that is not written in its shortest form")
    places = [(share.member, share.round, share.base_round) for share in record.taken]
    if any(left >= right for left, right in pairwise(places)):
        return Malformed("a record's contributions are not sorted, or one stands in it twice")
    if any(not share.base_round < share.round or share.base_round >= record.round for share in record.taken):
        return Malformed("a record takes a contribution that starts from a state of a round to come")
    writers = () if record.mark is None else (each.writer for each in record.mark.frontier)
    if any(left >= right for left, right in pairwise(writers)):
        return Malformed("a record's frontier is not sorted, or names a writer twice")
    return record


def follow(position: Position, value: Value) -> tuple[AgreedRecord, Position] | Malformed:
    """The record in `value` and where the log stands after it, if it can come next there."""
    record = read_record(value)
    if isinstance(record, Malformed):
        return record
    if record.round != position.round + 1 or record.previous != position.record:
        return Malformed(f"it follows another record than that of round {position.round}")
    electorate = position.electorate
    if record.changes:
        changed = electorate.after(record.round, record.changes)
        if isinstance(changed, Malformed):
            return changed
        electorate = changed
    if electorate.digest() != record.electorate:
        return Malformed("its members are not those that follow from its changes")
    if record.mark is None and record.snapshot != position.snapshot:
        return Malformed("it names another snapshot of the store than was agreed on")
    conduct = conduct_after(position.behaviour, record.round, position.electorate, record.evidence, record.changes)
    if isinstance(conduct, Malformed):
        return conduct
    if conduct != record.conduct:
        return Malformed("its members' conduct is not what follows from what it says of them")
    return record, position.after(record, value.hash, electorate)


def next_record(
    position: Position,
    base_digest: bytes,
    taken: Iterable[Share],
    changes: tuple[Change, ...] = (),
    mark: StoreMark | None = None,
    evidence: tuple[Evidence, ...] = (),
) -> AgreedRecord | Malformed:
    """A record that can come next; Malformed if the changes do not fit."""
    electorate = position.electorate.after(position.round + 1, changes)
    if isinstance(electorate, Malformed):
        return electorate
    shares = tuple(sorted(taken, key=lambda share: (share.member, share.round, share.base_round)))
    round, digest, store = position.round + 1, electorate.digest(), mark or position.snapshot
    conduct = conduct_after(position.behaviour, round, position.electorate, evidence, changes)
    if isinstance(conduct, Malformed):
        return conduct
    return AgreedRecord(position.record, round, base_digest, shares, changes, digest, store, evidence, conduct)


# Proofs of changes.


def leave_statement(swarm: bytes, member: str, since: int) -> bytes:
    """What who leaves signs; good for this membership of its only, begun in round `since`."""
    return encode(("shoal/leave/1", swarm, member, since))


def remove_statement(swarm: bytes, member: str, since: int) -> bytes:
    """What those sign who want a member to go."""
    return encode(("shoal/remove/1", swarm, member, since))


def vouch_statement(swarm: bytes, voucher: str, member: str, votes: int, since: int) -> bytes:
    """What a voucher signs; `since` is the round in which the member that it vouches for joined."""
    return encode(("shoal/vouch/1", swarm, voucher, member, votes, since))


def opine_statement(swarm: bytes, opinion: Opine) -> bytes:
    """What a judge signs."""
    place = opinion.member, opinion.round, opinion.base_round
    return encode(("shoal/opine/1", swarm, opinion.judge, *place, opinion.came_out))


def unproved(
    changes: Iterable[Change], swarm: bytes, electorate: Electorate, admits: Admits, verify: Verify = verify
) -> str | None:
    """Which change is not proved; None: all are. Whether to suspend is each member's own judgement."""
    for change in changes:
        wrong = _unproved(change, swarm, electorate, admits, verify)
        if wrong is not None:
            return wrong
    return None


def _unproved(change: Change, swarm: bytes, electorate: Electorate, admits: Admits, verify: Verify) -> str | None:
    member = PeerId(change.member)
    seat = electorate.by_member.get(member)
    since = 0 if seat is None else seat.since
    match change:
        case Join() if seat is not None:
            # In the same record it may leave: what it said to join would bring it back at once.
            return f"{member} is a member already"
        case Join(_, votes, admission):
            return None if admits(member, admission) == votes else f"{member} is not let in with {votes} votes"
        case Leave(_, word):
            is_said = verify(member, leave_statement(swarm, member, since), word)
            return None if is_said else f"{member} has not said that it leaves"
        case Vouch(_, voucher, votes, word):
            statement = vouch_statement(swarm, voucher, member, votes, since)
            return None if verify(PeerId(voucher), statement, word) else f"{voucher} has not vouched for {member}"
        case Remove(_, words):
            statement = remove_statement(swarm, member, since)
            voters = (each for each in words if electorate.votes(PeerId(each.member)))
            signers = {PeerId(each.member) for each in voters if verify(PeerId(each.member), statement, each.signature)}
            is_wanted = electorate.is_quorum(signers - {member})
            return None if is_wanted else f"no quorum wants {member} to go"
        case Expel(_, first, second):
            is_proof = proves(member, first, second, swarm, verify)
            return None if is_proof else f"it does not prove that {member} lies"
        case Opine(_, judge):
            is_said = verify(PeerId(judge), opine_statement(swarm, change), change.word)
            return None if is_said else f"{judge} has not judged {member}"
        case _:
            return None


def proof_count(change: Change) -> int:
    """Signatures that `unproved` verifies, at most."""
    match change:
        case Join():
            return 4  # of an invite three, and the newcomer's own
        case Remove(_, words):
            return len(words)
        case Expel():
            return 2
        case _:
            return 1
