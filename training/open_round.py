"""The round after the newest record, as one member whose state is current sees it: its own part in it, who is waited
for, and what a record could take.
"""

from collections.abc import Set

from shoal.transport.port import PeerId

from .closing import Standings
from .effects import Effect, Train
from .judging import View, takeable
from .records import Head, Offered, Standing
from .roster import Roster
from .spec import Spec


class OpenRound:
    """Of one member; a new one for each state that it comes to: records that take nothing go by."""

    def __init__(self, head: Head, contributors: frozenset[PeerId]) -> None:
        """`contributors` to the newest record that took any."""
        self.base = head  # what contributions to this round start from
        self.contributors = contributors
        self.started_at: float | None = None
        self.is_idle = False  # this member has nothing to contribute
        self.own_count = 0  # of its contributions from this state
        self._is_at_work = False
        self._can_go_on = False  # from where its last contribution ended: not after a restart
        self._known: tuple[object, ...] = ()  # what `_takeable` follows from
        self._takeable: list[Offered] = []
        self._fresh: frozenset[PeerId] = frozenset()
        self.expected: Set[PeerId] = frozenset()  # to contribute, as of the last look
        self._refused: frozenset[PeerId] = frozenset()  # who contributed from the newest state what is unsound

    def begin(self, now: float) -> None:
        """Work may start."""
        self.started_at = now

    def worked(self, *, has_contributed: bool) -> None:
        """This member's turn is over."""
        self._can_go_on = self._is_at_work and has_contributed
        self._is_at_work = False
        self.own_count += has_contributed

    def work(self, now: float, view: View, roster: Roster, *, is_paused: bool) -> list[Effect]:
        """Ask for this member's part, once; and for more of it while agreement pauses, as long as that can be taken."""
        goes_on = is_paused and self._can_go_on and self.own_count <= view.spec.stale_rounds_max
        is_due = not self.own_count or goes_on
        if self.started_at is None or self._is_at_work or not is_due:
            return []
        self._is_at_work = True
        others = self.contributors if view.head.round else roster.trainers()
        members = tuple(sorted({*others, view.me}))
        began_at = now if self.own_count else self.started_at
        round, deadline_at = self.base.round + 1 + self.own_count, began_at + view.spec.round_s
        return [Train(round, self.base, members, deadline_at, view.me in self.contributors)]

    def offers(self, view: View, roster: Roster, members: Set[PeerId]) -> list[Offered]:
        """What a record could take: held here, and by a quorum as far as it does not travel in its message.

        Args:
            members: and who may be let in by it.
        """
        self._look(view, members)
        return [offered for offered in self._takeable if _is_available(view, roster, offered)]

    def standings(
        self, view: View, roster: Roster, standing: Standing, members: Set[PeerId], late: Set[PeerId] = frozenset()
    ) -> Standings:
        """What this member sees of the round; for others than `members`, for who is suspended or banned, and for who
        is always `late`, nobody waits.
        """
        self._look(view, members)
        seats, is_banned = view.electorate.seats, view.position.is_banned
        awaited = members - {
            PeerId(seat.member) for seat in seats if seat.is_suspended or is_banned(PeerId(seat.member))
        }
        # Who has yet to say that it stands after records that took nothing is at work from the same state.
        at_work = roster.at_work(view.head, self.contributors) | roster.at_work(self.base, frozenset())
        # Who has been in and is not met yet may be at work all the same, as others know.
        unmet = roster.unmet(view.silent) & self.contributors
        # Who has sent what no record can take has had its turn: else one that does costs every round its whole span.
        expected = ((at_work | unmet) & awaited) - self._refused - late
        if standing is Standing.TRAINER and not self.is_idle and not is_banned(view.me):
            expected.add(view.me)
        self.expected = expected
        spec = view.spec
        return Standings(
            expected=expected,
            ready=self._fresh,
            taken_count=len({offered.member for offered in self._takeable}),
            awaited_min=(view.members_min if self.base.round else spec.members_start) - len(self._refused),
            least=view.members_min,
            overdue_at=self.overdue_at(spec),
        )

    def overdue_at(self, spec: Spec) -> float:
        """Deadline plus grace; infinity before the round has started."""
        return float("inf") if self.started_at is None else self.started_at + spec.round_s + spec.grace_s

    def _look(self, view: View, members: Set[PeerId]) -> None:
        known = view.pool.version, view.ledger.newest, view.head, frozenset(members)
        if known == self._known:
            return
        self._known = known
        self._takeable = takeable(view, members)
        self._fresh = frozenset(
            offered.member for offered in self._takeable if view.ledger.staleness(offered.contribution.base_round) == 0
        )
        self._refused = frozenset(
            offered.member
            for offered in view.pool.refused()
            if offered.member in members and view.ledger.staleness(offered.contribution.base_round) == 0
        )


def _is_available(view: View, roster: Roster, offered: Offered) -> bool:
    """Whether it can be had though any member goes: payloads inside of messages come with whoever proposes them."""
    if offered.ref is None:
        return True
    return view.electorate.is_quorum({view.me, offered.member, *roster.that_hold(offered.hash)})
