"""The round, as one member lives it: events go in, effects come out. No clock, no network, no method.

A member stands at a head: the newest record it applied. The round after it is open: contributions that start from
that very record and state are heard, fetched, checked and held; a proposal of a set of them, once all of the set is
held, is applied and makes the next head. `Roster` says who is there and where they stand, `Closing` when this member
proposes.

A peer may send any contribution and proposal that its key can sign, of any round, any size, as many as it likes. It
cannot: be heard without being in the roster; take more room than one contribution for this round and one for the
next, and a proposal; be counted twice in a round; have a payload fetched that is larger than the spec allows; have a
set applied that is not whole, starts from another state, is below members_min or holds what the method's `check`
refused; stop a round by proposing what nobody has (a proposal that cannot be completed is given up). What a lying
proposer can do stands in agreement.py.
"""

import enum
from collections.abc import Callable, Iterable

from shoal.transport.port import PeerId

from .agreement import Closing
from .early import Early
from .effects import (
    AnnounceHeld,
    CheckPayload,
    Effect,
    Observe,
    ProposeRecord,
)
from .events import Finished, Problem, RoundStarted, Waiting
from .following import Following
from .gathering import Gathering
from .open_round import OpenRound
from .records import Head, Offered, Proposed, Record, Standing
from .roster import Roster
from .soundness import base_of, contribution_fault, starts_from
from .spec import Spec

EVIDENCE_MAX = 64  # equivocations kept; memory: 10 KB each


class Phase(enum.Enum):
    WAITING = "waiting"  # for members, or for another head
    OPEN = "open"
    APPLYING = "applying"
    FINISHED = "finished"


class Rounds:
    """See the module's text. Every method that takes `now` returns what is to be done, or why an input is of no use."""

    def __init__(
        self,
        spec: Spec,
        me: PeerId,
        roster: Roster,
        new_closing: Callable[[], Closing],
        standing: Standing,
        head: Head,
        contributors: tuple[PeerId, ...] = (),
        start_digest: bytes | None = None,
    ) -> None:
        """`start_digest` is what round 0's state must have, where the spec fixes that; None if each member makes it."""
        self._spec = spec
        self._me = me
        self._roster = roster
        self._new_closing = new_closing
        self.standing = standing
        self.head = head
        self._contributors = frozenset(contributors)  # of the head's record
        self.phase = Phase.WAITING
        self.evidence: dict[tuple[PeerId, int], tuple[bytes, bytes]] = {}  # two contributions to one round
        self._round = self._new_round()
        self._early = Early(spec.members_max)
        self._gathering = Gathering(spec.members_start, spec.silence_s)
        self._following = Following(start_digest)
        self._waiting_for = ""

    @property
    def round(self) -> int:
        """The open one."""
        return self.head.round + 1

    @property
    def contributors(self) -> tuple[PeerId, ...]:
        """Of the head's record, sorted."""
        return tuple(sorted(self._contributors))

    @property
    def started_at(self) -> float | None:
        """When the open round started here."""
        return self._round.started_at

    def is_over(self, round: int) -> bool:
        """Whether this member's work for `round` has become pointless."""
        return round != self.round or self.phase is not Phase.OPEN or self.standing is not Standing.TRAINER

    def offer(self, hash: bytes) -> Offered | None:
        """A contribution to the open round."""
        return self._round.offers.get(hash)

    def held(self) -> tuple[bytes, ...]:
        """Contributions to the open round that are here, whole and checked: sorted hashes."""
        return self._round.offers.held()

    def owes_have(self, peer: PeerId) -> bool:
        """Whether `peer` cannot know by itself where this member stands or what it holds.

        Whoever contributed to the last record is expected to go on without saying so: that spares a message per pair
        and round.
        """
        is_expected = self._me in self._contributors and peer in self._contributors
        holds_blobs = any(offered.ref for hash in self.held() if (offered := self.offer(hash)))
        return not is_expected or holds_blobs or self.is_idle or self.phase is Phase.FINISHED

    @property
    def is_idle(self) -> bool:
        """Whether this member has nothing to contribute to the open round."""
        return self._round.is_idle

    def sits_out(self, now: float) -> list[Effect]:
        """This member has nothing to contribute to the open round: the others need not wait."""
        self._round.is_idle = True
        return [AnnounceHeld(), *self.look(now)]

    def deadline(self, now: float) -> float:
        """When to call `look` even if nothing happens."""
        if self.phase in (Phase.APPLYING, Phase.FINISHED):
            return float("inf")  # `look` has nothing to do: woken for what is overdue, it would be woken at once again
        deadlines = [self._round.deadline(), self._roster.doubt_ends_at(now), self._following.deadline(now)]
        if self.phase is Phase.WAITING:
            deadlines.append(self._gathering.deadline(now))
        return min(deadlines)

    def look(self, now: float) -> list[Effect]:
        """Something changed, or time passed: the connected members, their heads, the deadline."""
        if self.phase in (Phase.APPLYING, Phase.FINISHED):
            return []
        effects = self._drop_expired(now)
        apply = self._round.complete()
        if apply is not None:
            self.phase = Phase.APPLYING
            return [*effects, apply]
        heads, pending = self._roster.heads(now), self._round.proposals.hashes()
        effects += self._following.begin(now, self.head, heads, pending, self.standing is not Standing.STORAGE)
        if self.phase is Phase.WAITING:
            effects += self._start(now)
        if self.phase is Phase.OPEN:
            effects += self._round.work(self._roster, self.standing)
            effects += self._close(now)
        return effects

    def hear_out(self, now: float, peers: Iterable[PeerId]) -> None:
        """Before anything else: who may tell, in a moment, where the swarm stands by now."""
        self._gathering.hear_out(now, peers)

    def heard(self, now: float, offered: Offered) -> list[Effect] | str:
        """A contribution arrived, by whatever way."""
        if offered.member == self._me or not self._roster.is_member(offered.member):
            return "the contributor is not another member"
        fault = contribution_fault(self._spec, offered)
        if fault is not None:
            return fault
        if offered.round == self.round + 1:
            self._roster.tell(offered.member, base_of(offered))
            self._early.add_offer(offered)
            return self.look(now)
        if offered.round != self.round or self.phase in (Phase.APPLYING, Phase.FINISHED):
            return f"round {offered.round} is not open"
        self._roster.tell(offered.member, base_of(offered))
        if not starts_from(self.head, offered):
            return self.look(now)  # its author stands at another head: that may be worth following
        return self._note(now, offered)

    def heard_have(self, now: float, peer: PeerId, head: Head, held: Iterable[bytes], is_idle: bool) -> list[Effect]:
        """A member says where it stands, what it holds, and whether it is at work there."""
        self._roster.tell(peer, head)
        self._roster.tell_work(peer, held, is_idle)
        if head == self.head and head.round == 0:
            self._gathering.hear_start(now)
        return self.look(now)

    def contributed(self, now: float, offered: Offered) -> list[Effect] | str:
        """This member's own contribution is made, or found again after a restart; its payload is stored here."""
        if offered.round != self.round or self.phase in (Phase.APPLYING, Phase.FINISHED):
            return f"round {offered.round} is not open"
        if not starts_from(self.head, offered):
            return "it starts from another state"
        self._round.offers.hold(offered)
        self._round.has_work = True
        self._round.is_idle = False  # it may have failed before
        return self.look(now)

    def fetched(self, now: float, offered: Offered) -> list[Effect]:
        """The end of a FetchPayload; the shell tries for as long as the round is open."""
        if self.offer(offered.hash) is not offered:
            return []
        if self.standing is Standing.STORAGE:
            return self._hold(now, offered)  # it has no method to check with; those who apply do
        return [CheckPayload(offered)]

    def checked(self, now: float, offered: Offered, wrong: str | None) -> list[Effect]:
        """The end of a CheckPayload."""
        if self.offer(offered.hash) is not offered:
            return []
        if wrong is None:
            return self._hold(now, offered)
        self._round.offers.refuse(offered)
        self._round.proposals.drop_with(offered.hash)
        text = f"the contribution of {offered.member} to round {offered.round} is refused: {wrong}"
        return [Observe(Problem(text)), *self.look(now)]

    def proposed(self, now: float, proposed: Proposed) -> list[Effect] | str:
        """A proposal arrived."""
        if proposed.proposer != self._me and not self._roster.is_member(proposed.proposer):
            return "the proposer is not a known member"
        if proposed.record.round == self.round + 1:
            self._early.add_proposal(proposed)
            return self.look(now)
        if self._round.proposals.has_proposed(proposed.proposer):
            return "that member has proposed before"
        considered = self.caught_up(now, proposed)
        if not isinstance(considered, str):
            self._round.proposals.count(proposed.proposer)
        return considered

    def caught_up(self, now: float, proposed: Proposed) -> list[Effect] | str:
        """A record arrived that was asked for: others stand at it, so who proposed it, known here or not, does not
        matter.
        """
        record = proposed.record
        if record.round != self.round or self.phase in (Phase.APPLYING, Phase.FINISHED):
            return f"round {record.round} is not open"
        if self.standing is Standing.STORAGE:  # it goes by heads, not by records
            return self._round.fault(record) or self.look(now)
        considered = self._round.consider(now, proposed)
        return considered if isinstance(considered, str) else [*considered, *self.look(now)]

    def collected(self, now: float, proposed: Proposed, offers: Iterable[Offered]) -> list[Effect]:
        """The end of a Collect: what was found."""
        if proposed.hash not in self._round.proposals.hashes():
            return []
        effects = self._round.collect(proposed, offers)
        if effects is None:
            self._following.close_way_by_records()  # if others did apply it, its checkpoint remains
        return [*(effects or []), *self.look(now)]

    def applied(self, now: float, proposed: Proposed, digest: bytes) -> list[Effect]:
        """The end of an ApplyRecord: the state after it has this digest, and is saved."""
        record = proposed.record
        contributors = tuple(PeerId(taken.member) for taken in record.taken)
        return self._stand_at(now, Head(record.round, proposed.hash, digest), contributors)

    def asked(self, now: float, is_found: bool) -> list[Effect]:
        """The end of an AskRecords; a record that was found has gone through `proposed` before."""
        self._following.end()
        if not is_found:
            self._following.close_way_by_records()
        return self.look(now)

    def adopted(self, now: float, head: Head, contributors: tuple[PeerId, ...]) -> list[Effect]:
        """The end of a Resync: this member now stands at `head`."""
        self._following.end()
        return self._stand_at(now, head, contributors)

    def resync_failed(self, now: float, holders: Iterable[PeerId]) -> list[Effect]:
        """The end of a Resync that led nowhere; `holders` told that head."""
        self._following.fail(now)
        for peer in holders:
            self._roster.doubt(peer, now)
        return self.look(now)

    def stand(self, now: float, standing: Standing) -> list[Effect]:
        """The owner pauses or resumes."""
        self.standing = standing
        self._round.has_work = self.has_contributed()  # what a pause broke off is asked for again
        return self.look(now)

    def has_contributed(self) -> bool:
        """Whether this member's contribution to the open round is made."""
        return self._round.has_contributed()

    def resync_ended(self, now: float) -> list[Effect]:
        """The end of a Resync that was overtaken: this member stands better by now."""
        self._following.end()
        return self.look(now)

    def unapplied(self, now: float, proposed: Proposed) -> list[Effect]:
        """The end of an ApplyRecord that could not be done here: a payload is gone from the disk."""
        self.phase = Phase.OPEN
        self._round.proposals.drop(proposed)
        self._following.close_way_by_records()
        return self.look(now)

    def is_better(self, head: Head) -> bool:
        """Whether `head` is worth going over to."""
        return self._following.better(self.head, {head: {self._me}}) is not None

    def _new_round(self) -> OpenRound:
        can_check = self.standing is not Standing.STORAGE
        return OpenRound(self._spec, self._me, self.head, self._contributors, self._new_closing(), can_check=can_check)

    def _note(self, now: float, offered: Offered) -> list[Effect] | str:
        """A sound contribution to the open round."""
        first = self._round.offers.first_of(offered.member)
        if first is not None and first.hash != offered.hash:
            if len(self.evidence) < EVIDENCE_MAX:
                self.evidence.setdefault((offered.member, offered.round), (first.envelope, offered.envelope))
            return "another contribution of that member was heard first"
        if first is None and self._round.offers.member_count() >= self._spec.members_max:
            return "the round is full"
        self._gathering.hear_start(now)
        return [*self._round.offers.take_in(offered), *self.look(now)]

    def _hold(self, now: float, offered: Offered) -> list[Effect]:
        self._round.offers.hold(offered)
        announce: list[Effect] = [AnnounceHeld()] if offered.ref is not None else []
        return [*announce, *self.look(now)]

    def _drop_expired(self, now: float) -> list[Effect]:
        if not self._round.proposals.drop_expired(now):
            return []
        self._following.close_way_by_records()
        return [Observe(Problem(f"a proposal for round {self.round} is given up: its payloads did not arrive in time"))]

    def _start(self, now: float) -> list[Effect]:
        """Open the round for work, unless there is a better place to be, or others are missing."""
        if self._spec.rounds_max and self.head.round >= self._spec.rounds_max:
            self.phase = Phase.FINISHED
            return [Observe(Finished(self.head.round)), AnnounceHeld()]
        if self.standing is Standing.STORAGE:
            return []
        if self._following.holds_up(self.head, self._roster.heads(now)):
            return self._wait("catching up with the other members")
        if self._following.is_startless(self.head):
            return self._wait("no connected member has the state that this swarm starts from")
        if self._gathering.is_hearing(now, self._roster):
            return self._wait("hearing where the other members stand")
        count = len(self._roster.trainers()) + (self.standing is Standing.TRAINER)
        missing = self._gathering.missing(now, count) if self.head.round == 0 else None
        if missing is not None:
            return self._wait(missing)
        self.phase = Phase.OPEN
        self._round.begin(now)
        self._waiting_for = ""
        return [Observe(RoundStarted(self.round)), AnnounceHeld()]

    def _close(self, now: float) -> list[Effect]:
        """Propose, if it is this member's turn to, and nobody's proposal is being completed."""
        closed = self._round.close(now, self._roster, self.standing)
        if isinstance(closed, Record):
            return [ProposeRecord(closed)]
        return self._wait(closed) if closed else []

    def _wait(self, reason: str) -> list[Effect]:
        """Say why nothing goes on, once."""
        if reason == self._waiting_for:
            return []
        self._waiting_for = reason
        return [Observe(Waiting(reason))]

    def _stand_at(self, now: float, head: Head, contributors: tuple[PeerId, ...]) -> list[Effect]:
        """A new head: forget the round that led here, open the next."""
        self.head = head
        self._contributors = frozenset(contributors)
        self.phase = Phase.WAITING
        self._round = self._new_round()
        self._following.arrive()
        self.hear_out(now, ())  # this is where the swarm stands
        offers, proposals = self._early.take()
        effects = self.look(now)
        heard = [*(self.heard(now, offered) for offered in offers), *(self.proposed(now, each) for each in proposals)]
        return [*effects, *(effect for found in heard if not isinstance(found, str) for effect in found)]
