"""One member's round core among voters whose keys the test holds: what they say it makes of their words and ballots."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from shoal.training.admission import admits, join_change
from shoal.training.agreed import (
    Admits,
    AgreedRecord,
    Position,
    Share,
    leave_statement,
    next_record,
    read_record,
    record_value,
)
from shoal.training.agreeing import Agreement
from shoal.training.effects import CheckPayload, Effect
from shoal.training.ledger import Closed, Ledger
from shoal.training.members import Change, Expel, Join, Leave, electorate_of
from shoal.training.patience import timeouts
from shoal.training.records import Contribution, Head, Offered, Presence, Present, Standing, seal_contribution
from shoal.training.roster import Roster
from shoal.training.rounds import Place, Rounds
from shoal.training.situation import Situation
from shoal.training.spec import Spec, spec_from, swarm_id
from shoal.training.verified import Verified
from shoal.training.votes import Decided, Proposal, Step, Value, Vote, cast, propose, shortened, signatures_of
from shoal.training.voting_effects import Send
from shoal.transport.blobs import BlobRef
from shoal.transport.identity import Identity
from shoal.transport.port import PeerId

PEOPLE = sorted((Identity.from_seed(bytes([n]) * 32) for n in range(1, 9)), key=lambda identity: identity.peer_id)
DIGEST = bytes(32)


def make_spec(**values: Any) -> Spec:
    known = {"round_s": 20, "grace_s": 5, "silence_s": 2, "samples_max": 100, "admission": "open"}
    spec = spec_from(known | values, PEOPLE[0].peer_id, bytes(16))
    assert isinstance(spec, Spec), spec
    return spec


@dataclass
class Seated:
    """The core of `PEOPLE[me]`, where the first `voters` of the people have a vote each and are connected."""

    voters: int = 4
    me: int = 0
    spec: Spec = field(default_factory=make_spec)
    roster: Roster = field(init=False)
    rounds: Rounds = field(init=False)

    def __post_init__(self) -> None:
        self.swarm = swarm_id(self.spec)
        seats = {each.peer_id: 1 for each in PEOPLE[: self.voters]}
        position = Position(0, self.swarm, electorate_of(self.spec.quorum, seats))
        key = PEOPLE[self.me]
        self.roster = Roster(key.peer_id, self.spec.members_max)
        verified = Verified()
        agreement = Agreement(self.swarm, key, timeouts(self.spec, 0, ()), position, verify=verified)
        place = Place(Head(0, self.swarm, DIGEST), (), agreement, Ledger(position))

        def admitted(position: Position) -> Admits:
            return partial(admits, self.spec, self.swarm, position, verify=verified)

        self.rounds = Rounds(Situation(self.spec, self.roster, place, Standing.TRAINER, admitted))
        for other in PEOPLE[: self.voters]:
            if other is not key:
                self.meet(other)
        self.rounds.look(0.0)

    @property
    def position(self) -> Position:
        return self.rounds.position

    @property
    def voting(self) -> Any:
        """What agreement has in memory."""
        return self.rounds._situation.agreement.voting  # pyright: ignore[reportPrivateUsage]

    def meet(self, other: Identity) -> None:
        assert self.greets(other)

    def greets(self, other: Identity) -> bool:
        """Whether there is room for it."""
        return self.roster.greet(Present(other.peer_id, Presence(1, Standing.TRAINER, ())), self.rounds.head)

    def turn(self, attempt: int = 0) -> Identity:
        """Whose it is to propose in this attempt."""
        peer = self.position.electorate.proposer(self.rounds.round, attempt)
        return next(each for each in PEOPLE if each.peer_id == peer)

    def attempt_of(self, who: Identity, since: int = 0) -> int:
        """The first in which it is the turn of `who`."""
        return next(attempt for attempt in range(since, since + 100) if self.turn(attempt) is who)

    def contribution(
        self, who: Identity, round: int = 1, base: Head | None = None, payload: bytes | BlobRef = b"x", samples: int = 1
    ) -> Offered:
        base = base or self.rounds.head
        body = Contribution(base.round, base.record, base.digest, samples, payload)
        return seal_contribution(who, self.swarm, round, body)

    def hold(self, now: float, offered: Offered) -> list[Effect]:
        """Hear and check."""
        heard = self.rounds.heard(now, offered)
        assert not isinstance(heard, str), heard
        return [*heard, *self.rounds.checked(now, offered, None)] if CheckPayload(offered) in heard else heard

    def contribute(self, now: float, offered: Offered) -> list[Effect]:
        done = self.rounds.contributed(now, offered)
        assert not isinstance(done, str), done
        return done

    def record(self, shares: Iterable[Share], *changes: Change, base_digest: bytes = DIGEST) -> AgreedRecord:
        record = next_record(self.position, base_digest, shares, changes)
        assert isinstance(record, AgreedRecord), record
        return record

    def proposal(self, record: AgreedRecord, attempt: int = 0) -> Proposal:
        value = record_value(record)
        return propose(self.turn(attempt), self.swarm, self.rounds.round, attempt, value, None)

    def vote(self, who: Identity, step: Step, choice: bytes, attempt: int = 0, round: int = 1) -> Vote:
        return cast(who, self.swarm, round, attempt, step, choice)

    def decide(self, now: float, record: AgreedRecord) -> list[Effect]:
        """All the others have agreed on it."""
        value = record_value(record)
        voters = [each for each in PEOPLE if self.position.electorate.votes(each.peer_id)]
        votes = [self.vote(each, Step.PRECOMMIT, value.hash, 0, record.round) for each in voters]
        decided = Decided(record.round, 0, value.data, signatures_of(votes))
        return self.rounds.heard_ballots(now, voters[-1].peer_id, (decided,))

    def closed(self, round: int) -> Closed:
        closed = self.rounds.ledger.closed(round)
        assert closed is not None
        return closed

    def share(self, offered: Offered) -> Share:
        """As a record names it."""
        contribution = offered.contribution
        return Share(offered.member, offered.round, contribution.base_round, offered.hash, contribution.samples)

    def expel(self, who: Identity) -> Expel:
        """With proof."""
        first, second = (self.vote(who, Step.PREVOTE, choice) for choice in (b"", bytes(32)))
        return Expel(who.peer_id, shortened(first), shortened(second))

    def join(self, who: Identity, round: int = 0) -> Join:
        change = join_change(self.spec, self.swarm, who, None, round)
        assert isinstance(change, Join), change
        return change

    def leave(self, who: Identity) -> Leave:
        since = self.position.electorate.by_member[who.peer_id].since
        return Leave(who.peer_id, who.sign(leave_statement(self.swarm, who.peer_id, since)))


def of_read(value: Value) -> AgreedRecord:
    record = read_record(value)
    assert isinstance(record, AgreedRecord), record
    return record


def said(effects: Iterable[Effect], kind: type) -> list[Any]:
    """The ballots of one kind that were sent."""
    return [each.ballot for each in effects if isinstance(each, Send) and isinstance(each.ballot, kind)]


def of_kind(effects: Iterable[Effect], kind: type) -> list[Any]:
    return [effect for effect in effects if isinstance(effect, kind)]


def stranger(number: int) -> Identity:
    return Identity.from_seed(number.to_bytes(32, "big"))


def peers(*people: Identity) -> set[PeerId]:
    return {each.peer_id for each in people}
