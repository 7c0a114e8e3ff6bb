"""An honest member of a simulated swarm that agrees: carries out what the core decides, as a shell does.

It trains for a moment, tells what it holds, and says that a round may close when all are in or time is up.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from blake3 import blake3

from shoal.training.agreed import AgreedRecord, Share, leave_statement, next_record, record_value, unproved
from shoal.training.agreeing import Agreement, Ask, Effect, JudgeRecord, Keep, Split
from shoal.training.members import Change, Expel, Join, Leave, Resume, Suspend
from shoal.training.votes import Ballot, Decided, Journal, Proposal, Tally, Value, Vote, shortened
from shoal.training.voting_effects import Accuse, Began, Save, Send, Timeouts
from shoal.transport.port import PeerId
from shoal.transport.wire import Malformed

if TYPE_CHECKING:
    from .agreement_world import World

SWARM: Final = b"s" * 32
TIMEOUTS: Final = Timeouts(1.0, 0.5, 0.5)
ROUND_S: Final = 2.0  # from a round's start to its deadline
TRAIN_S: Final = (0.1, 1.0)
SUSPEND_S: Final = 6.0  # after so long without a word
TOLD_MAX: Final = 64  # records in one answer
HOLD_S: Final = 1.0  # between announcements of what is held


@dataclass(frozen=True, slots=True)
class Held:
    """The contributions that its sender holds."""

    round: int
    hashes: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class AskFrom:
    """For records from this round on."""

    round: int


@dataclass(frozen=True, slots=True)
class Told:
    log: tuple[Decided, ...]


@dataclass(frozen=True, slots=True)
class Word:
    """What a next record should change."""

    change: Change


@dataclass(frozen=True, slots=True)
class ForFace:
    """Between liars."""

    number: int
    sent: "Sent"


Sent = Ballot | Held | AskFrom | Told | Word | ForFace


class Key:
    """A member's, whose signatures are hashes: nobody else is given them to make."""

    def __init__(self, name: str) -> None:
        self.peer_id = PeerId(name)
        self._secret = blake3(name.encode()).digest()

    def sign(self, message: bytes) -> bytes:
        return blake3(self._secret + message).digest(64)


@dataclass
class Disk:
    """What outlives a process."""

    log: list[Decided] = field(default_factory=list[Decided])
    journal: Journal | None = None


class Violation(AssertionError):
    """What must never happen did."""


class Member:
    """An honest one: its process comes and goes, its disk stays."""

    def __init__(self, world: "World", key: Key) -> None:
        self.world = world
        self.key = key
        self.peer_id = key.peer_id
        self.disk = Disk()
        self.core: Agreement | None = None
        self.rate = world.draw.uniform(0.9, 1.1)  # of its clock
        self.is_leaving = False
        self.words: dict[PeerId, Change] = {}  # changes to be proposed, by whom they are about
        self._begin_count = 0

    @property
    def round(self) -> int:
        return len(self.disk.log) + 1

    @property
    def stays(self) -> bool:
        return self.core is not None and self.peer_id in self.core.position.electorate.by_member

    @property
    def now(self) -> float:
        return self.world.now * self.rate

    def start(self) -> None:
        if self.core is not None:
            return
        world = self.world
        if world.forgets:
            self.disk.journal = None
        self.core = world.make_agreement(
            SWARM, self.key, world.timeouts, world.origin, self.disk.log, self.disk.journal, world.verify
        )
        self.core.wait_for(lambda peer: peer == self.peer_id or world.is_connected(self.peer_id, peer))
        self._begin_count += 1
        self.heard_at = dict.fromkeys(world.keys, self.now)
        self.held: set[bytes] = set()
        self.unjudged: dict[bytes, tuple[AgreedRecord, bool]] = {}
        self.wakes_at = float("inf")
        world.at(world.now + HOLD_S * world.draw.random(), self._announce, self._begin_count)
        self._open_round()
        self.do(self.core.look(self.now))
        world.connect(self.peer_id)

    def meet(self, peer: PeerId) -> None:
        """It is connected again."""
        if self.core is not None:
            self.do(self.core.met(peer))

    def crash(self) -> None:
        if self.core is None:
            return
        self.world.tell(self.peer_id, "is killed")
        self.core = None
        self.world.at(self.world.now + self.world.draw.uniform(0.1, self.world.mood.down_s), self.start)

    def leave(self) -> None:
        self.is_leaving = True

    # The round.

    def _open_round(self) -> None:
        assert self.core is not None
        world, self.started_at = self.world, self.now
        self.held = set()
        self.unjudged = {}
        if self.peer_id in self.core.position.electorate.by_member:
            world.at(world.now + world.draw.uniform(*TRAIN_S), self._contribute, self.core.round, self._begin_count)
        world.at(world.now + ROUND_S / self.rate, self._look, self._begin_count)

    def _contribute(self, round: int, begin_count: int) -> None:
        if self.core is not None and self._begin_count == begin_count and self.core.round == round:
            self.held.add(contribution(self.peer_id, round))
            self._spread_held()
            self._weigh()

    def _spread_held(self) -> None:
        assert self.core is not None
        self._tell_all(Held(self.core.round, frozenset(self.held)))

    def _announce(self, begin_count: int) -> None:
        """Every now and then: what is held, and what was heard that others must know."""
        if self.core is None or self._begin_count != begin_count:
            return
        self._spread_held()
        for change in self.words.values():
            self._tell_all(Word(change))
        self._look(begin_count)
        self.world.at(self.world.now + HOLD_S, self._announce, begin_count)

    def _weigh(self) -> None:
        """Whether the round may close, and as what; and what waits for a judgement."""
        core = self.core
        if core is None:
            return
        for hash, (record, is_backed) in list(self.unjudged.items()):
            if self._is_sound(record, is_backed):
                del self.unjudged[hash]
                self.do(core.judged(self.now, hash, True))
                if self.core is not core:
                    return
        waited = {seat.member for seat in core.position.electorate.seats if not seat.is_suspended}
        is_in = all(contribution(PeerId(member), core.round) in self.held for member in waited)
        if is_in or self.now >= self.started_at + ROUND_S:
            self.do(core.ready(self.now, *self._candidates()))

    def _candidates(self) -> tuple[Value | None, Value | None]:
        """What it would propose, at first and later on."""
        assert self.core is not None
        position, round = self.core.position, self.core.round
        authors = {contribution(peer, round): peer for peer in position.electorate.by_member}
        # Proposers differ in what they know of; here more than they would, so that a second record is another one.
        chosen = [each for each in sorted(self.held) if each in authors and self.world.draw.random() < 0.7]
        taken = [share_of(authors[each], round) for each in chosen]
        changes = self._changes()
        exact = tuple(change for change in changes if not isinstance(change, Suspend))
        records = (next_record(position, b"", taken, each) for each in (changes, exact))
        first, later = (None if isinstance(record, Malformed) else record_value(record) for record in records)
        return first, later

    def _changes(self) -> tuple[Change, ...]:
        assert self.core is not None
        electorate, changes = self.core.position.electorate, list[Change]()
        if self.is_leaving and self.peer_id in electorate.by_member:
            since = electorate.by_member[self.peer_id].since
            word = self.key.sign(leave_statement(SWARM, self.peer_id, since))
            self.words[self.peer_id] = Leave(self.peer_id, word)
        for peer, change in sorted(self.words.items()):
            if isinstance(change, Join) != (peer in electorate.by_member):
                changes.append(change)
        gone = {change.member for change in changes}
        for seat in electorate.seats:
            if seat.member in gone or seat.member == self.peer_id:
                continue
            is_silent = self._is_silent(PeerId(seat.member))
            if is_silent and not seat.is_suspended:
                changes.append(Suspend(seat.member))
            elif seat.is_suspended and not is_silent:
                changes.append(Resume(seat.member))
        sound: list[Change] = []
        for change in changes:
            if not isinstance(electorate.after(self.core.round, [*sound, change]), Malformed):
                sound.append(change)
        return tuple(sound)

    def _is_silent(self, peer: PeerId) -> bool:
        return self.now - self.heard_at.get(peer, 0.0) > SUSPEND_S

    def _is_sound(self, record: AgreedRecord, is_backed: bool) -> bool:
        """All that it takes is here, and its changes are proved; who is said to be silent was not heard here either."""
        assert self.core is not None
        electorate = self.core.position.electorate
        known = {contribution(peer, record.round) for peer in electorate.by_member}
        if any(share.contribution not in self.held & known for share in record.taken):
            return False
        if unproved(record.changes, SWARM, electorate, self.world.admits, self.world.verify) is not None:
            return False
        silent = [change.member for change in record.changes if isinstance(change, Suspend)]
        return is_backed or (all(self._is_silent(PeerId(member)) for member in silent) and self.peer_id not in silent)

    # Messages.

    def hear(self, sender: PeerId, sent: Sent) -> None:
        core = self.core
        if core is None:
            return
        self.heard_at[sender] = self.now
        match sent:
            case Held(round, held):
                if round == core.round:
                    self._hear_held(sender, held)
                elif round < core.round:
                    self._answer(sender, round)
            case AskFrom(round):
                self._answer(sender, round)
            case Told(log):
                for decided in log:
                    if self.core is core:
                        self.do(core.heard(self.now, sender, decided))
            case Word(change):
                world, electorate = self.world, core.position.electorate
                if unproved((change,), SWARM, electorate, world.admits, world.verify) is None:
                    self.words[PeerId(change.member)] = change
            case Vote() | Proposal() | Decided() | Tally():
                self.do(core.heard(self.now, sender, sent))
            case ForFace():
                pass

    def _hear_held(self, sender: PeerId, held: frozenset[bytes]) -> None:
        """What another holds can be had from it; what it says to hold and nobody made, cannot."""
        assert self.core is not None
        made = {contribution(peer, self.core.round) for peer in self.core.position.electorate.by_member}
        missing = (held & made) - self.held
        if missing and self.world.endpoints[sender].gives(self.peer_id):
            self.held |= missing
            self._weigh()

    def gives(self, peer: PeerId) -> bool:
        return self.core is not None

    def _answer(self, peer: PeerId, round: int) -> None:
        """With what is on disk."""
        log = self.disk.log[round - 1 : round - 1 + TOLD_MAX]
        if log:
            self.world.send(self.peer_id, peer, Told(tuple(log)))

    def _tell_all(self, sent: Sent) -> None:
        for peer in sorted(self.world.endpoints):
            if peer != self.peer_id:
                self.world.send(self.peer_id, peer, sent)

    # Effects.

    def do(self, effects: Sequence[Effect]) -> None:
        core, world = self.core, self.world
        for effect in effects:
            if self.core is not core or core is None:
                return
            if not world.is_settled and world.draw.random() < world.mood.crash:
                self.crash()
                return
            self._carry_out(effect)
        if self.core is core:
            self._wake()

    def _carry_out(self, effect: Effect) -> None:
        assert self.core is not None
        world = self.world
        match effect:
            case Save(journal):
                self.disk.journal = journal
            case Keep(decided, record, position):
                self.disk.log.append(decided)
                text = f"round {record.round} is {position.record.hex()[:8]}, attempt {decided.attempt}"
                world.tell(self.peer_id, text)
                world.agreed(self.peer_id, effect)
                self._open_round()
                self._tell_all(decided)
            case Send(ballot, peer):
                if peer is None:
                    self._tell_all(ballot)
                else:
                    world.send(self.peer_id, peer, ballot)
            case Ask(peer):
                world.send(self.peer_id, peer, AskFrom(self.core.round))
            case JudgeRecord(value, record, is_backed):
                self.unjudged[value.hash] = record, is_backed
                world.at(world.now, self._look, self._begin_count)
            case Began(attempt, proposer, reason):
                round = self.core.round
                world.attempts[round] = max(world.attempts.get(round, 0), attempt)
                world.tell(self.peer_id, f"round {round} attempt {attempt} of {proposer}: {reason}")
                world.at(world.now, self._look, self._begin_count)
            case Accuse(first, second):
                member = PeerId(first.voter if isinstance(first, Vote) else first.proposer)
                self.words[member] = Expel(member, shortened(first), shortened(second))
            case Split():
                raise Violation(f"{self.peer_id} has two certified records for round {effect.first.round}")

    def _look(self, begin_count: int) -> None:
        if self.core is not None and self._begin_count == begin_count:
            self._weigh()

    def _wake(self) -> None:
        assert self.core is not None
        at = self.core.deadline / self.rate
        if at < float("inf"):
            self.wakes_at = at
            self.world.at(max(at, self.world.now), self._woken, self._begin_count, at)

    def _woken(self, begin_count: int, at: float) -> None:
        if self.core is not None and self._begin_count == begin_count and self.wakes_at == at:
            self.do(self.core.look(self.now + 1e-9))


def contribution(peer: PeerId, round: int) -> bytes:
    return blake3(f"{peer} {round}".encode()).digest()


def share_of(peer: PeerId, round: int) -> Share:
    return Share(peer, round, round - 1, contribution(peer, round), 1)
