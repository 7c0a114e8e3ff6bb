"""One member's round core at hand, with what the others would send it: real keys, real signatures, no network."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from shoal.training.admission import admits, join_change
from shoal.training.agreed import Admits, AgreedRecord, Position, next_record, record_value
from shoal.training.agreeing import Agreement
from shoal.training.effects import CheckPayload, Effect, Observe
from shoal.training.judging import share_of
from shoal.training.ledger import Closed, Ledger, closed_by
from shoal.training.members import Change, Electorate, electorate_of
from shoal.training.patience import timeouts
from shoal.training.records import Contribution, Head, Offered, Presence, Present, Standing, seal_contribution
from shoal.training.roster import Roster
from shoal.training.rounds import Place, Rounds
from shoal.training.situation import Situation
from shoal.training.spec import Quorum, Spec, spec_from, swarm_id
from shoal.training.votes import Ballot, Decided, Journal, Proposal, Step, Tally, Vote, cast, propose, signatures_of
from shoal.training.voting_effects import Send
from shoal.transport.blobs import BlobRef
from shoal.transport.envelope import Verify
from shoal.transport.identity import Identity, verify
from shoal.transport.port import PeerId

Kind = TypeVar("Kind")

PEOPLE = sorted((Identity.from_seed(bytes([n]) * 32) for n in range(6)), key=lambda identity: identity.peer_id)
ANN, BEN, CAT, DAN, EVE = PEOPLE[:5]
DIGEST = bytes(32)


def make_spec(**values: Any) -> Spec:
    """Everybody is let in; a proposer has two seconds."""
    listed = {"admission": "list", "allowed": [each.peer_id for each in PEOPLE]}
    spans = {"round_s": 20, "grace_s": 5, "silence_s": 2, "samples_max": 100}
    spec = spec_from(spans | listed | values, ANN.peer_id, bytes(16))
    assert isinstance(spec, Spec), spec
    return spec


SPEC = make_spec()
SWARM = swarm_id(SPEC)
START = Head(0, SWARM, DIGEST)
THREE = Position(0, SWARM, electorate_of(Quorum.MAJORITY, {each.peer_id: 1 for each in (ANN, BEN, CAT)}))
ALONE = Position(0, SWARM, electorate_of(Quorum.MAJORITY, {ANN.peer_id: 1}))


def admission(spec: Spec = SPEC) -> Callable[[Position], Admits]:
    return lambda position: partial(admits, spec, SWARM, position)


@dataclass
class Member:
    """A core with its roster. What it is given at first is what it has on disk; Ann, Ben and Cat have a vote each."""

    who: Identity
    spec: Spec = SPEC
    standing: Standing = Standing.TRAINER
    origin: Position = THREE
    head: Head = START
    log: Iterable[Decided] = ()
    journal: Journal | None = None
    start_digest: bytes | None = None
    verify: Verify = verify
    roster: Roster = field(init=False)
    rounds: Rounds = field(init=False)

    def __post_init__(self) -> None:
        self.roster = Roster(self.who.peer_id, self.spec.members_max)
        log, ledger = list(self.log), Ledger(self.origin, self.start_digest)
        agreement = Agreement(SWARM, self.who, timeouts(self.spec, 0, ()), self.origin, log, self.journal, self.verify)
        contributors, position = tuple[PeerId, ...](), self.origin
        for decided in log:
            closed, position = closed_by(position, decided)
            ledger.add(closed)
            if closed.record.taken and closed.record.round <= self.head.round:
                contributors = tuple(dict.fromkeys(PeerId(share.member) for share in closed.record.taken))
        place = Place(self.head, contributors, agreement, ledger, self.start_digest)
        self.rounds = Rounds(Situation(self.spec, self.roster, place, self.standing, admission(self.spec)))
        self.rounds.asks_by(lambda round: join_change(self.spec, SWARM, self.who, None, round))

    def meet(self, *others: Identity, head: Head = START, standing: Standing = Standing.TRAINER) -> "Member":
        for other in others:
            assert self.roster.greet(Present(other.peer_id, Presence(1, standing, ())), head)
        return self

    def hold(self, now: float, offered: Offered) -> list[Effect]:
        """It hears of a contribution, and finds it sound."""
        assert CheckPayload(offered) in done(self.rounds.heard(now, offered))
        return self.rounds.checked(now, offered, None)

    def told(self, now: float, peer: PeerId, log: Iterable[Decided]) -> list[Effect]:
        """The answer to its question for the log."""
        since, effects = self.rounds.ledger.newest, list[Effect]()
        for decided in log:
            effects += self.rounds.record_told(now, peer, decided)
        effects += self.rounds.log_told(now, peer, since)
        return [*effects, *self.rounds.log_asked(now, since)]

    def hear(self, now: float, *ballots: Ballot) -> list[Effect]:
        """Each from whoever signed it; how a round ended, from Ben."""
        effects: list[Effect] = []
        for ballot in ballots:
            effects += self.rounds.heard_ballots(now, speaker(ballot), (ballot,))
        return effects


def at_work(who: Identity, **spec: Any) -> Member:
    """Of Ann, Ben and Cat, with the two others, in round 1."""
    member = Member(who, make_spec(**spec)).meet(*(each for each in (ANN, BEN, CAT) if each is not who))
    member.rounds.look(0.0)
    return member


def speaker(ballot: Ballot) -> PeerId:
    match ballot:
        case Vote(voter=peer) | Proposal(proposer=peer):
            return PeerId(peer)
        case Decided() | Tally():
            return BEN.peer_id


# What members say.


def contribution(
    who: Identity, round: int = 1, base: Head = START, samples: int = 1, payload: bytes | BlobRef = b"x"
) -> Offered:
    made = Contribution(base.round, base.record, base.digest, samples, payload)
    return seal_contribution(who, SWARM, round, made)


def blob(who: Identity, size: int = 5_000) -> BlobRef:
    return BlobRef(who.public_key, size)


def record_of(
    *offers: Offered, after: Position = THREE, changes: tuple[Change, ...] = (), state: bytes = DIGEST
) -> AgreedRecord:
    """The next record after that position, which takes these; `state` is that before it."""
    record = next_record(after, state, tuple(map(share_of, offers)), changes)
    assert isinstance(record, AgreedRecord), record
    return record


def proposal(who: Identity, record: AgreedRecord, attempt: int = 0) -> Proposal:
    return propose(who, SWARM, record.round, attempt, record_value(record), None)


def votes(record: AgreedRecord | None, step: Step, *who: Identity, round: int = 1, attempt: int = 0) -> list[Vote]:
    """For this record, or for none in `round`."""
    choice = b"" if record is None else record_value(record).hash
    number = round if record is None else record.round
    return [cast(each, SWARM, number, attempt, step, choice) for each in who]


def ended(record: AgreedRecord, *signers: Identity) -> Decided:
    """The record with the certificate of these."""
    by = signers or (ANN, BEN, CAT)
    return Decided(record.round, 0, record_value(record).data, signatures_of(votes(record, Step.PRECOMMIT, *by)))


def closed(record: AgreedRecord, voters: Electorate = THREE.electorate) -> Closed:
    return Closed(ended(record), record, record_value(record).hash, voters)


def head_after(record: AgreedRecord, digest: bytes = b"\x01" * 32) -> Head:
    return Head(record.round, record_value(record).hash, digest)


def position_after(record: AgreedRecord, before: Position = THREE) -> Position:
    return closed_by(before, ended(record))[1]


class Others:
    """What Ben and Cat have agreed on without Ann: Ben's contribution in each round."""

    def __init__(self, rounds: int) -> None:
        self.position = THREE
        self.heads, self.log, self.offers = [START], list[Decided](), list[Offered]()
        for _ in range(rounds):
            base = self.heads[-1]
            self.offers.append(contribution(BEN, base.round + 1, base))
            record = record_of(self.offers[-1], after=self.position, state=base.digest)
            self.log.append(ended(record, BEN, CAT))
            self.position = position_after(record, self.position)
            self.heads.append(head_after(record, bytes([record.round]) * 32))

    @property
    def newest(self) -> Head:
        return self.heads[-1]


# What it does about it.


def done(result: list[Effect] | str) -> list[Effect]:
    """What was of use."""
    assert not isinstance(result, str), result
    return result


def of_kind(effects: Iterable[Effect], kind: type[Kind]) -> list[Kind]:
    return [effect for effect in effects if isinstance(effect, kind)]


def events(effects: Iterable[Effect]) -> list[object]:
    return [effect.event for effect in effects if isinstance(effect, Observe)]


def said(effects: Iterable[Effect], kind: type[Kind]) -> list[Kind]:
    """The ballots of a kind that are sent."""
    return [effect.ballot for effect in effects if isinstance(effect, Send) and isinstance(effect.ballot, kind)]


def prevoted(effects: Iterable[Effect]) -> list[bytes]:
    """What this member has prevoted."""
    return [vote.choice for vote in said(effects, Vote) if vote.step is Step.PREVOTE]
