"""Members' round cores driven against one another: what they send lies in a bag; any of it comes next, or twice, or
never; any of them may be killed and start again from what it has on disk.
"""

import random
from dataclasses import dataclass, field
from typing import Any, Final

from blake3 import blake3

from shoal.training.admission import join_change
from shoal.training.agreeing import Keep
from shoal.training.effects import (
    AnnounceHeld,
    ApplyRecord,
    AskLog,
    CheckPayload,
    Collect,
    Effect,
    FetchPayload,
    Observe,
    Resync,
    SpreadWords,
    Train,
)
from shoal.training.events import Problem
from shoal.training.records import Head, Offered
from shoal.training.rounds import Rounds
from shoal.training.spec import Spec
from shoal.training.votes import Decided, Journal
from shoal.training.voting_effects import Save, Send
from shoal.transport.port import PeerId
from tests.training.round_member import ALONE, PEOPLE, START, Member, blob, contribution, make_spec

STEPS_MAX: Final = 6_000
SETTLED_AFTER: Final = 600  # steps: where somebody is killed or late for ever, that nothing is agreed proves nothing
MESSAGES: Final = ("heard", "have", "ballots", "words")  # these may be lost or doubled


@dataclass
class Disk:
    """What outlives a member's process."""

    head: Head = START
    log: list[Decided] = field(default_factory=list[Decided])
    journal: Journal | None = None
    own: list[Offered] = field(default_factory=list[Offered])


@dataclass(frozen=True)
class Weather:
    """How likely it is that a message is lost, or that before one a member is killed, or time passes."""

    loss: float = 0.0
    kill: float = 0.0
    haste: float = 0.0  # patience ends while messages are on their way


CALM: Final = Weather()


class Company:
    """So many of the people; the first of them has founded the swarm, the others ask to be let in."""

    def __init__(self, count: int, seed: int, weather: Weather = CALM, *, late: int = 0, **spec: Any) -> None:
        """`late` of them are not there before `start` is called for them."""
        self.draw = random.Random(seed)
        self.weather = weather
        self.spec: Spec = make_spec(**({"members_start": count - late} | spec))
        self.now = 0.0
        self.people = {who.peer_id: who for who in PEOPLE[:count]}
        self.disks = {peer: Disk() for peer in self.people}
        self.members: dict[PeerId, Member] = {}
        self.bag: list[tuple[PeerId, Rounds | None, str, Any]] = []  # to whom; of which life, if it is its own business
        self.heads: dict[int, set[Head]] = {}  # that anybody ever came to, by round
        self.problems: list[str] = []
        for peer in list(self.people)[: count - late]:
            self.start(peer)

    def start(self, peer: PeerId) -> None:
        """For the first time, or again."""
        disk = self.disks[peer]
        member = Member(self.people[peer], self.spec, origin=ALONE, head=disk.head, log=disk.log, journal=disk.journal)
        self.members[peer] = member
        others = [other for other in self.people if other != peer]
        member.rounds.hear_out(self.now, others)
        for offered in disk.own:
            self._do(peer, member.rounds.contributed(self.now, offered))
        for other in others:
            if other in self.members:
                self._put(peer, "hello", other)
                self._put(other, "hello", peer)
        self._do(peer, member.rounds.look(self.now))

    def run(self, rounds: int) -> None:
        """Until all have the state after so many."""
        for step in range(STEPS_MAX):
            if all(member.rounds.head.round >= rounds for member in self.members.values()):
                return
            if not self.bag:
                self._wait()
                continue
            peer, life, kind, thing = self.bag.pop(self.draw.randrange(len(self.bag)))
            if kind in MESSAGES and self.draw.random() < self.weather.loss:
                continue
            if step < SETTLED_AFTER:
                self._befall()
            if peer in self.members and life in (None, self.members[peer].rounds):
                self._deliver(peer, kind, thing)
            if kind in MESSAGES and self.draw.random() < 0.1:
                self.bag.append((peer, life, kind, thing))
        raise AssertionError({peer: member.rounds.head.round for peer, member in self.members.items()})

    def _befall(self) -> None:
        """What may happen before a message arrives."""
        if self.draw.random() < self.weather.kill:
            self.start(self.draw.choice(sorted(self.members)))
        if self.draw.random() < self.weather.haste:
            self.now += self.draw.choice((0.5, 2.0, 6.0))
            for peer in self.draw.sample(sorted(self.members), self.draw.randint(1, len(self.members))):
                self._do(peer, self.members[peer].rounds.look(self.now))

    def _wait(self) -> None:
        """Nothing moves: time passes, and what a hello now and then brings."""
        deadlines = [member.rounds.deadline(self.now) for member in self.members.values()]
        self.now = max(self.now + 0.01, min(self.now + 10.0, *deadlines))
        for peer, member in self.members.items():
            self._do(peer, member.rounds.look(self.now))
            for other in sorted(self.members.keys() - {peer}):
                self._put(other, "hello", peer)
                for offered in member.rounds.pool.of(peer):
                    self._put(other, "heard", offered)

    def _put(self, peer: PeerId, kind: str, thing: object) -> None:
        self.bag.append((peer, None, kind, thing))

    def _tell_others(self, peer: PeerId, kind: str, thing: object) -> None:
        for other in self.people:
            if other != peer:
                self._put(other, kind, thing)

    # What members want done.

    def _do(self, peer: PeerId, effects: list[Effect] | str) -> None:
        rounds, disk = self.members[peer].rounds, self.disks[peer]
        for effect in [] if isinstance(effects, str) else effects:
            match effect:
                case Save(journal):
                    disk.journal = journal
                case Keep(decided):
                    disk.log.append(decided)
                case Send(ballot, None):
                    self._tell_others(peer, "ballots", (peer, ballot))
                case Send(ballot, str() as other):
                    self._put(other, "ballots", (peer, ballot))
                case SpreadWords(changes):
                    self._tell_others(peer, "words", changes)
                case AnnounceHeld():
                    self._tell_others(peer, "have", (peer, rounds.head, rounds.held(), rounds.is_idle))
                case Observe(Problem(message)):
                    self.problems.append(message)
                case Train() | FetchPayload() | CheckPayload() | Collect() | ApplyRecord() | AskLog() | Resync():
                    self.bag.append((peer, rounds, "done", effect))
                case _:
                    pass

    # What comes of it.

    def _deliver(self, peer: PeerId, kind: str, thing: Any) -> None:
        member = self.members[peer]
        rounds = member.rounds
        match kind:
            case "hello":
                other = self.members[thing]
                member.meet(other.who, head=other.rounds.head)
                self._do(peer, rounds.heard_own_votes(other.rounds.newest_votes(peer)))
                self._do(peer, rounds.met(self.now, thing))
                self._ask_again(peer, thing)
            case "heard":
                self._do(peer, rounds.heard(self.now, thing))
            case "have":
                teller, head, held, is_idle = thing
                self._do(peer, rounds.heard_have(self.now, teller, head, held, 0, is_idle=is_idle))
            case "ballots":
                self._do(peer, rounds.heard_ballots(self.now, thing[0], (thing[1],)))
            case "words":
                self._do(peer, rounds.heard_words(self.now, thing))
            case _:
                self._end(peer, thing)
        if rounds.head.round:
            self.heads.setdefault(rounds.head.round, set()).add(rounds.head)

    def _ask_again(self, peer: PeerId, other: PeerId) -> None:
        """What a member wants is told to those it meets later, too."""
        asks = self.members[other].rounds
        if other not in asks.electorate.by_member:
            change = join_change(self.spec, ALONE.record, self.people[other], None, asks.ledger.newest)
            if not isinstance(change, str):
                self._put(peer, "words", (change,))

    def _end(self, peer: PeerId, effect: Effect) -> None:
        rounds = self.members[peer].rounds
        match effect:
            case Train():
                self._do(peer, self._train(peer, effect))
            case FetchPayload(offered):
                self._do(peer, rounds.fetched(self.now, offered))
            case CheckPayload(offered):
                self._do(peer, rounds.checked(self.now, offered, None))
            case Collect(record, missing, _):
                known = [found for disk in self.disks.values() for found in disk.own if found.hash in missing]
                self._do(peer, rounds.collected(self.now, record, missing, known))
            case ApplyRecord(closed, offers):
                if rounds.head.record == closed.record.previous:
                    digest = after(rounds.head.digest, offers)
                    self.disks[peer].head = Head(closed.record.round, closed.hash, digest)
                    self._do(peer, rounds.applied(self.now, closed, digest))
            case AskLog(round, holders):
                since = rounds.ledger.newest
                for decided in self.disks[self.draw.choice(holders)].log[round - 1 : round + 5]:
                    self._do(peer, rounds.record_told(self.now, holders[0], decided))
                self._do(peer, rounds.log_told(self.now, holders[0], since))
                self._do(peer, rounds.log_asked(self.now, since))
            case Resync(_, holders):
                self._do(peer, self._resync(peer, self.draw.choice(holders)))
            case _:
                raise AssertionError(effect)

    def _train(self, peer: PeerId, turn: Train) -> list[Effect] | str:
        rounds, who = self.members[peer].rounds, self.people[peer]
        if not rounds.is_in_time(turn) or self.draw.random() < 0.1:
            return rounds.gave_up(self.now)
        payload = blob(who) if self.draw.random() < 0.3 else bytes([turn.round % 256])
        own = contribution(who, turn.round, turn.base, payload=payload)
        self.disks[peer].own.append(own)
        self._tell_others(peer, "heard", own)
        return rounds.contributed(self.now, own)

    def _resync(self, peer: PeerId, holder: PeerId) -> list[Effect]:
        rounds, head = self.members[peer].rounds, self.disks[holder].head
        if not rounds.is_better(head):
            return rounds.resync_failed(self.now, (holder,))
        self.disks[peer].head = head
        return rounds.adopted(self.now, head)


def after(digest: bytes, offers: tuple[Offered, ...]) -> bytes:
    """The state that a record makes; the same one, if it takes nothing."""
    return blake3(digest + b"".join(offered.hash for offered in offers)).digest() if offers else digest
