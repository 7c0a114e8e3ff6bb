"""What one member does next, from where it stands: catching up, opening a round, and closing it. No I/O.

`look` goes by all that is known and may be called at any time: nothing depends on the order in which things were heard.
What a peer may send, and what it cannot achieve, stands in rounds.py.
"""

from .asking_in import AskingIn
from .closing import missing, unspread
from .effects import AdoptStore, AnnounceHeld, ApplyRecord, Effect, MarkStore, Observe, Recovered
from .events import Finished, MembersChanged, RoundStarted, Waiting
from .judging import View
from .ledger import Closed
from .members import described
from .patience import timeouts
from .place import Phase
from .records import Offered, Standing
from .situation import SILENT_SPANS, Situation
from .standing_apart import torn
from .taking_care import TakingCare

HASTY_MAX = 16  # records one after the other that take nothing, because members leave: more could outrun all work


class Course:
    """One member's; see the module's text."""

    def __init__(self, situation: Situation, asking: AskingIn, care: TakingCare) -> None:
        self._situation = situation
        self._asking = asking
        self._care = care
        self._closed_with: object = None  # what a record was last offered for
        self._waiting_for = ""

    def deadline(self, now: float) -> float:
        """When to call `look` even if nothing happens."""
        here = self._situation
        if here.phase is Phase.FINISHED:
            return float("inf")  # `look` has nothing to do: woken for what is overdue, it would be woken at once again
        patience_s = SILENT_SPANS * here.spec.silence_s
        deadlines = [here.roster.doubt_ends_at(now), here.catching_up.deadline(now)]
        deadlines.append(here.roster.next_gone_at(now, patience_s))
        is_hearing = here.is_hearing(now)
        if here.phase is Phase.WAITING or is_hearing:
            deadlines.append(here.gathering.deadline(now))
        if not is_hearing:
            deadlines.append(here.deliberation.deadline(now))
        overdue_at = here.open.overdue_at(here.spec)
        if here.phase is Phase.OPEN and overdue_at > now:
            deadlines.append(overdue_at)
        return min(deadlines)

    def look(self, now: float) -> list[Effect]:
        """Something changed, or time passed: the connected members, their heads, the deadline."""
        here = self._situation
        here.roster.seat(here.electorate.by_member.keys())
        if here.phase is Phase.FINISHED:
            return []
        effects: list[Effect] = []
        if here.trusted is not None:
            effects += self._wait("for a member that shows the way from the record that the invite names")
        elif not here.is_hearing(now):
            effects += [*here.deliberation.look(now), *self.note_closed(now)]
            effects += [*self._asking.look(), *self._mark()]
        newest = -1
        while newest < here.ledger.newest:  # whoever is alone ends rounds by looking
            newest = here.ledger.newest
            effects += self._catch_up(now)
            if here.phase is Phase.WAITING and here.is_current:
                effects += self._start(now)
            if here.phase is Phase.OPEN:
                effects += [*self._work(now), *self._close(now)]
        return effects

    def note_closed(self, now: float) -> list[Effect]:
        """Take note of the rounds that have ended."""
        here = self._situation
        effects: list[Effect] = []
        closed, here.deliberation.closed = here.deliberation.closed, []
        for each in closed:
            here.ledger.add(each)
            if each.record.taken:
                here.taking_round = each.record.round
                here.note_late(now, each)
            if each.record.changes:
                said = tuple(described(change) for change in each.record.changes)
                effects.append(Observe(MembersChanged(each.record.round, said, here.electorate.total)))
            here.compacting.agreed(each.record.mark)
            if each.record.mark is not None:
                effects.append(AdoptStore(each.record.mark))
        if closed:
            self._closed_with = None
            here.closed_at = now
            here.pause()
        return effects

    def _mark(self) -> list[Effect]:
        """When it is time, and this member's turn."""
        here = self._situation
        if not here.agreement.is_first_turn or not here.compacting.asks(here.position):
            return []
        return [MarkStore(here.round, here.compacting.writers(here.position))]

    def _catch_up(self, now: float) -> list[Effect]:
        """Get to the log's end, and to the state of its newest record."""
        here = self._situation
        told = here.roster.heads(now)
        here.deliberation.asks -= here.roster.doubted(now)
        effects = here.catching_up.log(now, here.position, here.trusted, told, here.deliberation.asks)
        effects += [Recovered()] if self._care.is_over(told, here.ledger.newest) else []
        if here.phase is Phase.APPLYING:
            return effects
        following = here.following
        if following is not None and following.record.base_digest == here.head.digest and not here.is_startless:
            apply = self._apply(following)
            if apply is not None:
                return [*effects, apply]
        other_state = here.deliberation.other_state
        if not here.is_current or other_state is not None:
            effects += here.catching_up.state(now, here.view(now), following, other_state, told)
        return effects

    def _apply(self, following: Closed) -> ApplyRecord | None:
        """The next record, if all that it took is here."""
        here = self._situation
        if here.standing is Standing.STORAGE:
            return None
        offers = [here.pool.get(share.contribution) for share in following.record.taken]
        held = tuple(offered for offered in offers if offered is not None and here.pool.is_held(offered.hash))
        if len(held) < len(offers):
            return None
        newest = following.record.round - 1
        if any(here.ledger.staleness(share.base_round, newest) is None for share in following.record.taken):
            here.catching_up.close_way_by_records()  # what it weighs, this member came too late to know
            return None
        here.phase = Phase.APPLYING
        return ApplyRecord(following, held)

    def _start(self, now: float) -> list[Effect]:
        """Open the round for work, unless others are missing."""
        here = self._situation
        if here.spec.rounds_max and here.head.round >= here.spec.rounds_max:
            here.phase = Phase.FINISHED
            return [Observe(Finished(here.head.round)), AnnounceHeld()]
        if here.standing is Standing.STORAGE:
            return []
        if here.is_hearing(now):
            return self._wait("hearing where the other members stand")
        told = here.roster.heads(now)
        ahead = {peer for head, peers in told.items() if head.round > here.ledger.newest for peer in peers}
        if 2 * len(ahead) > len(here.roster.connected()):  # fewer, who may lie, stop nobody
            return self._wait("catching up with the other members")
        if here.electorate.is_barred(here.me):
            return self._wait("the members have removed this node from the swarm")
        count = len(here.roster.trainers()) + (here.standing is Standing.TRAINER)
        absent = here.gathering.missing(now, count) if here.head.round == 0 else None
        if absent is not None:
            return self._wait(absent)
        here.phase = Phase.OPEN
        if here.open.started_at is not None:
            return []  # the record in between took nothing
        here.open.begin(now)
        self._waiting_for = ""
        return [Observe(RoundStarted(here.round)), AnnounceHeld()]

    def _work(self, now: float) -> list[Effect]:
        here = self._situation
        if here.standing is not Standing.TRAINER or here.position.is_banned(here.me):
            return []
        return here.open.work(now, here.view(now), here.roster, is_paused=here.is_below_quorum)

    def _close(self, now: float) -> list[Effect]:
        """Agree on what is here, once the round may close; at once, if somebody leaves."""
        here = self._situation
        view, comers = here.view(now), here.comers
        standings = here.open.standings(view, here.roster, here.standing, comers, here.late)
        offers: list[Offered] = []
        differ = torn(here.head, here.roster.heads(now), here.electorate, here.roster)
        if differ is not None:
            return self._wait(differ)
        late = missing(now, standings)
        if late is None:
            offers = here.open.offers(view, here.roster, comers)
            late = unspread(now, standings, {offered.member for offered in offers})
        if late is None:
            return [*self._pause(), *self._deliberate(now, view, offers)]
        is_hasty = here.ledger.newest - here.taking_round >= HASTY_MAX and now < standings.overdue_at
        if here.words.is_anybody_leaving(here.position) and not is_hasty:
            return self._deliberate(now, view, [])
        if now >= standings.overdue_at and not here.is_below_quorum:
            return self._wait(f"round {here.round}: {late}")
        return self._pause()

    def _deliberate(self, now: float, view: View, offers: list[Offered]) -> list[Effect]:
        here = self._situation
        mark, taken = here.compacting.proposal(here.round), tuple(offered.hash for offered in offers)
        known = here.pool.version, here.words.version, view.silent, taken, mark is not None
        if known == self._closed_with:
            return []
        self._closed_with = known
        sizes = (offered.payload_bytes for offered in offers if offered.ref is not None)
        here.agreement.be_patient(timeouts(here.spec, max(sizes, default=0), here.roster.rates()))
        return [*here.deliberation.close(now, offers), *self.note_closed(now)]

    def _pause(self) -> list[Effect]:
        """Say so if there is no quorum."""
        here = self._situation
        if not here.is_below_quorum:
            return []
        count = here.electorate.count({*here.roster.present(), here.me})
        text = f"{count} of {here.electorate.total} votes are connected, too few to agree; this member trains on"
        return self._wait(f"round {here.round} is paused: {text}")

    def _wait(self, reason: str) -> list[Effect]:
        """Say why nothing goes on, once."""
        if reason == self._waiting_for:
            return []
        self._waiting_for = reason
        return [Observe(Waiting(reason))]
