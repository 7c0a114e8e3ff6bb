"""What members sign while they agree on a record: proposals and votes, byte by byte.

Each is bound to swarm, round, attempt and step, so none serves elsewhere. A peer may send any bytes and all that others
signed; what it cannot: make a vote of another's, or two of one's that are not proof against that one.
"""

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
from blake3 import blake3

from shoal.transport.envelope import Signature, Signer, Verify
from shoal.transport.identity import verify
from shoal.transport.port import PeerId
from shoal.transport.wire import Malformed, Message, PeerIdText, encode

from .records import MEMBERS_MAX, RoundNumber

ATTEMPTS_MAX: Final = 2**31
VALUE_BYTES_MAX: Final = 512 * 1024  # a record of MEMBERS_MAX contributions, and changes

_VALUE: Final = b"shoal/record/2\0"
_VOTE: Final = "shoal/vote/1"
_PROPOSAL: Final = "shoal/proposal/2"

Attempt = Annotated[int, msgspec.Meta(ge=0, le=ATTEMPTS_MAX)]
Choice = Annotated[bytes, msgspec.Meta(max_length=32)]  # a value's hash, or nothing: none of them
ValueBytes = Annotated[bytes, msgspec.Meta(min_length=1, max_length=VALUE_BYTES_MAX)]


class Step(enum.IntEnum):
    """Of voting. The numbers are on the wire."""

    PREVOTE = 1  # "this may be the record; I hold all of it"
    PRECOMMIT = 2  # "I have seen that a quorum says so, and am bound by it"


class Signed(Message, frozen=True):
    """One of several signatures on the same statement."""

    member: PeerIdText
    signature: Signature


Signatures = Annotated[tuple[Signed, ...], msgspec.Meta(max_length=MEMBERS_MAX)]


class Polka(Message, frozen=True):
    """A quorum's prevotes for one value in one attempt (Tendermint's name)."""

    attempt: Attempt
    value: ValueBytes
    prevotes: Signatures


class Vote(Message, frozen=True, tag=1):
    voter: PeerIdText
    round: RoundNumber
    attempt: Attempt
    step: Step
    choice: Choice
    signature: Signature
    bound_by: Polka | None = None  # not signed: why it is for nothing though there is a proposal


class Proposal(Message, frozen=True, tag=2):
    proposer: PeerIdText
    round: RoundNumber
    attempt: Attempt
    value: ValueBytes
    polka_attempt: Attempt | None  # of the prevotes that free who is bound by older ones
    prevotes: Signatures
    signature: Signature


class Decided(Message, frozen=True, tag=3):
    """A record with its certificate: a quorum's precommits of one attempt."""

    round: RoundNumber
    attempt: Attempt
    value: ValueBytes
    precommits: Signatures


class Tally(Message, frozen=True, tag=4):
    """Several members' votes for one value in one step: as if each had come by itself."""

    round: RoundNumber
    attempt: Attempt
    step: Step
    choice: Choice
    votes: Signatures


class ShortBallot(Message, frozen=True):
    """A vote, or a proposal (of no step), as short as its signature can be checked."""

    round: RoundNumber
    attempt: Attempt
    step: Step | None
    choice: Choice
    polka_attempt: Attempt | None
    signature: Signature


class Journal(Message, frozen=True):
    """What a member must not forget when it is killed: what it has signed in this round's newest attempt and the one
    before, and what it is bound by.
    """

    round: RoundNumber
    attempt: Attempt
    proposal: Proposal | None
    votes: Annotated[tuple[Vote, ...], msgspec.Meta(max_length=4)]
    bound_by: Polka | None


Ballot = Vote | Proposal | Decided | Tally


@dataclass(frozen=True, slots=True)
class Value:
    """What may be agreed on: a record's bytes."""

    hash: bytes
    data: bytes


def value_of(data: bytes) -> Value:
    return Value(blake3(_VALUE + data).digest(), data)


def vote_statement(swarm: bytes, round: int, attempt: int, step: Step, choice: bytes) -> bytes:
    """What a vote's signature covers."""
    return encode((_VOTE, swarm, round, attempt, step, choice))


def proposal_statement(swarm: bytes, round: int, attempt: int, choice: bytes, polka_attempt: int | None) -> bytes:
    return encode((_PROPOSAL, swarm, round, attempt, choice, polka_attempt))


def shortened(ballot: Vote | Proposal) -> ShortBallot:
    if isinstance(ballot, Vote):
        return ShortBallot(ballot.round, ballot.attempt, ballot.step, ballot.choice, None, ballot.signature)
    choice = value_of(ballot.value).hash
    return ShortBallot(ballot.round, ballot.attempt, None, choice, ballot.polka_attempt, ballot.signature)


def proves(member: PeerId, first: ShortBallot, second: ShortBallot, swarm: bytes, verify: Verify = verify) -> bool:
    """Whether `member` signed both, which no honest one does: different words in one step of one attempt."""
    places = [(each.round, each.attempt, each.step) for each in (first, second)]
    # Compared is what is signed: fields that a vote's signature does not cover anybody may fill in.
    statements = [_statement(each, swarm) for each in (first, second)]
    if places[0] != places[1] or statements[0] == statements[1]:
        return False
    signatures = first.signature, second.signature
    return all(verify(member, *signed) for signed in zip(statements, signatures, strict=True))


def _statement(ballot: ShortBallot, swarm: bytes) -> bytes:
    if ballot.step is None:
        return proposal_statement(swarm, ballot.round, ballot.attempt, ballot.choice, ballot.polka_attempt)
    return vote_statement(swarm, ballot.round, ballot.attempt, ballot.step, ballot.choice)


def cast(signer: Signer, swarm: bytes, round: int, attempt: int, step: Step, choice: bytes) -> Vote:
    signature = signer.sign(vote_statement(swarm, round, attempt, step, choice))
    return Vote(signer.peer_id, round, attempt, step, choice, signature)


def propose(signer: Signer, swarm: bytes, round: int, attempt: int, value: Value, polka: Polka | None) -> Proposal:
    at = None if polka is None else polka.attempt
    signature = signer.sign(proposal_statement(swarm, round, attempt, value.hash, at))
    prevotes = () if polka is None else polka.prevotes
    return Proposal(signer.peer_id, round, attempt, value.data, at, prevotes, signature)


def signatures_of(votes: Iterable[Vote]) -> tuple[Signed, ...]:
    return tuple(Signed(vote.voter, vote.signature) for vote in votes)


def without_polka(vote: Vote) -> Vote:
    """What is signed of it."""
    return Vote(vote.voter, vote.round, vote.attempt, vote.step, vote.choice, vote.signature)


def shown_by(ballot: Ballot) -> tuple[Vote, ...]:
    """The votes that a ballot shows of others beside itself: prevotes that bind or free, or a record's precommits."""
    match ballot:
        case Vote(round=round, bound_by=Polka(attempt, data, signatures)):
            place = round, attempt, Step.PREVOTE, value_of(data).hash
        case Proposal(round=round, value=data, polka_attempt=int(attempt), prevotes=signatures):
            place = round, attempt, Step.PREVOTE, value_of(data).hash
        case Decided(round, attempt, data, signatures):
            place = round, attempt, Step.PRECOMMIT, value_of(data).hash
        case Tally(round, attempt, step, choice, signatures):
            place = round, attempt, step, choice
        case _:
            return ()
    return tuple(Vote(each.member, *place, each.signature) for each in signatures)


def fault(ballot: Ballot, swarm: bytes, voters: Iterable[PeerId], verify: Verify = verify) -> Malformed | None:
    """What is wrong with a message's signatures; None: nothing, and all of them are different voters'."""
    known = set(voters)
    match ballot:
        case Vote(voter, round, attempt, step, choice, signature, polka):
            if voter not in known or len(choice) not in (0, 32):
                return Malformed(f"{voter} has no vote")
            if not verify(PeerId(voter), vote_statement(swarm, round, attempt, step, choice), signature):
                return Malformed(f"a vote that {voter} did not sign")
            return None if polka is None else _polka_fault(polka, round, swarm, known, verify)
        case Proposal(proposer, round, attempt, data, polka_attempt, prevotes, signature):
            if proposer not in known:
                return Malformed(f"{proposer} has no vote")
            statement = proposal_statement(swarm, round, attempt, value_of(data).hash, polka_attempt)
            if not verify(PeerId(proposer), statement, signature):
                return Malformed(f"a proposal that {proposer} did not sign")
            if polka_attempt is None:
                return Malformed("prevotes of no attempt") if prevotes else None
            if polka_attempt >= attempt:
                return Malformed(f"prevotes of attempt {polka_attempt} in a proposal of attempt {attempt}")
            return _polka_fault(Polka(polka_attempt, data, prevotes), round, swarm, known, verify)
        case Decided(round, attempt, data, precommits):
            statement = vote_statement(swarm, round, attempt, Step.PRECOMMIT, value_of(data).hash)
            return _signatures_fault(precommits, statement, known, verify)
        case Tally(round, attempt, step, choice, votes):
            if len(choice) not in (0, 32):
                return Malformed("votes for what is no record")
            statement = vote_statement(swarm, round, attempt, step, choice)
            return _signatures_fault(votes, statement, known, verify)


def _polka_fault(polka: Polka, round: int, swarm: bytes, known: set[PeerId], verify: Verify) -> Malformed | None:
    statement = vote_statement(swarm, round, polka.attempt, Step.PREVOTE, value_of(polka.value).hash)
    return _signatures_fault(polka.prevotes, statement, known, verify)


def _signatures_fault(
    signatures: tuple[Signed, ...], statement: bytes, known: set[PeerId], verify: Verify
) -> Malformed | None:
    seen: set[PeerId] = set()
    for each in signatures:
        member = PeerId(each.member)
        if member not in known or member in seen:
            return Malformed(f"{member} has no vote, or has it twice")
        seen.add(member)
        if not verify(member, statement, each.signature):
            return Malformed(f"a vote that {member} did not sign")
    return None


def signature_count(ballot: Ballot) -> int:
    """That `fault` verifies, or its like in work: no ballot costs nothing."""
    match ballot:
        case Vote(bound_by=polka):
            return 1 + (0 if polka is None else len(polka.prevotes))
        case Proposal(prevotes=prevotes):
            return 1 + len(prevotes)
        case Decided(precommits=precommits):
            return 1 + len(precommits)
        case Tally(votes=votes):
            return 1 + len(votes)
