"""What comes of catching up: the log goes on, this member has a new state, or it doubts who led it nowhere. No I/O.

What is asked for, and when, stands in catching_up.py and course.py.
"""

from collections.abc import Iterable

from shoal.transport.port import PeerId

from .agreed import Position
from .contributions import Contributions
from .course import Course
from .effects import AdoptStore, Effect, KeepLeap
from .evidence import Evidence
from .ledger import Closed
from .place import Phase
from .records import Head, Offered
from .situation import Situation
from .skipping import Proof
from .votes import Decided


class Arriving:
    """Of one member. Every method but `record_told` is the end of something that was asked for."""

    def __init__(self, situation: Situation, course: Course, contributions: Contributions) -> None:
        self._situation = situation
        self._course = course
        self._contributions = contributions

    def record_told(self, now: float, peer: PeerId, decided: Decided) -> list[Effect]:
        """A part of what an AskLog brings."""
        return [*self._situation.deliberation.heard(now, peer, (decided,)), *self._course.note_closed(now)]

    def log_told(self, now: float, peer: PeerId, since: int) -> list[Effect]:
        """All that one has told, before which the newest round was `since`."""
        here = self._situation
        told = here.roster.head(peer)
        # Else it has come by another way meanwhile.
        if here.ledger.newest == since and (told is None or told.round > since):
            here.roster.doubt(peer, now)
        return self._course.look(now)

    def log_asked(self, now: float, since: int) -> list[Effect]:
        """All have told that were asked; before, the newest round was `since`."""
        here = self._situation
        here.catching_up.log_asked(now, is_news=here.ledger.newest > since)
        return self._course.look(now)

    def leapt(self, now: float, position: Position, proof: Proof, asked: Iterable[PeerId]) -> list[Effect]:
        """The log is proved to go on from there."""
        here = self._situation
        is_news = position.round > here.ledger.newest
        if not is_news and here.trusted is None:
            return self.not_proved(now, asked)
        here.catching_up.log_asked(now, is_news=True)
        here.trusted = None
        if not is_news:
            return self._course.look(now)
        adopt: list[Effect] = []
        if position.snapshot not in (None, here.position.snapshot):
            adopt.append(AdoptStore(position.snapshot))
        here.leap(position)
        return [KeepLeap(proof, position), *adopt, *self._course.look(now)]

    def not_proved(self, now: float, asked: Iterable[PeerId]) -> list[Effect]:
        """Others than those that were asked may know better."""
        here = self._situation
        here.catching_up.log_asked(now, is_news=False)
        for peer in asked:
            told = here.roster.head(peer)
            if here.trusted is not None or told is None or told.round > here.ledger.newest:
                here.roster.doubt(peer, now)
        return self._course.look(now)

    def adopted(self, now: float, head: Head, evidence: tuple[Evidence, ...] | None) -> list[Effect]:
        """The state at `head` has been fetched, and is this member's."""
        self._situation.catching_up.resynced(now, has_arrived=True)
        return self._stand_at(now, head, self._situation.ledger.closed(head.round), evidence)

    def resync_failed(self, now: float, holders: Iterable[PeerId]) -> list[Effect]:
        """The state was not to be had of these, who told its head."""
        self._situation.catching_up.resynced(now, has_arrived=False)
        for peer in holders:
            self._situation.roster.doubt(peer, now)
        return self._course.look(now)

    def applied(self, now: float, closed: Closed, digest: bytes, evidence: tuple[Evidence, ...] | None) -> list[Effect]:
        """The record is applied: the state after it has this digest."""
        return self._stand_at(now, Head(closed.record.round, closed.hash, digest), closed, evidence)

    def unapplied(self, now: float, offers: Iterable[Offered]) -> list[Effect]:
        """The record could not be applied: a payload is gone from the disk."""
        here = self._situation
        here.phase = Phase.WAITING
        for offered in offers:
            here.pool.drop(offered)
        here.catching_up.close_way_by_records()
        return self._course.look(now)

    def _stand_at(
        self, now: float, head: Head, closed: Closed | None, evidence: tuple[Evidence, ...] | None
    ) -> list[Effect]:
        self._situation.stand_at(now, head, closed, evidence)
        self._contributions.let_go(now)
        return self._course.look(now)
