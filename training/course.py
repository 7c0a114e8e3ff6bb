"""What follows from where a member stands in its swarm: catching up, opening a round, and closing it. No I/O.

The half of the round core that decides what to do next; the other half (rounds.py) is what it is told. `look` goes by
all that is known and may be called at any time: nothing depends on the order in which things were heard. What a peer
may send, and what it cannot achieve, stands in rounds.py.
"""

from collections.abc import Callable, Set

from shoal.transport.envelope import Verify
from shoal.transport.identity import verify
from shoal.transport.port import PeerId

from .admission import asked_at
from .agreed import Admits, AgreedRecord, Position, Share
from .catching_up import CatchingUp
from .closing import missing, unspread
from .compacting import Compacting
from .deliberation import Deliberation
from .effects import AdoptStore, AnnounceHeld, ApplyRecord, Effect, MarkStore, Observe, Recovered, SpreadWords
from .events import Finished, MembersChanged, Problem, RoundStarted, Waiting
from .gathering import Gathering
from .judging import View, cannot_take
from .ledger import Closed
from .members import Change, Electorate, described
from .open_round import OpenRound
from .patience import timeouts
from .place import Phase, Place
from .pool import Pool
from .records import Head, Offered, Standing
from .roster import Roster
from .spec import Spec
from .standing_apart import torn
from .taking_care import TakingCare
from .words import Words

SILENT_SPANS = 2  # of a proposer's silence; fewer: who changes its network is suspended and comes back at once
HASTY_MAX = 16  # records one after the other that take nothing, because members leave: more could outrun all work
JOIN_AGAIN_ROUNDS = 32  # after which a newcomer asks anew: what it asked for grows old (admission.py)


class Course:
    """One member's; see the module's text."""

    def __init__(
        self,
        spec: Spec,
        swarm: bytes,
        roster: Roster,
        place: Place,
        standing: Standing,
        admits: Callable[[Position], Admits],
        verify: Verify = verify,
    ) -> None:
        self.spec = spec
        self._swarm = swarm
        self._me = roster.me
        self._roster = roster
        self._agreement = place.agreement
        self._agreement.wait_for(lambda peer: peer == roster.me or peer in roster.present())
        self.ledger = place.ledger
        self._admits = admits
        self._verify = verify
        self.standing = standing
        self.head = place.head
        self.phase = Phase.WAITING
        self.pool = Pool(2 * spec.stale_rounds_max + 3, can_check=standing is not Standing.STORAGE)
        self.words = Words(swarm, spec.members_max, self._lets_in, verify)
        self._deliberation = Deliberation(place.agreement, self.words, self._view)
        self._compacting = Compacting(spec.store_rounds)
        self._open = OpenRound(self._base, frozenset(place.contributors))
        self.closed_at: float | None = None  # when the newest record was known here; None: before this run
        self._taking_round = self.head.round  # the newest that took contributions
        self._gathering = Gathering(spec.members_start, spec.silence_s)
        self._catching_up = CatchingUp(spec.grace_s + spec.silence_s, can_apply=standing is not Standing.STORAGE)
        self._start_digest = place.start_digest
        self._closed_with: object = None  # what a record was last offered for
        self._waiting_for = ""
        self._trusted: bytes | None = None  # a record to be proved before anything else
        self._is_leaving = False
        self._care = TakingCare(roster.me, place.agreement)
        self._make_join: Callable[[int], Change | str] = lambda _: "nobody has said how"
        self._asked_at = -1

    @property
    def round(self) -> int:
        """The open one."""
        return self._agreement.round

    @property
    def position(self) -> Position:
        """Where the log stands."""
        return self._agreement.position

    @property
    def electorate(self) -> Electorate:
        return self._agreement.position.electorate

    def voters(self, round: int) -> Electorate:
        """Of a round at hand, else of the one that is voted on."""
        closed = self.ledger.closed(round)
        return self.electorate if closed is None else closed.voters

    # What follows from where this member stands.

    def deadline(self, now: float) -> float:
        """When to call `look` even if nothing happens."""
        if self.phase is Phase.FINISHED:
            return float("inf")  # `look` has nothing to do: woken for what is overdue, it would be woken at once again
        patience_s = SILENT_SPANS * self.spec.silence_s
        deadlines = [self._roster.doubt_ends_at(now), self._catching_up.deadline(now)]
        deadlines.append(self._roster.next_gone_at(now, patience_s))
        is_hearing = self._gathering.is_hearing(now, self._roster)
        if self.phase is Phase.WAITING or is_hearing:
            deadlines.append(self._gathering.deadline(now))
        if not is_hearing:
            deadlines.append(self._deliberation.deadline(now))
        overdue_at = self._open.overdue_at(self.spec)
        if self.phase is Phase.OPEN and overdue_at > now:
            deadlines.append(overdue_at)
        return min(deadlines)

    def look(self, now: float) -> list[Effect]:
        """Something changed, or time passed: the connected members, their heads, the deadline."""
        self._roster.seat(self.electorate.by_member.keys())
        if self.phase is Phase.FINISHED:
            return []
        effects: list[Effect] = []
        if self._trusted is not None:
            effects += self._wait("for a member that shows the way from the record that the invite names")
        elif not self._gathering.is_hearing(now, self._roster):
            effects += [*self._deliberation.look(now), *self._closed(now)]
            effects += [*self._ask_in(), *self._mark()]
        newest = -1
        while newest < self.ledger.newest:  # whoever is alone ends rounds by looking
            newest = self.ledger.newest
            effects += self._catch_up(now)
            if self.phase is Phase.WAITING and self._is_current:
                effects += self._start(now)
            if self.phase is Phase.OPEN:
                effects += [*self._work(now), *self._close(now)]
        return effects

    @property
    def _is_current(self) -> bool:
        return self.head.round == self.ledger.newest and not self._is_startless and self._trusted is None

    @property
    def _base(self) -> Head:
        """What contributions from this member's state start from: the round that made it. From a later one, which took
        nothing, they would count as if from another state, once more.
        """
        round = self.ledger.first_of(self.head.round)
        return Head(round, self.ledger.hash_at(round) or self.head.record, self.head.digest)

    @property
    def _is_startless(self) -> bool:
        """Whether this member has yet to get the state that the swarm starts from."""
        return self.head.round == 0 and self._start_digest not in (None, self.head.digest)

    @property
    def _comers(self) -> Set[PeerId]:
        """The members, and who may be let in by the next record."""
        return self.electorate.by_member.keys() | self.words.joining(self.position)

    @property
    def _is_below_quorum(self) -> bool:
        return not self.electorate.is_quorum({*self._roster.present(), self._me})

    def _view(self, now: float) -> View:
        others = (PeerId(seat.member) for seat in self.electorate.seats if seat.votes and seat.member != self._me)
        silent = self._roster.gone(now, others, SILENT_SPANS * self.spec.silence_s)
        stood_on = self.spec, self._swarm, self._me, self.head, self.ledger, self.pool
        return View(*stood_on, self.position, self._lets_in, silent, self._compacting, self._verify)

    def _shares(self, record: bytes) -> tuple[Share, ...]:
        """What a record takes that this member judges, or is about to apply."""
        following = self.ledger.closed(self.head.round + 1)
        if following is not None and following.hash == record:
            return following.record.taken
        return self._deliberation.shares(record)

    def _lets_in(self, position: Position) -> Admits:
        """Who is let in: not by what it said before it left, which anybody may repeat."""
        admits = self._admits(position)

        def lets_in(member: PeerId, admission: bytes) -> int | None:
            round = asked_at(admission)
            has_left = round is not None and self.ledger.has_left_since(member, round)
            return None if has_left else admits(member, admission)

        return lets_in

    def _closed(self, now: float) -> list[Effect]:
        """Take note of the rounds that have ended."""
        effects: list[Effect] = []
        closed, self._deliberation.closed = self._deliberation.closed, []
        for each in closed:
            self.ledger.add(each)
            if each.record.taken:
                self._taking_round = each.record.round
            if each.record.changes:
                said = tuple(described(change) for change in each.record.changes)
                effects.append(Observe(MembersChanged(each.record.round, said, self.electorate.total)))
            self._compacting.agreed(each.record.mark)
            if each.record.mark is not None:
                effects.append(AdoptStore(each.record.mark))
        if closed:
            self._closed_with = None
            self.closed_at = now
            if self.phase is Phase.OPEN:
                self.phase = Phase.WAITING
        return effects

    def _mark(self) -> list[Effect]:
        """When it is time, and this member's turn."""
        if not self._agreement.is_first_turn or not self._compacting.asks(self.position):
            return []
        return [MarkStore(self.round, self._compacting.writers(self.position))]

    def _ask_in(self) -> list[Effect]:
        """Ask to be a member, and again when that has grown old."""
        if self._me in self.electorate.by_member or self.standing is Standing.STORAGE or self._is_leaving:
            return []
        newest = self.ledger.newest
        if 0 <= self._asked_at > newest - JOIN_AGAIN_ROUNDS or self.electorate.is_barred(self._me):
            return []
        self._asked_at = newest
        change = self._make_join(newest)
        if isinstance(change, str):
            return [Observe(Problem(f"this node is not let in: {change}"))]
        self.words.hear(self.position, change)
        return [SpreadWords((change,))]

    def _catch_up(self, now: float) -> list[Effect]:
        """Get to the log's end, and to the state of its newest record."""
        told = self._roster.heads(now)
        self._deliberation.asks -= self._roster.doubted(now)
        effects = self._catching_up.log(now, self.position, self._trusted, told, self._deliberation.asks)
        effects += [Recovered()] if self._care.is_over(told, self.ledger.newest) else []
        if self.phase is Phase.APPLYING:
            return effects
        following = self.ledger.closed(self.head.round + 1)
        if following is not None and following.record.base_digest == self.head.digest and not self._is_startless:
            apply = self._apply(following)
            if apply is not None:
                return [*effects, apply]
        other_state = self._deliberation.other_state
        if not self._is_current or other_state is not None:
            effects += self._catching_up.state(now, self._view(now), following, other_state, told)
        return effects

    def _apply(self, following: Closed) -> ApplyRecord | None:
        """The next record, if all that it took is here."""
        if self.standing is Standing.STORAGE:
            return None
        offers = [self.pool.get(share.contribution) for share in following.record.taken]
        held = tuple(offered for offered in offers if offered is not None and self.pool.is_held(offered.hash))
        if len(held) < len(offers):
            return None
        newest = following.record.round - 1
        if any(self.ledger.staleness(share.base_round, newest) is None for share in following.record.taken):
            self._catching_up.close_way_by_records()  # what it weighs, this member came too late to know
            return None
        self.phase = Phase.APPLYING
        return ApplyRecord(following, held)

    def _start(self, now: float) -> list[Effect]:
        """Open the round for work, unless others are missing."""
        if self.spec.rounds_max and self.head.round >= self.spec.rounds_max:
            self.phase = Phase.FINISHED
            return [Observe(Finished(self.head.round)), AnnounceHeld()]
        if self.standing is Standing.STORAGE:
            return []
        if self._gathering.is_hearing(now, self._roster):
            return self._wait("hearing where the other members stand")
        told = self._roster.heads(now)
        ahead = {peer for head, peers in told.items() if head.round > self.ledger.newest for peer in peers}
        if 2 * len(ahead) > len(self._roster.connected()):  # fewer, who may lie, stop nobody
            return self._wait("catching up with the other members")
        if self.electorate.is_barred(self._me):
            return self._wait("the members have removed this node from the swarm")
        count = len(self._roster.trainers()) + (self.standing is Standing.TRAINER)
        absent = self._gathering.missing(now, count) if self.head.round == 0 else None
        if absent is not None:
            return self._wait(absent)
        self.phase = Phase.OPEN
        if self._open.started_at is not None:
            return []  # the record in between took nothing
        self._open.begin(now)
        self._waiting_for = ""
        return [Observe(RoundStarted(self.round)), AnnounceHeld()]

    def _work(self, now: float) -> list[Effect]:
        if self.standing is not Standing.TRAINER:
            return []
        return self._open.work(now, self._view(now), self._roster, is_paused=self._is_below_quorum)

    def _close(self, now: float) -> list[Effect]:
        """Agree on what is here, once the round may close; at once, if somebody leaves."""
        view, comers = self._view(now), self._comers
        standings = self._open.standings(view, self._roster, self.standing, comers)
        offers: list[Offered] = []
        differ = torn(self.head, self._roster.heads(now), self.electorate, self._roster)
        if differ is not None:
            return self._wait(differ)
        late = missing(now, standings)
        if late is None:
            offers = self._open.offers(view, self._roster, comers)
            late = unspread(now, standings, {offered.member for offered in offers})
        if late is None:
            return [*self._pause(), *self._deliberate(now, view, offers)]
        is_hasty = self.ledger.newest - self._taking_round >= HASTY_MAX and now < standings.overdue_at
        if self.words.is_anybody_leaving(self.position) and not is_hasty:
            return self._deliberate(now, view, [])
        if now >= standings.overdue_at and not self._is_below_quorum:
            return self._wait(f"round {self.round}: {late}")
        return self._pause()

    def _deliberate(self, now: float, view: View, offers: list[Offered]) -> list[Effect]:
        mark, taken = self._compacting.proposal(self.round), tuple(offered.hash for offered in offers)
        known = self.pool.version, self.words.version, view.silent, taken, mark is not None
        if known == self._closed_with:
            return []
        self._closed_with = known
        sizes = (offered.payload_bytes for offered in offers if offered.ref is not None)
        self._agreement.be_patient(timeouts(self.spec, max(sizes, default=0), self._roster.rates()))
        return [*self._deliberation.close(now, offers), *self._closed(now)]

    def _pause(self) -> list[Effect]:
        """Say so if there is no quorum."""
        if not self._is_below_quorum:
            return []
        here = self.electorate.count({*self._roster.present(), self._me})
        text = f"{here} of {self.electorate.total} votes are connected, too few to agree; this member trains on"
        return self._wait(f"round {self.round} is paused: {text}")

    def _wait(self, reason: str) -> list[Effect]:
        """Say why nothing goes on, once."""
        if reason == self._waiting_for:
            return []
        self._waiting_for = reason
        return [Observe(Waiting(reason))]

    def _hold(self, now: float, offered: Offered) -> list[Effect]:
        self.pool.hold(offered)
        announce: list[Effect] = [AnnounceHeld()] if offered.ref is not None else []
        return [*announce, *self.look(now)]

    def _stand_at(self, now: float, head: Head, closed: Closed | None) -> list[Effect]:
        """A new head: the next round."""
        base_moved = closed is None or bool(closed.record.taken) or head.digest != self.head.digest
        self.head = head
        self.phase = Phase.WAITING
        if base_moved:
            taken = (
                self._open.contributors if closed is None else {PeerId(share.member) for share in closed.record.taken}
            )
            self._open = OpenRound(self._base, frozenset(taken))
        self._catching_up.arrived()
        self._gathering.hear_out(now, ())  # this is where the swarm stands
        self._deliberation.other_state = None
        why_not = self._why_not_needed(now)
        self.pool.keep(lambda offered: why_not(offered) is None)
        return self.look(now)

    def _is_known(self, offered: Offered) -> bool:
        """Whether its author is still somebody here: whoever comes under ever new keys would fill all memory."""
        member = offered.member
        return member == self._me or member in self.electorate.by_member or self._roster.is_member(member)

    def _why_not_needed(self, now: float) -> Callable[[Offered], str | None]:
        """Why no record may take it, nor has taken it and is to be applied."""
        view, newest = self._view(now), self.ledger.newest
        taken = {share.contribution for record in self._records_ahead(now) for share in record.taken}

        def why_not(offered: Offered) -> str | None:
            ahead = offered.contribution.base_round - newest
            is_early = ahead > 0 or (ahead == 0 and not self._is_current)
            return None if is_early or offered.hash in taken else cannot_take(view, offered)

        return why_not

    def _records_ahead(self, now: float) -> list[AgreedRecord]:
        """To be applied: after this member's head; where records in between are not known, after the checkpoint that
        others have to give.
        """
        since = self.head.round
        if since < self.ledger.newest and self.ledger.closed(since + 1) is None:
            since = max((head.round for head in self._roster.heads(now)), default=since)
        later = range(since + 1, self.ledger.newest + 1)
        return [closed.record for round in later if (closed := self.ledger.closed(round)) is not None]
