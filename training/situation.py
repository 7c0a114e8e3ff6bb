"""Where one member stands in its swarm: all that its decisions about rounds go by. No I/O.

One object, which course.py, contributions.py, arriving.py, asking_in.py and rounds.py share: each goes by most of it.
What must change together changes in a method here; the rest is set by those whose matter it is.
"""

from collections.abc import Callable, Set

from shoal.transport.port import PeerId

from .admission import asked_at
from .agreed import Admits, Position
from .catching_up import CatchingUp
from .compacting import Compacting
from .deliberation import Deliberation
from .evidence import Evidence
from .gathering import Gathering
from .judging import View
from .ledger import Closed, Ledger
from .members import Electorate
from .open_round import OpenRound
from .place import Phase, Place
from .pool import Pool
from .records import Head, Standing
from .roster import Roster
from .spec import Spec
from .words import Words

LATE_MAX = 4  # lateness with which a member is still waited for
SILENT_SPANS = 2  # of a proposer's silence; fewer: who changes its network is suspended and comes back at once


class Situation:
    """One member's."""

    def __init__(
        self,
        spec: Spec,
        roster: Roster,
        place: Place,
        standing: Standing,
        admits: Callable[[Position], Admits],
    ) -> None:
        self.spec = spec
        self.me = roster.me
        self.roster = roster
        self.agreement = place.agreement
        self.agreement.wait_for(lambda peer: peer == roster.me or peer in roster.present())
        self.ledger = place.ledger
        self._admits = admits
        self.standing = standing
        self.head = place.head
        self.evidence = place.evidence
        self.phase = Phase.WAITING
        self.pool = Pool(2 * spec.stale_rounds_max + 3, can_check=standing is not Standing.STORAGE)
        self.words = Words(self.agreement.swarm, spec.members_max, self._lets_in, self.agreement.verify)
        self.deliberation = Deliberation(place.agreement, self.words, self.view)
        self.compacting = Compacting(spec.store_rounds)
        self.open = OpenRound(self._base, frozenset(place.contributors))
        self.closed_at: float | None = None  # when the newest record was known here; None: before this run
        self.taking_round = self.head.round  # the newest that took contributions
        self._late: dict[PeerId, int] = {}  # who was waited for in vain: twice as much as it was in time
        self.gathering = Gathering(spec.members_start, spec.silence_s)
        self.catching_up = CatchingUp(spec.grace_s + spec.silence_s, can_apply=standing is not Standing.STORAGE)
        self._start_digest = place.start_digest
        self.trusted: bytes | None = None  # a record to be proved before anything else

    @property
    def round(self) -> int:
        """The open one."""
        return self.agreement.round

    @property
    def position(self) -> Position:
        """Where the log stands."""
        return self.agreement.position

    @property
    def electorate(self) -> Electorate:
        return self.agreement.position.electorate

    def voters(self, round: int) -> Electorate:
        """Of a round at hand, else of the one that is voted on."""
        closed = self.ledger.closed(round)
        return self.electorate if closed is None else closed.voters

    @property
    def following(self) -> Closed | None:
        """The round after this member's head, if it has ended."""
        return self.ledger.closed(self.head.round + 1)

    @property
    def is_current(self) -> bool:
        """Whether this member has the state after the newest record."""
        return self.head.round == self.ledger.newest and not self.is_startless and self.trusted is None

    @property
    def is_startless(self) -> bool:
        """Whether this member has yet to get the state that the swarm starts from."""
        return self.head.round == 0 and self._start_digest not in (None, self.head.digest)

    @property
    def is_training(self) -> bool:
        """Whether this member makes contributions, and is not done."""
        return self.phase is not Phase.FINISHED and self.standing is Standing.TRAINER

    @property
    def comers(self) -> Set[PeerId]:
        """The members, and who may be let in by the next record."""
        return self.electorate.by_member.keys() | self.words.joining(self.position)

    @property
    def is_below_quorum(self) -> bool:
        return not self.electorate.is_quorum({*self.roster.present(), self.me})

    @property
    def late(self) -> Set[PeerId]:
        """For whom nobody waits any more, until it has been in time more often than not."""
        return {peer for peer, lateness in self._late.items() if lateness >= LATE_MAX}

    def note_late(self, now: float, closed: Closed) -> None:
        """A round has ended that took something: who was in, and for whom it took longer than it should."""
        taken = {PeerId(share.member) for share in closed.record.taken}
        is_long = self.open.started_at is not None and now >= self.open.started_at + self.spec.round_s
        missed = self.open.expected - taken - {self.me} if is_long else set[PeerId]()
        known = {*self._late, *missed} & self.electorate.by_member.keys()
        lateness = {peer: self._late.get(peer, 0) + (2 if peer in missed else -(peer in taken)) for peer in known}
        self._late = {peer: min(late, 2 * LATE_MAX) for peer, late in lateness.items() if late > 0}

    def is_hearing(self, now: float) -> bool:
        """Whether others have yet to say where they stand, before this member says or does anything."""
        return self.gathering.is_hearing(now, self.roster)

    def view(self, now: float) -> View:
        """What a next record may take, it goes by."""
        others = (PeerId(seat.member) for seat in self.electorate.seats if seat.votes and seat.member != self.me)
        silent = self.roster.gone(now, others, SILENT_SPANS * self.spec.silence_s)
        stood_on = self.spec, self.agreement.swarm, self.me, self.head, self.ledger, self.pool
        verify, evidence = self.agreement.verify, self.evidence
        return View(*stood_on, self.position, self._lets_in, silent, self.compacting, verify, evidence)

    def stand_at(self, now: float, head: Head, closed: Closed | None, evidence: tuple[Evidence, ...] | None) -> None:
        """A new head, which the round `closed` made, as far as that is known: the next round."""
        base_moved = closed is None or bool(closed.record.taken) or head.digest != self.head.digest
        self.head = head
        self.evidence = evidence
        self.phase = Phase.WAITING
        if base_moved:
            base = self._base
            self.open = OpenRound(base, self._contributors(base.round))
        self.catching_up.arrived()
        self.gathering.hear_out(now, ())  # this is where the swarm stands
        self.deliberation.other_state = None

    def leap(self, position: Position) -> None:
        """The log goes on from there."""
        self.deliberation.leap(position)
        self.ledger = Ledger(position, self._start_digest)
        self.pause()

    def pause(self) -> None:
        """The open round is not the next one any more."""
        if self.phase is Phase.OPEN:
            self.phase = Phase.WAITING

    def _contributors(self, round: int) -> frozenset[PeerId]:
        """To the round that made the state: all have to have the same, for shards are cut by it."""
        closed, position = self.ledger.closed(round), self.position
        if closed is not None:
            return frozenset(PeerId(share.member) for share in closed.record.taken)
        return frozenset(position.behaviour.members) if position.round == round else self.open.contributors

    @property
    def _base(self) -> Head:
        """What contributions from this member's state start from: the round that made it. From a later one, which took
        nothing, they would count as if from another state, once more.
        """
        round = self.ledger.first_of(self.head.round)
        return Head(round, self.ledger.hash_at(round) or self.head.record, self.head.digest)

    def _lets_in(self, position: Position) -> Admits:
        """Who is let in: not by what it said before it left, which anybody may repeat."""
        admits = self._admits(position)

        def lets_in(member: PeerId, admission: bytes) -> int | None:
            round = asked_at(admission)
            has_left = round is not None and self.ledger.has_left_since(member, round)
            return None if has_left else admits(member, admission)

        return lets_in
