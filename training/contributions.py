"""What becomes of a contribution as one member knows it: heard, fetched, checked, held, and let go. No I/O.

What a peer may send, and what it cannot achieve, stands in rounds.py; what a next record may take in judging.py.
"""

from collections.abc import Callable, Iterable

from .agreed import AgreedRecord, Share
from .course import Course
from .effects import AnnounceHeld, CheckPayload, Effect, Observe
from .events import Problem
from .judging import cannot_take, share_of
from .records import Offered, Standing
from .situation import Situation
from .soundness import base_of, contribution_fault


class Contributions:
    """One member's dealings with them. Whatever changes, `course` looks what follows."""

    def __init__(self, situation: Situation, course: Course) -> None:
        self._situation = situation
        self._course = course

    def heard(self, now: float, offered: Offered) -> list[Effect] | str:
        """One arrived, by whatever way."""
        here = self._situation
        if offered.member == here.me or not here.roster.is_member(offered.member):
            return "the contributor is not another member"
        if offered.member not in here.comers:
            return "the contributor is no member of the swarm, and does not ask to be one"
        fault = contribution_fault(here.spec, offered)
        if fault is not None:
            return fault
        base = base_of(offered)
        here.roster.tell(offered.member, base)
        if base.round > here.ledger.newest + 1:
            return self._course.look(now)  # its author is far ahead: that is worth following
        fault = self._why_not_needed(now)(offered)
        if fault is not None:
            return self._course.look(now) or fault  # that its author stands elsewhere may matter
        if base.round == 0:
            here.gathering.hear_start(now)
        if here.pool.members_count >= 2 * here.spec.members_max:  # the roster's and the electorate's
            here.pool.keep(self._is_known)
        known = here.pool.hear(offered)
        return known if isinstance(known, str) else [*known, *self._course.look(now)]

    def contributed(self, now: float, offered: Offered, *, is_here: bool) -> list[Effect] | str:
        """This member's own is made, or found again after a restart.

        Args:
            is_here: whether its payload is, too. Where the disk has lost it the others may have it: no second one is
                made in its place, and nobody waits for this one.
        """
        here = self._situation
        is_fresh = base_of(offered) == here.open.base
        here.open.worked(has_contributed=is_fresh)
        if offered.contribution.base_round <= here.head.round and here.is_current:
            fault = cannot_take(here.view(now), offered)
            if fault is not None:
                return fault
        here.open.is_idle = not is_here if is_fresh else here.open.is_idle  # it may have failed before
        if not is_here:
            return [*here.pool.take_in(offered), *self._course.look(now)]
        here.pool.hold(offered)
        return self._course.look(now)

    def fetched(self, now: float, offered: Offered) -> list[Effect]:
        """The end of a FetchPayload."""
        if self._situation.pool.get(offered.hash) is not offered:
            return []
        if self._situation.standing is Standing.STORAGE:
            return self._hold(now, offered)  # it has no method to check with; those who apply do
        return [CheckPayload(offered)]

    def checked(self, now: float, offered: Offered, wrong: str | None) -> list[Effect]:
        """The end of a CheckPayload."""
        if self._situation.pool.get(offered.hash) is not offered:
            return []
        if wrong is None:
            return self._hold(now, offered)
        self._situation.pool.refuse(offered)
        text = f"the contribution of {offered.member} to round {offered.round} is refused: {wrong}"
        return [Observe(Problem(text)), *self._course.look(now)]

    def lost(self, offered: Offered) -> list[Effect]:
        """Its payload has gone from the disk, for which its author is not to blame."""
        pool = self._situation.pool
        if pool.get(offered.hash) is not offered:
            return []
        pool.drop(offered)
        return pool.take_in(offered)

    def collected(self, now: float, record: bytes, missing: Iterable[bytes], offers: Iterable[Offered]) -> list[Effect]:
        """The end of a Collect: what was found."""
        here = self._situation
        wanted, effects = set(missing), list[Effect]()
        shares = {share.contribution: share for share in self._shares(record)}
        for offered in offers:
            is_named = offered.hash in wanted and shares.get(offered.hash) == share_of(offered)
            if is_named and contribution_fault(here.spec, offered) is None:
                wanted.discard(offered.hash)
                effects += here.pool.take_in(offered)
        following = here.following
        if wanted and following is not None and following.hash == record:
            here.catching_up.close_way_by_records()
        return [*effects, *self._course.look(now)]

    def let_go(self, now: float) -> None:
        """What can be of no use any more."""
        why_not = self._why_not_needed(now)
        self._situation.pool.keep(lambda offered: why_not(offered) is None)

    def _hold(self, now: float, offered: Offered) -> list[Effect]:
        self._situation.pool.hold(offered)
        announce: list[Effect] = [AnnounceHeld()] if offered.ref is not None else []
        return [*announce, *self._course.look(now)]

    def _shares(self, record: bytes) -> tuple[Share, ...]:
        """What a record takes that this member judges, or is about to apply."""
        following = self._situation.following
        if following is not None and following.hash == record:
            return following.record.taken
        return self._situation.deliberation.shares(record)

    def _is_known(self, offered: Offered) -> bool:
        """Whether its author is still somebody here: whoever comes under ever new keys would fill all memory."""
        here, member = self._situation, offered.member
        return member == here.me or member in here.electorate.by_member or here.roster.is_member(member)

    def _why_not_needed(self, now: float) -> Callable[[Offered], str | None]:
        """Why no record may take it, nor has taken it and is to be applied."""
        here = self._situation
        view, newest = here.view(now), here.ledger.newest
        taken = {share.contribution for record in self._records_ahead(now) for share in record.taken}

        def why_not(offered: Offered) -> str | None:
            ahead = offered.contribution.base_round - newest
            is_early = ahead > 0 or (ahead == 0 and not here.is_current)
            return None if is_early or offered.hash in taken else cannot_take(view, offered)

        return why_not

    def _records_ahead(self, now: float) -> list[AgreedRecord]:
        """To be applied: after this member's head; where records in between are not known, after the checkpoint that
        others have to give.
        """
        here = self._situation
        since = here.head.round
        if since < here.ledger.newest and here.ledger.closed(since + 1) is None:
            since = max((head.round for head in here.roster.heads(now)), default=since)
        later = range(since + 1, here.ledger.newest + 1)
        return [closed.record for round in later if (closed := here.ledger.closed(round)) is not None]
