"""The round, as one member lives it: events go in, effects come out. No clock, no network, no method.

A member stands at a head: the newest record whose state it has computed. The log may be further; then it catches up
(catching_up.py). Where it is not, the round after it is open: this member makes its part, contributions are heard,
fetched, checked and held; when the round may close (open_round.py) the members agree on a record of it
(deliberation.py), each applies what that took, and that makes the next head.

All that is told comes in here and changes where this member stands (situation.py): what it means for contributions
stands in contributions.py, what comes of catching up in arriving.py, and what this member then does in course.py.

A peer may send any contribution that its key can sign, of any round, any size, as many as it likes. It cannot: be heard
without being in the roster; take more room than some contributions for rounds that may still take them; have one
counted twice; have a payload fetched that is larger than the spec allows; have anything applied that a quorum has not
certified as whole, sound and made from a certified state. What it can do with votes stands in voting.py, with words
about membership in words.py.
"""

from collections.abc import Callable, Iterable

from shoal.crdt.compact import Frontier
from shoal.transport.port import PeerId

from .agreed import Position, StoreMark
from .agreeing import Split
from .arriving import Arriving
from .asking_in import AskingIn
from .catching_up import is_better
from .contributions import Contributions
from .course import Course
from .effects import AnnounceHeld, Effect, SpreadWords, Train
from .evidence import Evidence
from .ledger import Closed, Ledger
from .members import Change, Electorate
from .place import Phase, Place
from .records import Head, Offered, Standing
from .situation import Situation
from .skipping import Proof
from .taking_care import TakingCare
from .votes import Ballot, Decided, Vote
from .weights import weights_in

__all__ = ["Phase", "Place", "Rounds"]


class Rounds:
    """See the module's text. Every method that takes `now` returns what is to be done, or why an input is of no use."""

    def __init__(self, situation: Situation) -> None:
        self._situation = situation
        self._asking = AskingIn(situation)
        self._care = TakingCare(situation.me, situation.agreement)
        self._course = Course(situation, self._asking, self._care)
        self._contributions = Contributions(situation, self._course)
        self._arriving = Arriving(situation, self._course, self._contributions)
        self.spec = situation.spec
        self.pool = situation.pool
        self.words = situation.words

    @property
    def head(self) -> Head:
        return self._situation.head

    @property
    def phase(self) -> Phase:
        return self._situation.phase

    @property
    def standing(self) -> Standing:
        return self._situation.standing

    @property
    def ledger(self) -> Ledger:
        return self._situation.ledger

    @property
    def closed_at(self) -> float | None:
        return self._situation.closed_at

    @property
    def round(self) -> int:
        return self._situation.round

    @property
    def position(self) -> Position:
        return self._situation.position

    @property
    def electorate(self) -> Electorate:
        return self._situation.electorate

    def voters(self, round: int) -> Electorate:
        """Of a round at hand, else of the one that is voted on."""
        return self._situation.voters(round)

    @property
    def split(self) -> Split | None:
        """Two certified records of one round: this member goes no further."""
        return self._situation.agreement.split

    @property
    def is_abstaining(self) -> bool:
        """Whether this member says nothing to what is agreed on."""
        return self._situation.agreement.is_abstaining

    @property
    def contributors(self) -> tuple[PeerId, ...]:
        """Of the newest record that took any, sorted."""
        return tuple(sorted(self._situation.open.contributors))

    @property
    def has_begun(self) -> bool:
        """Whether this member is at work or beyond the start: who says that it stands there says that it has begun."""
        return self.head.round > 0 or self._situation.open.started_at is not None

    @property
    def started_at(self) -> float | None:
        """When the open round started here."""
        return self._situation.open.started_at

    @property
    def is_idle(self) -> bool:
        """Whether this member has nothing to contribute to the open round."""
        return self._situation.open.is_idle

    def is_over(self, turn: Train) -> bool:
        """Whether this member should hurry: a record was made without this turn."""
        here = self._situation
        return here.taking_round > turn.base.round or turn.base != here.open.base or not here.is_training

    def turn_after(self, now: float, closed: Closed) -> Train | None:
        """What this member is to do once it stands where that record leads, as far as can be said before its state is
        hashed: the base's digest is empty. None: nothing, or that cannot be said.
        """
        here, record, spec = self._situation, closed.record, self._situation.spec
        is_last = record.round != self.ledger.newest or 0 < spec.rounds_max <= record.round
        is_out = not here.is_training or here.position.is_banned(here.me) or here.electorate.is_barred(here.me)
        if is_last or is_out or not record.taken:
            return None
        contributors = {share.member for share in record.taken}
        base = Head(record.round, closed.hash, b"")
        members = tuple(sorted({*contributors, here.me}))
        return Train(record.round + 1, base, members, now + spec.round_s, here.me in contributors)

    def is_in_time(self, turn: Train) -> bool:
        """Whether a record may still take what this turn makes."""
        stale = self.ledger.staleness(turn.base.round)
        return stale is not None and stale <= self.spec.stale_rounds_max and self._situation.is_training

    def held(self) -> tuple[bytes, ...]:
        """Contributions that are here, whole and checked: sorted hashes."""
        return self.pool.held()

    def weights(self, closed: Closed) -> tuple[int, ...]:
        """By how much each of the contributions counts that a record takes which is to be applied."""
        found = weights_in(closed, self.ledger)
        assert found is not None, "what it cannot weigh, this member does not apply"
        return found

    def newest_votes(self, peer: PeerId) -> tuple[Vote, ...]:
        """What `peer` has voted last, to tell it."""
        return self._situation.agreement.newest_of(peer)

    def owes_have(self, peer: PeerId) -> bool:
        """Whether `peer` cannot know by itself where this member stands or what it holds.

        Whoever contributed to the last record is expected to go on without saying so, by those who saw it end by its
        votes: that spares a message per pair and round.
        """
        has_seen = self.voters(self.ledger.newest).votes(peer) > 0
        is_expected = has_seen and {self._situation.me, peer} <= self._situation.open.contributors
        holds_blobs = any(offered.ref for hash in self.held() if (offered := self.pool.get(hash)))
        return not is_expected or holds_blobs or self.is_idle or self.phase is Phase.FINISHED

    def deadline(self, now: float) -> float:
        """When to call `look` even if nothing happens."""
        return self._course.deadline(now)

    def look(self, now: float) -> list[Effect]:
        """Something changed, or time passed: the connected members, their heads, the deadline."""
        return self._course.look(now)

    # What this member does itself.

    def sits_out(self, now: float) -> list[Effect]:
        """This member has nothing to contribute to the open round: the others need not wait."""
        self._situation.open.is_idle = True
        return [AnnounceHeld(), *self.look(now)]

    def contributed(self, now: float, offered: Offered, *, is_here: bool = True) -> list[Effect] | str:
        """This member's own contribution is made, or found again after a restart; `is_here`: its payload, too."""
        return self._contributions.contributed(now, offered, is_here=is_here)

    def gave_up(self, now: float) -> list[Effect]:
        """This member's turn is over and made nothing."""
        self._situation.open.worked(has_contributed=False)
        return self.look(now)

    def resign(self, now: float, word: Change) -> list[Effect]:
        """This member leaves, by this word of its."""
        self._asking.leave()
        self._situation.standing = Standing.PAUSED
        return self.wants(now, word)

    def stand(self, now: float, standing: Standing) -> list[Effect]:
        """The owner pauses or resumes."""
        self._situation.standing = standing
        return self.look(now)

    def hear_out(self, now: float, peers: Iterable[PeerId]) -> None:
        """Before anything else: who may tell, in a moment, where the swarm stands by now."""
        self._situation.gathering.hear_out(now, peers)

    def asks_by(self, make_join: Callable[[int], Change | str]) -> None:
        """How this member asks to be let in: by the newest round it knows; or why it would be in vain."""
        self._asking.make_join = make_join

    def trust(self, record: bytes) -> None:
        """An invite names this record: follow only a log that it is in."""
        self._situation.trusted = record

    def be_careful(self) -> None:
        """What this member has signed may be lost: say nothing until that can do no harm."""
        self._care.begin()

    def stop_at(self, split: Split) -> None:
        """Two certified records for one round are known from before: go no further."""
        self._situation.agreement.split = split

    # What is heard.

    def met(self, now: float, peer: PeerId) -> list[Effect]:
        """A member is connected that was not."""
        if self._situation.is_hearing(now):
            return []
        return self._situation.deliberation.met(now, peer)

    def heard(self, now: float, offered: Offered) -> list[Effect] | str:
        """A contribution arrived, by whatever way."""
        return self._contributions.heard(now, offered)

    def heard_have(
        self, now: float, peer: PeerId, head: Head, held: Iterable[bytes], bytes_per_s: int, *, is_idle: bool
    ) -> list[Effect]:
        """A member says where it stands, what it holds, and whether it is at work there."""
        self._situation.roster.tell(peer, head)
        self._situation.roster.tell_work(peer, held, bytes_per_s, is_idle=is_idle)
        if head == self.head and head.round == 0:
            self._situation.gathering.hear_start(now)
        return self.look(now)

    def heard_ballots(self, now: float, peer: PeerId, ballots: Iterable[Ballot]) -> list[Effect]:
        """Votes, proposals and decisions arrived, by whatever way."""
        if self._situation.is_hearing(now) or self._situation.trusted is not None:
            return []  # what is said before others have told what they remember might be said twice
        effects = self._situation.deliberation.heard(now, peer, ballots)
        return [*effects, *self._course.note_closed(now), *self.look(now)]

    def are_sound(self, ballots: Iterable[Ballot]) -> bool:
        """Whether all of them are of the open round, and signed by those who may vote."""
        return all(map(self._situation.agreement.is_sound, ballots))

    def heard_words(self, now: float, changes: Iterable[Change]) -> list[Effect]:
        """What somebody wants the members to change."""
        news = tuple(change for change in changes if self.words.hear(self.position, change))
        return self.look(now) if news else []

    def heard_own_votes(self, votes: Iterable[Vote]) -> list[Effect]:
        """A peer tells what it remembers of this member's votes."""
        return self._situation.deliberation.recall(votes)

    def wants(self, now: float, change: Change) -> list[Effect]:
        """This member's owner wants it."""
        is_news = self.words.hear(self.position, change)
        return [SpreadWords((change,)), *self.look(now)] if is_news else []

    # The ends of effects.

    def fetched(self, now: float, offered: Offered) -> list[Effect]:
        """The end of a FetchPayload; the shell tries for as long as it may be of use."""
        return self._contributions.fetched(now, offered)

    def checked(self, now: float, offered: Offered, wrong: str | None) -> list[Effect]:
        """The end of a CheckPayload."""
        return self._contributions.checked(now, offered, wrong)

    def lost(self, offered: Offered) -> list[Effect]:
        """The end of a CheckPayload that could not be done: its payload has gone from the disk."""
        return self._contributions.lost(offered)

    def collected(self, now: float, record: bytes, missing: Iterable[bytes], offers: Iterable[Offered]) -> list[Effect]:
        """The end of a Collect: what was found."""
        return self._contributions.collected(now, record, missing, offers)

    def store_marked(self, now: float, round: int, mark: StoreMark) -> list[Effect]:
        """The end of a MarkStore, if there is one."""
        if round == self.round:
            self._situation.compacting.worked_out(self.position, mark)
        return self.look(now)

    def store_judged(self, now: float, mark: StoreMark, *, is_right: bool) -> list[Effect]:
        """The end of a JudgeStore, if the operations are here."""
        self._situation.compacting.judged(mark, is_right=is_right)
        return self.look(now)

    def store_adopted(self, now: float, digest: bytes, frontier: Frontier) -> list[Effect]:
        """The end of an AdoptStore: the snapshot with this digest is in force."""
        if digest == self.position.snapshot:
            self._situation.compacting.adopted(digest, frontier)
        return self.look(now)

    def applied(
        self, now: float, closed: Closed, digest: bytes, evidence: tuple[Evidence, ...] | None = ()
    ) -> list[Effect]:
        """The end of an ApplyRecord: the state after it has this digest, and is saved; it shows this evidence."""
        return self._arriving.applied(now, closed, digest, evidence)

    def unapplied(self, now: float, offers: Iterable[Offered]) -> list[Effect]:
        """The end of an ApplyRecord that could not be done here: a payload is gone from the disk."""
        return self._arriving.unapplied(now, offers)

    def record_told(self, now: float, peer: PeerId, decided: Decided) -> list[Effect]:
        """A part of what an AskLog brings; `log_told` comes after a peer's last, `log_asked` after all."""
        return self._arriving.record_told(now, peer, decided)

    def log_told(self, now: float, peer: PeerId, since: int) -> list[Effect]:
        """The end of what one has told, before which the newest round was `since`."""
        return self._arriving.log_told(now, peer, since)

    def log_asked(self, now: float, since: int) -> list[Effect]:
        """The end of an AskLog, before which the newest round was `since`."""
        return self._arriving.log_asked(now, since)

    def leapt(self, now: float, position: Position, proof: Proof, asked: Iterable[PeerId]) -> list[Effect]:
        """The end of an AskProof: the log goes on from there."""
        return self._arriving.leapt(now, position, proof, asked)

    def not_proved(self, now: float, asked: Iterable[PeerId]) -> list[Effect]:
        """The end of an AskProof that led nowhere: others than those that were asked may know better."""
        return self._arriving.not_proved(now, asked)

    def adopted(self, now: float, head: Head, evidence: tuple[Evidence, ...] | None = ()) -> list[Effect]:
        """The end of a Resync: this member now stands at `head`; `evidence` is as in `applied`."""
        return self._arriving.adopted(now, head, evidence)

    def resync_failed(self, now: float, holders: Iterable[PeerId]) -> list[Effect]:
        """The end of a Resync that led nowhere; `holders` told that head."""
        return self._arriving.resync_failed(now, holders)

    def is_better(self, head: Head) -> bool:
        """Whether `head` is in the log and further than this member, or the certified one where it stands."""
        return is_better(head, self.head, self.ledger, self._situation.deliberation.other_state)
