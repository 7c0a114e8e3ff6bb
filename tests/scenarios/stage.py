"""A stage for stories of agreement: the cores that real members have, real signatures, a clock that jumps, a network
that does what the story says, and a transcript of who said what.

The story says who is killed, cut off or lies, and when a round may close. All else follows from the cores.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any, Final

from blake3 import blake3

from shoal.training.agreed import (
    AgreedRecord,
    Position,
    Share,
    leave_statement,
    next_record,
    record_value,
    unproved,
)
from shoal.training.agreeing import Agreement, Ask, Effect, JudgeRecord, Keep
from shoal.training.members import Change, Expel, Leave, Resume, Suspend, electorate_of
from shoal.training.spec import Quorum
from shoal.training.votes import (
    Ballot,
    Decided,
    Journal,
    Proposal,
    Value,
    Vote,
    shortened,
    value_of,
    without_polka,
)
from shoal.training.voting_effects import Accuse, Began, Save, Send, Timeouts
from shoal.transport.identity import Identity
from shoal.transport.port import PeerId
from shoal.transport.wire import Malformed

from .telling import Transcript

SWARM: Final = b"s" * 32
TIMEOUTS: Final = Timeouts(2.0, 1.0, 1.0)
LATENCY_S: Final = 0.05
STORY_S_MAX: Final = 600.0


def nothing(sender: str, receiver: str, ballot: Ballot) -> bool:
    """Is lost."""
    return False


def nobody(member: PeerId, admission: bytes) -> None:
    """Is let in: nobody on this stage has a ticket."""


@dataclass
class Disk:
    """What outlives a process."""

    log: list[Decided] = field(default_factory=list[Decided])
    journal: Journal | None = None

    def copy(self) -> "Disk":
        return Disk(list(self.log), self.journal)


class Actor:
    """One member, on the stage."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.key = Identity.from_seed(blake3(name.encode()).digest())
        self.peer_id = self.key.peer_id
        self.disk = Disk()
        self.core: Agreement | None = None
        self.dies_before: Callable[[Effect], bool] = lambda _: False
        self.takes: Iterable[str] | None = None  # whose contributions it would propose; None: of all it reaches
        self.said: set[Ballot] = set()
        self.repeated_at = -1.0
        self.wakes_at = float("inf")

    @property
    def up(self) -> Agreement:
        assert self.core is not None, f"{self.name} is not running"
        return self.core


class Stage:
    """See the module's text."""

    def __init__(self, names: str, quorum: Quorum = Quorum.MAJORITY, guests: str = "") -> None:
        """All of `names` are members, `guests` are not."""
        self.now = 0.0
        self.actors = {name: Actor(name) for name in (names + " " + guests).split()}
        self.names = {actor.peer_id: actor.name for actor in self.actors.values()}
        self.transcript = Transcript(self.names)
        members = {self.actors[name].peer_id: 1 for name in names.split()}
        self.origin = Position(0, SWARM, electorate_of(quorum, members))
        self.loses: Callable[[str, str, Ballot], bool] = nothing
        self.decided: dict[int, bytes] = {}
        self.words: dict[PeerId, Change] = {}  # all know them
        self._sides: dict[str, int] = {}
        self._liars: list[Actor] = []
        self._closes_through = 0
        self._queue: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._number = 0
        for name in names.split():
            self._begin(self.actors[name])

    def _say(self, name: str, text: str) -> None:
        self.transcript.say(self.now, name, text)

    # What the story says.

    def narrate(self, text: str) -> None:
        self._say("--", text)

    def close(self, **takes: str) -> None:
        """The open round may close; some may have other contributions than they would get from all they reach."""
        self._closes_through = max(actor.core.round for actor in self.actors.values() if actor.core is not None)
        self.narrate(f"round {self._closes_through} may close; {self.proposer()}'s turn")
        for name, names in takes.items():
            self.actors[name].takes = names.split()
        for actor in self._running():
            self._ready(actor)

    def proposer(self, attempt: int = 0) -> str:
        """Whose turn it is in the newest round."""
        core = max((actor.up for actor in self._running()), key=lambda core: core.round)
        return self.names[core.position.electorate.proposer(core.round, attempt)]

    def run(self, span_s: float = STORY_S_MAX, until: Callable[[], bool] = lambda: False) -> None:
        end = self.now + span_s
        while self._queue and self._queue[0][0] <= end and not until():
            self.now, _, action, arguments = heappop(self._queue)
            action(*arguments)
        if not until():
            assert span_s < STORY_S_MAX, "\n".join(["this story does not end", *self.transcript.lines[:40]])
            self.now = end

    def run_until_closed(self, *names: str) -> None:
        """Until these, or all who run, have the record of the round that may close."""
        actors = [self.actors[name] for name in names] if names else self._running()
        self.run(until=lambda: all(actor.core is None or actor.core.round > self._closes_through for actor in actors))

    def kill(self, name: str) -> None:
        self._say(name, "is killed")
        self.actors[name].core = None

    def start(self, name: str, disk: Disk | None = None) -> None:
        """Again, with what is on its disk, or on the one that it is given."""
        actor = self.actors[name]
        actor.disk = actor.disk if disk is None else disk
        self._say(name, "starts again")
        self._begin(actor)
        votes = [vote for other in self._reached(name) for vote in other.up.newest_of(actor.peer_id)]
        if actor.up.recall(votes):
            self._say(name, "is told of a vote of its own that it does not remember: it abstains in this round")
        self._do(actor, actor.up.look(self.now))
        for other in self._reached(name):
            self._greet(other, actor)
            self._greet(actor, other)
        self._catch_up(actor)
        self._ready(actor)

    def part(self, *sides: str) -> None:
        """The network is in parts."""
        self.narrate("the network parts: " + " | ".join(sides))
        self._sides = {name: number for number, side in enumerate(sides) for name in side.split()}

    def heal(self) -> None:
        self.narrate("all are connected again")
        before, self._sides = self._sides, {}
        for one in self._running():
            for other in self._running():
                if before.get(one.name, 0) != before.get(other.name, 0):
                    self._greet(one, other)
        for actor in self._running():
            self._catch_up(actor)
            self._ready(actor)

    def leave(self, name: str) -> None:
        actor = self.actors[name]
        since = actor.up.position.electorate.by_member[actor.peer_id].since
        self._say(name, "says that it leaves")
        self.words[actor.peer_id] = Leave(actor.peer_id, actor.key.sign(leave_statement(SWARM, actor.peer_id, since)))

    def turn(self, name: str) -> None:
        """From now on this one lies: it says what the story has it say, and nothing else."""
        self.narrate(f"{name} lies from now on")
        self.actors[name].core = None
        self._liars.append(self.actors[name])

    def lie(self, name: str, receivers: str, ballot: Ballot) -> None:
        self._say(name, f"{self.transcript.described(ballot)}, before {' and '.join(receivers.split())}")
        for receiver in receivers.split():
            self._post(name, receiver, ballot)

    def record(self, taking: str, *changes: Change) -> Value:
        """One that may be the first, made by hand."""
        made = next_record(self.origin, b"", self._shares(1, taking.split()), changes)
        assert not isinstance(made, Malformed), made
        value = record_value(made)
        self.transcript.title(value)
        return value

    # The network.

    def _running(self) -> list[Actor]:
        return [actor for actor in self.actors.values() if actor.core is not None]

    def _reached(self, name: str) -> list[Actor]:
        """By this one, itself left out."""
        side = self._sides.get(name, 0)
        return [each for each in self._running() if each.name != name and self._sides.get(each.name, 0) == side]

    def _post(self, sender: str, receiver: str, ballot: Ballot) -> None:
        if not self.loses(sender, receiver, ballot):
            self._at(self.now + LATENCY_S, self._arrive, sender, receiver, ballot)

    def _arrive(self, sender: str, receiver: str, ballot: Ballot) -> None:
        actor = self.actors[receiver]
        if actor.core is not None and self._sides.get(sender, 0) == self._sides.get(receiver, 0):
            self._do(actor, actor.core.heard(self.now, self.actors[sender].peer_id, ballot))

    def _greet(self, one: Actor, other: Actor) -> None:
        """They are connected: `one` tells what it said."""
        said = one.up.met(other.peer_id)
        if said:
            self._say(one.name, f"tells {other.name} what it said last")
        for effect in said:
            assert isinstance(effect, Send)
            self._post(one.name, other.name, effect.ballot)

    def _catch_up(self, actor: Actor) -> None:
        """Ask one who is further."""
        ahead = [other for other in self._reached(actor.name) if other.up.round > actor.up.round]
        if ahead:
            self._do(actor, [Ask(ahead[0].peer_id)])

    # What the members do.

    def _begin(self, actor: Actor) -> None:
        actor.core = Agreement(SWARM, actor.key, TIMEOUTS, self.origin, actor.disk.log, actor.disk.journal)
        actor.core.wait_for(lambda peer: not self._is_silent(actor, peer))
        actor.wakes_at = float("inf")

    def _ready(self, actor: Actor) -> None:
        core = actor.core
        if core is None or core.round > self._closes_through:
            return
        changes = self._changes(actor)
        exact = tuple(change for change in changes if not isinstance(change, Suspend))
        gone = {change.member for change in changes if isinstance(change, Leave | Expel)}
        here = (
            [actor, *self._reached(actor.name), *self._liars]
            if actor.takes is None
            else map(self.actors.__getitem__, actor.takes)
        )
        members = core.position.electorate.by_member.keys() - gone
        shares = self._shares(core.round, sorted(each.name for each in here if each.peer_id in members))
        values = [next_record(core.position, b"", shares, each) for each in (changes, exact)]
        first, later = (None if isinstance(made, Malformed) else record_value(made) for made in values)
        self._do(actor, core.ready(self.now, first, later))

    def _shares(self, round: int, names: Iterable[str]) -> list[Share]:
        works = ((self.actors[name].peer_id, blake3(f"{name} {round}".encode()).digest()) for name in names)
        return [Share(peer, round, round - 1, hash, 1) for peer, hash in works]

    def _changes(self, actor: Actor) -> tuple[Change, ...]:
        electorate = actor.up.position.electorate
        changes = [change for peer, change in sorted(self.words.items()) if peer in electorate.by_member]
        gone = {change.member for change in changes}
        for seat in electorate.seats:
            is_silent = self._is_silent(actor, PeerId(seat.member))
            if seat.member not in gone and is_silent != seat.is_suspended:
                changes.append(Suspend(seat.member) if is_silent else Resume(seat.member))
        return tuple(changes)

    def _is_silent(self, actor: Actor, peer: PeerId) -> bool:
        here = [actor, *self._reached(actor.name), *self._liars]
        return peer not in {other.peer_id for other in here}

    def _judge(self, actor: Actor, record: AgreedRecord, is_backed: bool) -> str | None:
        """What is wrong with it. That all work is here, this stage takes for granted."""
        electorate = actor.up.position.electorate
        wrong = unproved(record.changes, SWARM, electorate, nobody)
        if wrong is not None:
            return wrong
        silenced = (PeerId(change.member) for change in record.changes if isinstance(change, Suspend))
        heard = [peer for peer in silenced if not is_backed and not self._is_silent(actor, peer)]
        return f"{heard[0]} is heard here" if heard else None

    def _do(self, actor: Actor, effects: Iterable[Effect]) -> None:
        core = actor.core
        for effect in effects:
            if actor.core is not core:
                return
            if actor.dies_before(effect):
                actor.dies_before = lambda _: False
                self.kill(actor.name)
                return
            self._carry_out(actor, effect)
        if actor.core is not None:
            self._wake(actor)

    def _carry_out(self, actor: Actor, effect: Effect) -> None:
        match effect:
            case Save(journal):
                actor.disk.journal = journal
            case Keep():
                self._keep(actor, effect)
            case Send(ballot, None):
                self._send(actor, ballot)
            case Send(ballot, str() as peer):
                self._post(actor.name, self.names[peer], ballot)  # how an earlier round ended
            case Ask(peer):
                round = actor.up.round
                self._say(actor.name, f"asks {self.names[peer]} for the records from round {round} on")
                for decided in self.actors[self.names[peer]].disk.log[round - 1 :]:
                    self._post(self.names[peer], actor.name, decided)
            case JudgeRecord(value, record, is_backed):
                wrong = self._judge(actor, record, is_backed)
                if wrong is not None:
                    self._say(actor.name, f"finds {self.transcript.title(value)} unsound: {wrong}")
                self._at(self.now, self._judged, actor, actor.core, value.hash, wrong is None)
            case Began(attempt, proposer, reason):
                self._say(actor.name, f"goes on to attempt {attempt}, {self.names[proposer]}'s turn: {reason}")
            case Accuse(first, second):
                member = PeerId(first.voter if isinstance(first, Vote) else first.proposer)
                self._say(actor.name, f"has proof that {member} lies: it signed two things at once")
                self.words[member] = Expel(member, shortened(first), shortened(second))
            case _:
                raise AssertionError(f"{actor.name}: {effect}")

    def _keep(self, actor: Actor, keep: Keep) -> None:
        actor.disk.log.append(keep.decided)
        hash = keep.position.record
        assert self.decided.setdefault(keep.record.round, hash) == hash, f"round {keep.record.round} ended twice"
        signers = " ".join(sorted(self.names[PeerId(each.member)] for each in keep.decided.precommits))
        what = self.transcript.title(value_of(keep.decided.value))
        self._say(actor.name, f"has round {keep.record.round}: {what}, attempt {keep.decided.attempt}, by {signers}")
        actor.takes = None
        if actor.peer_id not in keep.position.electorate.by_member:
            self._say(actor.name, "is no member any more")
            actor.core = None

    def _judged(self, actor: Actor, core: Agreement, hash: bytes, is_sound: bool) -> None:
        if actor.core is core:
            self._do(actor, core.judged(self.now, hash, is_sound))

    def _send(self, actor: Actor, ballot: Ballot) -> None:
        is_own = not isinstance(ballot, Proposal) or ballot.proposer == actor.peer_id
        said = without_polka(ballot) if isinstance(ballot, Vote) else ballot
        if is_own and said not in actor.said:
            actor.said.add(said)
            self._say(actor.name, self.transcript.described(ballot))
        elif actor.repeated_at != self.now:
            actor.repeated_at = self.now
            self._say(actor.name, "repeats what was said")
        for other in self.actors.values():
            if other is not actor:
                self._post(actor.name, other.name, ballot)

    def _wake(self, actor: Actor) -> None:
        at = max(actor.up.deadline, self.now)
        if at < float("inf"):
            actor.wakes_at = at
            self._at(at, self._woken, actor, at)

    def _woken(self, actor: Actor, at: float) -> None:
        if actor.core is not None and actor.wakes_at == at:
            self._do(actor, actor.core.look(self.now))

    def _at(self, time: float, action: Callable[..., None], *arguments: Any) -> None:
        self._number += 1
        heappush(self._queue, (time, self._number, action, arguments))
