"""The round, as one member lives it: events go in, effects come out. No clock, no network, no method.

A member stands at a head: the newest record whose state it has computed. The log may be further; then it catches up
(catching_up.py). Where it is not, the round after it is open: this member makes its part, contributions are heard,
fetched, checked and held; when the round may close (open_round.py) the members agree on a record of it
(deliberation.py), each applies what that took, and that makes the next head.

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
from .catching_up import is_better
from .course import Course
from .effects import AdoptStore, AnnounceHeld, CheckPayload, Effect, KeepLeap, Observe, SpreadWords, Train
from .events import Problem
from .judging import cannot_take, share_of
from .ledger import Closed, Ledger
from .members import Change
from .place import Phase, Place
from .records import Head, Offered, Standing
from .skipping import Proof
from .soundness import base_of, contribution_fault
from .votes import Ballot, Decided, Vote
from .weights import weights_in

__all__ = ["Phase", "Place", "Rounds"]


class Rounds(Course):
    """See the module's text. Every method that takes `now` returns what is to be done, or why an input is of no use."""

    @property
    def split(self) -> Split | None:
        """Two certified records of one round: this member goes no further."""
        return self._agreement.split

    @property
    def is_abstaining(self) -> bool:
        """Whether this member says nothing to what is agreed on."""
        return self._agreement.is_abstaining

    @property
    def contributors(self) -> tuple[PeerId, ...]:
        """Of the newest record that took any, sorted."""
        return tuple(sorted(self._open.contributors))

    @property
    def has_begun(self) -> bool:
        """Whether this member is at work or beyond the start: who says that it stands there says that it has begun."""
        return self.head.round > 0 or self._open.started_at is not None

    @property
    def started_at(self) -> float | None:
        """When the open round started here."""
        return self._open.started_at

    @property
    def is_idle(self) -> bool:
        """Whether this member has nothing to contribute to the open round."""
        return self._open.is_idle

    def is_over(self, turn: Train) -> bool:
        """Whether this member should hurry: a record was made without this turn."""
        is_old = self._taking_round > turn.base.round or turn.base != self._open.base
        return is_old or self.phase is Phase.FINISHED or self.standing is not Standing.TRAINER

    def is_in_time(self, turn: Train) -> bool:
        """Whether a record may still take what this turn makes."""
        stale = self.ledger.staleness(turn.base.round)
        is_young = stale is not None and stale <= self.spec.stale_rounds_max
        return is_young and self.phase is not Phase.FINISHED and self.standing is Standing.TRAINER

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
        return self._agreement.newest_of(peer)

    def owes_have(self, peer: PeerId) -> bool:
        """Whether `peer` cannot know by itself where this member stands or what it holds.

        Whoever contributed to the last record is expected to go on without saying so, by those who saw it end by its
        votes: that spares a message per pair and round.
        """
        has_seen = self.voters(self.ledger.newest).votes(peer) > 0
        is_expected = has_seen and self._me in self._open.contributors and peer in self._open.contributors
        holds_blobs = any(offered.ref for hash in self.held() if (offered := self.pool.get(hash)))
        return not is_expected or holds_blobs or self.is_idle or self.phase is Phase.FINISHED

    # What this member does itself.

    def sits_out(self, now: float) -> list[Effect]:
        """This member has nothing to contribute to the open round: the others need not wait."""
        self._open.is_idle = True
        return [AnnounceHeld(), *self.look(now)]

    def contributed(self, now: float, offered: Offered, *, is_here: bool = True) -> list[Effect] | str:
        """This member's own contribution is made, or found again after a restart.

        Args:
            is_here: whether its payload is, too. Where the disk has lost it the others may have it: no second one is
                made in its place, and nobody waits for this one.
        """
        is_fresh = base_of(offered) == self._open.base
        self._open.worked(has_contributed=is_fresh)
        if offered.contribution.base_round <= self.head.round and self._is_current:
            fault = cannot_take(self._view(now), offered)
            if fault is not None:
                return fault
        self._open.is_idle = not is_here if is_fresh else self._open.is_idle  # it may have failed before
        if not is_here:
            return [*self.pool.take_in(offered), *self.look(now)]
        self.pool.hold(offered)
        return self.look(now)

    def gave_up(self, now: float) -> list[Effect]:
        """This member's turn is over and made nothing."""
        self._open.worked(has_contributed=False)
        return self.look(now)

    def resign(self, now: float, word: Change) -> list[Effect]:
        """This member leaves, by this word of its."""
        self._is_leaving = True
        self.standing = Standing.PAUSED
        return self.wants(now, word)

    def stand(self, now: float, standing: Standing) -> list[Effect]:
        """The owner pauses or resumes."""
        self.standing = standing
        return self.look(now)

    def hear_out(self, now: float, peers: Iterable[PeerId]) -> None:
        """Before anything else: who may tell, in a moment, where the swarm stands by now."""
        self._gathering.hear_out(now, peers)

    def asks_by(self, make_join: Callable[[int], Change | str]) -> None:
        """How this member asks to be let in: by the newest round it knows; or why it would be in vain."""
        self._make_join = make_join

    def trust(self, record: bytes) -> None:
        """An invite names this record: follow only a log that it is in."""
        self._trusted = record

    def be_careful(self) -> None:
        """What this member has signed may be lost: say nothing until that can do no harm."""
        self._care.begin()

    def stop_at(self, split: Split) -> None:
        """Two certified records for one round are known from before: go no further."""
        self._agreement.split = split

    # What is heard.

    def met(self, now: float, peer: PeerId) -> list[Effect]:
        """A member is connected that was not."""
        if self._gathering.is_hearing(now, self._roster):
            return []
        return self._deliberation.met(now, peer)

    def heard(self, now: float, offered: Offered) -> list[Effect] | str:
        """A contribution arrived, by whatever way."""
        if offered.member == self._me or not self._roster.is_member(offered.member):
            return "the contributor is not another member"
        if offered.member not in self._comers:
            return "the contributor is no member of the swarm, and does not ask to be one"
        fault = contribution_fault(self.spec, offered)
        if fault is not None:
            return fault
        base = base_of(offered)
        self._roster.tell(offered.member, base)
        if base.round > self.ledger.newest + 1:
            return self.look(now)  # its author is far ahead: that is worth following
        fault = self._why_not_needed(now)(offered)
        if fault is not None:
            return self.look(now) or fault  # that its author stands elsewhere may matter
        if base.round == 0:
            self._gathering.hear_start(now)
        if self.pool.members_count >= 2 * self.spec.members_max:  # the roster's and the electorate's
            self.pool.keep(self._is_known)
        known = self.pool.hear(offered)
        return known if isinstance(known, str) else [*known, *self.look(now)]

    def heard_have(
        self, now: float, peer: PeerId, head: Head, held: Iterable[bytes], bytes_per_s: int, *, is_idle: bool
    ) -> list[Effect]:
        """A member says where it stands, what it holds, and whether it is at work there."""
        self._roster.tell(peer, head)
        self._roster.tell_work(peer, held, bytes_per_s, is_idle=is_idle)
        if head == self.head and head.round == 0:
            self._gathering.hear_start(now)
        return self.look(now)

    def heard_ballots(self, now: float, peer: PeerId, ballots: Iterable[Ballot]) -> list[Effect]:
        """Votes, proposals and decisions arrived, by whatever way."""
        if self._gathering.is_hearing(now, self._roster) or self._trusted is not None:
            return []  # what is said before others have told what they remember might be said twice
        effects = self._deliberation.heard(now, peer, ballots)
        return [*effects, *self._closed(now), *self.look(now)]

    def are_sound(self, ballots: Iterable[Ballot]) -> bool:
        """Whether all of them are of the open round, and signed by those who may vote."""
        return all(map(self._agreement.is_sound, ballots))

    def heard_words(self, now: float, changes: Iterable[Change]) -> list[Effect]:
        """What somebody wants the members to change."""
        news = tuple(change for change in changes if self.words.hear(self.position, change))
        return self.look(now) if news else []

    def heard_own_votes(self, votes: Iterable[Vote]) -> list[Effect]:
        """A peer tells what it remembers of this member's votes."""
        return self._deliberation.recall(votes)

    def wants(self, now: float, change: Change) -> list[Effect]:
        """This member's owner wants it."""
        is_news = self.words.hear(self.position, change)
        return [SpreadWords((change,)), *self.look(now)] if is_news else []

    # The ends of effects.

    def fetched(self, now: float, offered: Offered) -> list[Effect]:
        """The end of a FetchPayload; the shell tries for as long as it may be of use."""
        if self.pool.get(offered.hash) is not offered:
            return []
        if self.standing is Standing.STORAGE:
            return self._hold(now, offered)  # it has no method to check with; those who apply do
        return [CheckPayload(offered)]

    def checked(self, now: float, offered: Offered, wrong: str | None) -> list[Effect]:
        """The end of a CheckPayload."""
        if self.pool.get(offered.hash) is not offered:
            return []
        if wrong is None:
            return self._hold(now, offered)
        self.pool.refuse(offered)
        text = f"the contribution of {offered.member} to round {offered.round} is refused: {wrong}"
        return [Observe(Problem(text)), *self.look(now)]

    def lost(self, offered: Offered) -> list[Effect]:
        """The end of a CheckPayload that could not be done: its payload has gone from the disk, for which its author
        is not to blame.
        """
        if self.pool.get(offered.hash) is not offered:
            return []
        self.pool.drop(offered)
        return self.pool.take_in(offered)

    def collected(self, now: float, record: bytes, missing: Iterable[bytes], offers: Iterable[Offered]) -> list[Effect]:
        """The end of a Collect: what was found."""
        wanted, effects = set(missing), list[Effect]()
        shares = {share.contribution: share for share in self._shares(record)}
        for offered in offers:
            is_named = offered.hash in wanted and shares.get(offered.hash) == share_of(offered)
            if is_named and contribution_fault(self.spec, offered) is None:
                wanted.discard(offered.hash)
                effects += self.pool.take_in(offered)
        following = self.ledger.closed(self.head.round + 1)
        if wanted and following is not None and following.hash == record:
            self._catching_up.close_way_by_records()
        return [*effects, *self.look(now)]

    def store_marked(self, now: float, round: int, mark: StoreMark) -> list[Effect]:
        """The end of a MarkStore, if there is one."""
        if round == self.round:
            self._compacting.worked_out(self.position, mark)
        return self.look(now)

    def store_judged(self, now: float, mark: StoreMark, *, is_right: bool) -> list[Effect]:
        """The end of a JudgeStore, if the operations are here."""
        self._compacting.judged(mark, is_right=is_right)
        return self.look(now)

    def store_adopted(self, now: float, digest: bytes, frontier: Frontier) -> list[Effect]:
        """The end of an AdoptStore: the snapshot with this digest is in force."""
        if digest == self.position.snapshot:
            self._compacting.adopted(digest, frontier)
        return self.look(now)

    def applied(self, now: float, closed: Closed, digest: bytes) -> list[Effect]:
        """The end of an ApplyRecord: the state after it has this digest, and is saved."""
        return self._stand_at(now, Head(closed.record.round, closed.hash, digest), closed)

    def unapplied(self, now: float, offers: Iterable[Offered]) -> list[Effect]:
        """The end of an ApplyRecord that could not be done here: a payload is gone from the disk."""
        self.phase = Phase.WAITING
        for offered in offers:
            self.pool.drop(offered)
        self._catching_up.close_way_by_records()
        return self.look(now)

    def record_told(self, now: float, peer: PeerId, decided: Decided) -> list[Effect]:
        """A part of what an AskLog brings; `log_told` comes after a peer's last, `log_asked` after all."""
        return [*self._deliberation.heard(now, peer, (decided,)), *self._closed(now)]

    def log_told(self, now: float, peer: PeerId, since: int) -> list[Effect]:
        """The end of what one has told, before which the newest round was `since`."""
        told = self._roster.head(peer)
        # Else it has come by another way meanwhile.
        if self.ledger.newest == since and (told is None or told.round > since):
            self._roster.doubt(peer, now)
        return self.look(now)

    def log_asked(self, now: float, since: int) -> list[Effect]:
        """The end of an AskLog, before which the newest round was `since`."""
        self._catching_up.log_asked(now, is_news=self.ledger.newest > since)
        return self.look(now)

    def leapt(self, now: float, position: Position, proof: Proof, asked: Iterable[PeerId]) -> list[Effect]:
        """The end of an AskProof: the log goes on from there."""
        is_news = position.round > self.ledger.newest
        if not is_news and self._trusted is None:
            return self.not_proved(now, asked)
        self._catching_up.log_asked(now, is_news=True)
        self._trusted = None
        if not is_news:
            return self.look(now)
        adopt: list[Effect] = []
        if position.snapshot not in (None, self.position.snapshot):
            adopt.append(AdoptStore(position.snapshot))
        self._deliberation.leap(position)
        self.ledger = Ledger(position, self._start_digest)
        if self.phase is Phase.OPEN:
            self.phase = Phase.WAITING
        return [KeepLeap(proof, position), *adopt, *self.look(now)]

    def not_proved(self, now: float, asked: Iterable[PeerId]) -> list[Effect]:
        """The end of an AskProof that led nowhere: others than those that were asked may know better."""
        self._catching_up.log_asked(now, is_news=False)
        for peer in asked:
            told = self._roster.head(peer)
            if self._trusted is not None or told is None or told.round > self.ledger.newest:
                self._roster.doubt(peer, now)
        return self.look(now)

    def adopted(self, now: float, head: Head) -> list[Effect]:
        """The end of a Resync: this member now stands at `head`."""
        self._catching_up.resynced(now, has_arrived=True)
        return self._stand_at(now, head, self.ledger.closed(head.round))

    def resync_failed(self, now: float, holders: Iterable[PeerId]) -> list[Effect]:
        """The end of a Resync that led nowhere; `holders` told that head."""
        self._catching_up.resynced(now, has_arrived=False)
        for peer in holders:
            self._roster.doubt(peer, now)
        return self.look(now)

    def is_better(self, head: Head) -> bool:
        """Whether `head` is in the log and further than this member, or the certified one where it stands."""
        return is_better(head, self.head, self.ledger, self._deliberation.other_state)
