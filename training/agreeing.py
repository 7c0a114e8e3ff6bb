"""The log as one member keeps it: which record comes next, round after round, and what is done with what peers send.

Around `Voting`, which agrees on one: it begins the next round's, tells those behind what was decided, asks those ahead,
and judges what can be judged from the log alone. No I/O.

The law: every member's log is a beginning of one and the same log, while any two quorums share an honest member. If a
second certified record for a round comes up all the same, that is proof against all who signed both certificates:
`Split` says so, and the member goes no further; which log is longer is no argument.

What a malicious peer may send: any messages, of any round. What it achieves: an answer for each old one, within what
its owner lets one peer ask; nothing else: what is not signed by a voter of the round is dropped before it is looked at.
Two votes of its own in one step, each told to others, are proof against it as soon as one of these shows the other a
certificate or a lock.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from shoal.transport.envelope import Signer, Verify
from shoal.transport.identity import verify
from shoal.transport.port import PeerId
from shoal.transport.wire import Malformed

from .agreed import AgreedRecord, Position, follow
from .ballot_box import BallotBox
from .members import Electorate
from .votes import (
    Ballot,
    Decided,
    Journal,
    Proposal,
    Tally,
    Value,
    Vote,
    fault,
    shown_by,
    value_of,
    vote_statement,
    without_polka,
)
from .voting import Voting
from .voting_effects import Accuse, Began, Judge, Save, Send, Timeouts
from .voting_effects import Effect as VotingEffect

DECIDED_KEPT: Final = 64  # rounds of which a straggler is told, or a second record is noticed; memory: their records


@dataclass(frozen=True, slots=True)
class Keep:
    """A record is decided: have it on disk before any effect that follows it is carried out."""

    decided: Decided
    record: AgreedRecord
    position: Position  # after it
    voters: Electorate  # who decided: as they stood before it


@dataclass(frozen=True, slots=True)
class JudgeRecord:
    """Find out whether all that this record takes is here and sound, and its changes proved; tell `judged`."""

    value: Value
    record: AgreedRecord
    is_backed: bool  # as in `Judge`: else also whether those it suspends are silent here, too


@dataclass(frozen=True, slots=True)
class Ask:
    """Have one peer tell which records it has from the open round on."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class Split:
    """Two certified records for one round: have it on disk."""

    first: Decided
    second: Decided

    @property
    def culprits(self) -> tuple[PeerId, ...]:
        """Who signed both, sorted."""
        first, second = ({PeerId(each.member) for each in side.precommits} for side in (self.first, self.second))
        return tuple(sorted(first & second))


Effect = Save | Send | Began | Accuse | Keep | JudgeRecord | Ask | Split


class Agreement:
    """See the module's text. Events return what is to be done, in this order."""

    def __init__(
        self,
        swarm: bytes,
        signer: Signer,
        timeouts: Timeouts,
        position: Position,
        log: Iterable[Decided] = (),
        journal: Journal | None = None,
        verify: Verify = verify,
    ) -> None:
        """Args:
            position: from where on `log` goes: all that was to be kept (`Keep`), in order.
            journal: what was to be saved last (`Save`).

        Raises ValueError if `log` does not follow `position`: the disk's fault.
        """
        self.swarm = swarm
        self._signer = signer
        self._timeouts = timeouts
        self.verify = verify
        self._kept: OrderedDict[int, tuple[Decided, Position]] = OrderedDict()  # and where the log stood before
        self.position = position
        self.split: Split | None = None
        self._hears: Callable[[PeerId], bool] = lambda _: True
        self._asks_at = -math.inf  # not before
        self._abstains_through = -1
        self._late: set[PeerId] = set()  # whose votes for the newest record came after it
        self._ended = BallotBox()  # the votes of the round before
        for decided in log:
            if isinstance(self._advance(decided), Malformed):
                raise ValueError(f"round {decided.round} of the log does not follow the one before")
        self.voting = self._open(journal)

    @property
    def round(self) -> int:
        """The one that is voted on."""
        return self.position.round + 1

    @property
    def deadline(self) -> float:
        return math.inf if self.split is not None else self.voting.deadline

    @property
    def proposer(self) -> PeerId:
        """Whose turn it is."""
        return self.position.electorate.proposer(self.round, self.voting.attempt)

    @property
    def is_abstaining(self) -> bool:
        """Whether this member says nothing in this round: it may have said what it does not remember."""
        return self.round <= self._abstains_through

    @property
    def is_first_turn(self) -> bool:
        """Whether this member proposes in the round's first attempt, and that goes on."""
        return self.voting.attempt == 0 and self.proposer == self._signer.peer_id

    def be_patient(self, timeouts: Timeouts) -> None:
        """From the next attempt on."""
        self._timeouts = timeouts
        self.voting.be_patient(timeouts)

    def wait_for(self, hears: Callable[[PeerId], bool]) -> None:
        """Wait for the proposals only of those whom this member hears."""
        self._hears = self.voting.hears = hears

    def newest_of(self, member: PeerId) -> tuple[Vote, ...]:
        """What `member` has voted last, as far as this member knows."""
        return self.voting.votes.newest_of(member)

    def leap(self, position: Position) -> None:
        """The log goes on from there, as was proved (skipping.py)."""
        self.position = position
        self._kept.clear()
        self._ended = BallotBox()
        self.voting = self._open(None)

    def abstain_through(self, round: int) -> None:
        """Say nothing up to this round, in which this member may have said what it does not remember."""
        self._abstains_through = round
        if self.round <= round:
            self.voting.abstain()

    def recall(self, votes: Iterable[Vote]) -> bool:
        """What a peer remembers of this member's votes. Whether this member does not: then it abstains in that round.

        Its data were restored from a copy, or a copy of it is running. To vote in a later attempt would need the lock
        that an earlier one may have brought; whoever is not needed for a quorum does better to wait.
        """
        found = False
        for vote in votes:
            if vote.voter != self._signer.peer_id or vote.round <= max(self.position.round, self._abstains_through):
                continue
            if vote.round == self.round and self.voting.remembers(vote):
                continue
            statement = vote_statement(self.swarm, vote.round, vote.attempt, vote.step, vote.choice)
            if self.verify(self._signer.peer_id, statement, vote.signature):
                self._abstains_through, found = vote.round, True
        if self.round <= self._abstains_through:
            self.voting.abstain()
        return found

    def is_sound(self, ballot: Ballot) -> bool:
        """Whether it is of the round that is voted on, and signed by those who may vote: worth passing on."""
        electorate = self.position.electorate
        if ballot.round != self.round or fault(ballot, self.swarm, electorate.by_member, self.verify) is not None:
            return False
        return not isinstance(ballot, Decided) or electorate.have_signed(ballot.precommits)

    def met(self, peer: PeerId) -> list[Effect]:
        """It is connected and was not: if it votes, it may have missed what was said, and repetitions may be rare."""
        is_of_use = self.split is None and self.position.electorate.votes(peer) > 0
        return [Send(ballot, peer) for ballot in self.voting.said()] if is_of_use else []

    def ready(self, now: float, candidate: Value | None, undisputed: Value | None = None) -> list[Effect]:
        """As `Voting.ready`."""
        if self.split is not None:
            return []
        return self._after(self.voting.ready(now, candidate, undisputed))

    def judged(self, now: float, hash: bytes, is_sound: bool) -> list[Effect]:
        """The end of a JudgeRecord."""
        return [] if self.split is not None else self._after(self.voting.judged(now, hash, is_sound))

    def look(self, now: float) -> list[Effect]:
        return [] if self.split is not None else self._after(self.voting.look(now))

    def heard(self, now: float, peer: PeerId, ballot: Ballot) -> list[Effect]:
        """`peer` sent this; whose it is, it says itself."""
        if self.split is not None:
            return []
        if ballot.round > self.round:
            return self._ask(now, peer)
        if ballot.round < self.round:
            return self._heard_old(peer, ballot)
        voters = self.position.electorate.by_member
        if fault(ballot, self.swarm, voters, self.verify) is not None:
            return []
        return self._after(self.voting.heard(now, ballot))

    def _ask(self, now: float, peer: PeerId) -> list[Effect]:
        """Every now and then: what comes in answer may show, record by record, that there is more to ask for."""
        if now < self._asks_at:
            return []
        self._asks_at = now + self._timeouts.repeat_s
        return [Ask(peer)]

    def _heard_old(self, peer: PeerId, ballot: Ballot) -> list[Effect]:
        decided, before = self._kept.get(ballot.round, (None, None))
        if decided is None or before is None:
            return []
        accusations = self._accusations(ballot, before.electorate)
        if isinstance(ballot, Tally):
            return accusations  # who passes on others' votes says its own as well
        if not isinstance(ballot, Decided):
            return accusations if self._is_just_late(peer, ballot, decided) else [*accusations, Send(decided, peer)]
        if ballot.value == decided.value:
            return accusations
        if fault(ballot, self.swarm, before.electorate.by_member, self.verify) is not None:
            return []
        if not before.electorate.have_signed(ballot.precommits):
            return []
        self.split = Split(decided, ballot)
        return [*accusations, self.split]

    def _accusations(self, ballot: Ballot, voters: Electorate) -> list[Effect]:
        """Whoever, as this shows, has voted for two things at once in the round before."""
        if ballot.round != self.round - 1 or fault(ballot, self.swarm, voters.by_member, self.verify) is not None:
            return []
        shown = [*shown_by(ballot), *([without_polka(ballot)] if isinstance(ballot, Vote) else [])]
        votes = (vote for vote in shown if voters.votes(PeerId(vote.voter)))
        return [Accuse(before, vote) for vote in votes if (before := self._ended.put(vote)) is not None]

    def _is_just_late(self, peer: PeerId, ballot: Vote | Proposal, decided: Decided) -> bool:
        """Whether it came after a quorum had, and for the first time: who says it again has not seen how it ended."""
        if ballot.round != self.round - 1 or peer in self._late or not isinstance(ballot, Vote):
            return False
        self._late.add(peer)
        return ballot.attempt == decided.attempt and ballot.choice == value_of(decided.value).hash

    def _open(self, journal: Journal | None) -> Voting:
        electorate = self.position.electorate
        voting = Voting(self.swarm, self.round, electorate, self._signer, self._timeouts, self._can_follow, journal)
        voting.hears = self._hears
        if self.round <= self._abstains_through:
            voting.abstain()
        return voting

    def _can_follow(self, value: Value) -> bool:
        return not isinstance(follow(self.position, value), Malformed)

    def _after(self, effects: Iterable[VotingEffect]) -> list[Effect]:
        done: list[Effect] = []
        for effect in effects:
            match effect:
                case Judge(value, is_backed):
                    found = follow(self.position, value)
                    done += [] if isinstance(found, Malformed) else [JudgeRecord(value, found[0], is_backed)]
                case Decided():
                    done += self._decide(effect)
                case Save() | Send() | Began() | Accuse():
                    done.append(effect)
        return done

    def _decide(self, decided: Decided) -> list[Effect]:
        voters = self.position.electorate
        record = self._advance(decided)
        if isinstance(record, Malformed):
            raise TypeError(f"voting decided what cannot follow: {record.reason}")
        self._ended = self.voting.votes
        self.voting = self._open(None)
        return [Keep(decided, record, self.position, voters)]

    def _advance(self, decided: Decided) -> AgreedRecord | Malformed:
        found = follow(self.position, value_of(decided.value))
        if isinstance(found, Malformed):
            return found
        self._kept[self.round] = decided, self.position
        if len(self._kept) > DECIDED_KEPT:
            self._kept.popitem(last=False)
        record, self.position = found
        self._asks_at = -math.inf
        self._late.clear()
        return record
