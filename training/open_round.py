"""The round after a head, as one member sees it: what is heard and held, what is proposed, who is waited for and when
it closes. Which round that is, and when another head is better, stands in rounds.py.
"""

from collections.abc import Iterable

from shoal.transport.port import PeerId

from .agreement import Closing, Propose, Standings, Wait
from .effects import ApplyRecord, Collect, Effect, Train
from .offers import Offers
from .proposals import Proposals
from .records import Head, Offered, Proposed, Record, Standing, Taken
from .roster import Roster
from .soundness import contribution_fault, record_fault, starts_from
from .spec import Spec


class OpenRound:
    """Of one member; a new one for each head that it stands at.

    Args:
        contributors: to the record of the head.
        can_check: whether contributions are checked here: not by a storage member.
    """

    def __init__(
        self, spec: Spec, me: PeerId, head: Head, contributors: frozenset[PeerId], closing: Closing, *, can_check: bool
    ) -> None:
        self._spec = spec
        self._me = me
        self._head = head
        self._contributors = contributors
        self._closing = closing
        self.offers = Offers(can_check)
        self.proposals = Proposals(spec.members_max)
        self.started_at: float | None = None
        self.has_work = False  # this member's part is asked for or done
        self.is_idle = False  # this member has nothing to contribute
        self.close_at = float("inf")  # when `close` may have something to do

    def deadline(self) -> float:
        """When a proposal expires, or the round may close."""
        return min(self.close_at, self.proposals.deadline())

    def has_contributed(self) -> bool:
        """Whether this member's contribution is made."""
        return self.offers.first_of(self._me) is not None

    def begin(self, now: float) -> None:
        """Work may start."""
        self.started_at = now

    def work(self, roster: Roster, standing: Standing) -> list[Effect]:
        """Ask for this member's part, once."""
        if self.has_work or standing is not Standing.TRAINER or self.started_at is None:
            return []
        self.has_work = True
        others = self._contributors if self._head.round else roster.trainers()
        members = tuple(sorted({*others, self._me}))
        return [Train(self._head.round + 1, members, self.started_at + self._spec.round_s)]

    def consider(self, now: float, proposed: Proposed) -> list[Effect] | str:
        """Wait for what a proposal takes; or why it is of no use."""
        if (fault := self.fault(proposed.record)) is not None:
            return fault
        refused = self.proposals.add(proposed, now + self._spec.grace_s + self._spec.silence_s)
        if refused is not None:
            return refused
        hashes = (taken.contribution for taken in proposed.record.taken)
        missing = tuple(hash for hash in hashes if self.offers.get(hash) is None)
        return [Collect(proposed, missing)] if missing else []

    def fault(self, record: Record) -> str | None:
        """Why this record cannot end the round; None if it can."""
        fault = record_fault(self._spec, self._head, record)
        if fault is None and any(self.offers.is_refused(taken.contribution) for taken in record.taken):
            return "it takes a contribution that is refused here"
        return fault

    def collect(self, proposed: Proposed, offers: Iterable[Offered]) -> list[Effect] | None:
        """Take in what was found for a proposal; None if that is given up, because some of it is nowhere."""
        wanted = {taken.contribution: taken.member for taken in proposed.record.taken}
        effects: list[Effect] = []
        for offered in offers:
            is_wanted = wanted.get(offered.hash) == offered.member
            if is_wanted and contribution_fault(self._spec, offered) is None and starts_from(self._head, offered):
                effects += self.offers.take_in(offered)
        if any(self.offers.get(hash) is None for hash in wanted):
            self.proposals.drop(proposed)
            return None
        return effects

    def complete(self) -> ApplyRecord | None:
        """A proposal all of which is held: of several the same on all members."""
        for proposed in self.proposals.in_order():
            if all(self.offers.is_held(taken.contribution) for taken in proposed.record.taken):
                offers = (self.offers.get(taken.contribution) for taken in proposed.record.taken)
                return ApplyRecord(proposed, tuple(offered for offered in offers if offered is not None))
        return None

    def close(self, now: float, roster: Roster, standing: Standing) -> Record | str:
        """The record to propose, if it is this member's turn; or, if members are missing, who; else an empty text."""
        self.close_at = float("inf")
        if self.proposals.hashes():
            return ""
        standings = self._standings(roster, standing)
        decision = self._closing.decide(now, standings)
        if isinstance(decision, Propose):
            held = self.offers.held_by_member()
            taken = tuple(Taken(peer, hash) for peer, hash in sorted(held.items()))[: self._spec.members_max]
            return Record(self._head.record, self._head.round + 1, self._head.digest, taken)
        return self._wait(decision, len(standings.held), now >= standings.overdue_at)

    def _wait(self, decision: Wait, held_count: int, is_overdue: bool) -> str:
        self.close_at = decision.until
        is_short = held_count < self._spec.members_min and is_overdue
        return f"round {self._head.round + 1}: {decision.reason}" if is_short else ""

    def _standings(self, roster: Roster, standing: Standing) -> Standings:
        expected = roster.at_work(self._head, self._contributors)
        if standing is Standing.TRAINER and not self.is_idle:
            expected.add(self._me)
        awaited_min = self._spec.members_min if self._head.round else self._spec.members_start
        span_s = self._spec.round_s + self._spec.grace_s
        overdue_at = float("inf") if self.started_at is None else self.started_at + span_s
        return Standings(expected, self.offers.held_by_member().keys(), awaited_min, overdue_at)
