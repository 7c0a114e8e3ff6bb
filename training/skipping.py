"""The log verified without reading all of it: in time that grows with the records that change the electorate, not with
rounds.

Who comes new, or was away for long, trusts the spec and one record's hash: its invite names a recent one; without one
it is the swarm's id, which stands for round 0, when the creator had the only vote. From there it is shown leaps: every
record since that changes the electorate, then the newest, each with its certificate and with the record before it.

Why the records between may be left out. A certificate is a quorum of the electorate that the verifier knows, so at
least one honest member of that electorate signed it; and an honest member votes only for a record that follows its own
log. So the record is one that follows the log, and the one before it, which it names by its hash, is the log's. That
one says which electorate there was after it. If it is the electorate that the verifier knows, those who were asked for
a quorum are those who had to vote: the record is decided. If it is another, a change was left out, and the proof is
refused. (The electorate after a record alone would not do: a member that is given votes and then leaves returns them,
so two electorates may become equal again, and what was a quorum of the older one may be a lost attempt of the newer.)

What who proves may send: any bytes. What it achieves: that a proof is refused, or that it ends before the newest
record; a verifier asks several. What nobody can bear: if a quorum of an electorate the verifier trusts is liars, or
has become so long after it left, they can show another log from there. That is why the trusted record is a recent one.
"""

from collections.abc import Iterable
from typing import Annotated, Final

import msgspec

from shoal.transport.envelope import Verify
from shoal.transport.identity import verify
from shoal.transport.port import PeerId
from shoal.transport.wire import Malformed, Message, PeerIdText, encode

from .agreed import AgreedRecord, Position, follow, read_record
from .conduct import Behaviour
from .members import BARRED_MAX, Electorate, Seat, electorate_of
from .records import MEMBERS_MAX
from .reputation import Rules
from .spec import AdmissionRule, Spec
from .votes import VALUE_BYTES_MAX, Decided, fault, value_of

PROOF_BYTES_MAX: Final = 4 * 2**20 - 4096  # fits a reply of 4 MiB; an anchor and two leaps of the largest swarm
LEAPS_MAX: Final = 4096  # in one proof; with a quorum of one vote each they need 3 MB

# The creator's where newcomers have none: it shares them out by vouching, and so do those whom it vouches for. A round
# number, for people; more than members_max, so that there is a vote for everybody.
FOUNDING_VOTES: Final = 1_000_000

KnownBytes = Annotated[bytes, msgspec.Meta(max_length=VALUE_BYTES_MAX)]


class Anchor(Message, frozen=True):
    """A trusted record and the electorate after it; nothing where the verifier knows both."""

    record: KnownBytes = b""
    seats: Annotated[tuple[Seat, ...], msgspec.Meta(max_length=MEMBERS_MAX)] = ()
    barred: Annotated[tuple[PeerIdText, ...], msgspec.Meta(max_length=BARRED_MAX)] = ()


class Leap(Message, frozen=True):
    """A certified record, and the one before it; nothing where that is the last one known."""

    before: KnownBytes
    decided: Decided


class Proof(Message, frozen=True):
    """See the module's text. Its last leap need not be the newest record: what does not fit is asked for from there."""

    anchor: Anchor
    leaps: Annotated[tuple[Leap, ...], msgspec.Meta(max_length=LEAPS_MAX)]


def beginning(swarm: bytes, spec: Spec) -> Position:
    """Round 0: the creator has all votes, and nobody else is in."""
    votes = FOUNDING_VOTES if spec.admission is AdmissionRule.OPEN else 1
    electorate = electorate_of(spec.quorum, {PeerId(spec.creator): votes})
    return Position(0, swarm, electorate, behaviour=Behaviour(rules=Rules(spec.ban_rounds)))


def certified(
    swarm: bytes, position: Position, decided: Decided, verify: Verify = verify
) -> tuple[AgreedRecord, Position] | Malformed:
    """The record that comes next at `position` and where the log stands after it, if a quorum has signed it."""
    found = follow(position, value_of(decided.value))
    if isinstance(found, Malformed):
        return found
    if decided.round != found[0].round:
        return Malformed(f"a certificate of round {decided.round} for a record of round {found[0].round}")
    if not position.electorate.have_signed(decided.precommits):
        return Malformed(f"those who signed round {decided.round} are no quorum")
    wrong = fault(decided, swarm, position.electorate.by_member, verify)
    return found if wrong is None else wrong


def leapt(
    swarm: bytes, position: Position, leap: Leap, verify: Verify = verify
) -> tuple[AgreedRecord, Position] | Malformed:
    """As `certified`, from any record at or before the one that comes next, if none between has changed anything."""
    if not leap.before:
        return certified(swarm, position, leap.decided, verify)
    before = read_record(value_of(leap.before))
    if isinstance(before, Malformed):
        return before
    if before.round <= position.round:
        return Malformed(f"a leap from round {position.round} back to round {before.round}")
    if before.electorate != position.electorate.digest():
        return Malformed(f"a leap over a change of members between rounds {position.round} and {before.round}")
    landing = position.after(before, value_of(leap.before).hash)
    return certified(swarm, landing, leap.decided, verify)


def anchored(origin: Position, trusted: bytes, anchor: Anchor) -> Position | Malformed:
    """Where the log stood after the record whose hash is `trusted`; it needs no anchor if that is `origin`'s."""
    if trusted == origin.record:
        return origin
    value = value_of(anchor.record)
    if value.hash != trusted:
        return Malformed(f"its anchor is not the record {trusted.hex()[:12]}")
    record = read_record(value)
    if isinstance(record, Malformed):
        return record
    barred = tuple(PeerId(member) for member in anchor.barred)
    electorate = Electorate(origin.electorate.quorum, anchor.seats, barred)
    if electorate.digest() != record.electorate:
        return Malformed("its anchor's members are not those after the trusted record")
    return origin.after(record, value.hash, electorate)


def verify_proof(
    swarm: bytes, origin: Position, trusted: bytes, proof: Proof, verify: Verify = verify
) -> Position | Malformed:
    """Where the log stands after the proof's last leap.

    Slow, as its signatures are: up to 30,000 of them, each some 0.1 ms.

    Args:
        origin: what the verifier knows for certain: `beginning`, or where its own log ends.
        trusted: hash of the record that it trusts and asked from; may be `origin`'s.
    """
    position = anchored(origin, trusted, proof.anchor)
    for leap in proof.leaps:
        if isinstance(position, Malformed):
            break
        found = leapt(swarm, position, leap, verify)
        position = found if isinstance(found, Malformed) else found[1]
    return position


def anchor_of(position: Position, record: bytes) -> Anchor:
    """`record` is the bytes of the position's record."""
    return Anchor(record, position.electorate.seats, position.electorate.barred)


def prove(anchor: Anchor, leaps: Iterable[Leap], bytes_max: int = PROOF_BYTES_MAX) -> Proof:
    """As many of the leaps, in order, as fit; read no further than that."""
    room = bytes_max - len(encode(Proof(anchor, ()))) - 8  # the count of leaps takes more bytes as it grows
    taken: list[Leap] = []
    for leap in leaps:
        room -= len(encode(leap))
        if room < 0 or len(taken) == LEAPS_MAX:
            break
        taken.append(leap)
    return Proof(anchor, tuple(taken))
