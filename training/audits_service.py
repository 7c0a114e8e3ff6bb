"""Audits: parts of what others contributed, done again here. A shell.

The record after the one that took a contribution draws what is done again, and, where the method wants that, by whom;
or who compares several first, and does the most doubtful again (comparing.py). What does not come out the same this
member says (`Opine`). That opens a case, which all look into, drawn or not: a quorum's word is a verdict (verdicts.py).

A peer can contribute anything; the draw comes when it has. A member that judges falsely says so alone. Who does not
hand over what its turn started from has that said of it, but only while it has to keep it.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import trio
from blake3 import blake3
from msgspec import structs

from shoal.transport.blobs import BlobRef
from shoal.transport.port import PeerId

from .agreed import opine_statement
from .attempt import Raised, attempt
from .comparing import COMPARISON, Allowance, Gain, drawn_among, is_comparing, most_doubtful, to_compare
from .events import Audited, Event, Problem
from .ledger import Closed, Ledger
from .means import Means
from .members import RIGHT, WITHHELD, Electorate, Opine
from .method import Audits, Compares, Share, Start
from .records import Head, Offered
from .soundness import base_of
from .state_service import StateKeeper
from .verdicts import CASE_ROUNDS, Case

MARGIN: Final = 1  # rounds by which others may be ahead of this member, and have let go of what is old
PATIENCE_ROUNDS: Final = 2  # that a start may take to come, and no longer than a round's span: others are to look, too
ASK_S: Final = 5.0  # how long it is asked for at once; what came is kept
PAUSE_S: Final = 0.5

Run = Callable[[Callable[[Any], Any], object], None]
Place = tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class _Task:
    offered: Offered
    seed: bytes
    contributors: int  # as one of how many it is drawn
    case: Case | None = None  # that is open
    is_chosen: bool = False  # among several

    @property
    def is_due(self) -> bool:
        """Whether it is done, drawn or not."""
        return self.is_chosen or self.case is not None


@dataclass(frozen=True, slots=True)
class _Choice:
    """The most doubtful of these is to be done again."""

    tasks: tuple[_Task, ...]


class Auditing:
    """Of one run of one member, one contribution at a time."""

    def __init__(
        self,
        means: Means,
        keeper: StateKeeper[Any, Any],
        ledger: Callable[[], Ledger],
        run: Run,
        say: Callable[[Opine], None],
    ) -> None:
        """`run` runs a task with an argument; `say` spreads this member's word."""
        self._means = means
        self._me = means.signer.peer_id
        self._observe: Callable[[Event], None] = means.observe
        self._keeper = keeper
        self._ledger = ledger
        self._run = run
        self._say = say
        self._offers: dict[int, tuple[Offered, ...]] = {}  # by record, as far as their states are kept
        self._seeds: dict[int, bytes] = {}  # the record after it
        self._waiting: deque[_Task | _Choice] = deque()
        self._is_busy = False
        self._base: tuple[Head, Any | str] | None = None  # what the last one that was audited started from
        self._allowance = Allowance()
        self._found: dict[Place, int] = {}  # by contribution: which part came out the same

    def applied(self, closed: Closed, offers: tuple[Offered, ...]) -> None:
        """A record was applied, which took these."""
        if self._keeper.audits is None:
            return
        round = closed.record.round
        self._offers[round], self._seeds[round - 1] = offers, closed.hash
        for known in (self._offers, self._seeds):
            for old in [each for each in known if each < round - self._keeper.states_kept]:
                del known[old]
        self._means.pins.keep_newest("start", round, self._keeper.states_kept)
        self._found = {place: found for place, found in self._found.items() if place[1] >= round - CASE_ROUNDS}
        if not closed.voters.votes(self._me):
            return
        self._answer(closed)
        drawn = list(self._tasks(round - 1, closed.voters))
        # What there was no time for since the last draw is left: on slow machines in large swarms, in an order that all
        # have in common.
        drawn.sort(key=lambda task: blake3(closed.hash + task.offered.hash).digest())
        self._waiting = deque([*self._asked(closed), *drawn, *self._choice(closed, drawn)])
        if self._waiting and not self._is_busy:
            self._is_busy = True
            self._run(self._audit_all, None)

    def _tasks(self, round: int, electorate: Electorate) -> Iterator[_Task]:
        """What the record of `round` took of others."""
        offers, seed = self._offers.get(round, ()), self._seeds.get(round, b"")
        members = {offered.member for offered in offers}
        voters = {member for member in members if electorate.votes(member)}
        among = drawn_among(len(voters), len(members - voters))
        return (
            _Task(offered, seed, among[offered.member not in voters])
            for offered in offers
            if offered.member != self._me
        )

    def _choice(self, closed: Closed, drawn: Sequence[_Task]) -> list[_Choice]:
        """Each judge compares others, each in other rounds."""
        method = self._keeper.audits
        if not isinstance(method, Compares):
            return []
        self._allowance.earn(method.compared_share)
        if not (self._allowance.is_enough and is_comparing(closed.hash, self._me)):
            return []
        tasks = {task.offered.hash: task for task in drawn if self._can_audit(method, task)}
        has_votes = {hash: closed.voters.votes(task.offered.member) > 0 for hash, task in tasks.items()}
        chosen = to_compare(has_votes, closed.hash, self._me)
        if len(chosen) < 2:
            return []  # one alone looks like itself
        self._allowance.spend(COMPARISON)
        return [_Choice(tuple(tasks[hash] for hash in chosen))]

    def _can_audit(self, method: Audits, task: _Task) -> bool:
        share = self._share(task)
        return share is not None and method.can_audit(share)

    def _asked(self, closed: Closed) -> Iterator[_Task]:
        """What others doubt, and this member has not looked at."""
        open_cases = {case.place: case for case in closed.record.conduct.cases if not case.is_closed}
        for round in self._seeds:
            for task in self._tasks(round, closed.voters):
                case = open_cases.get(place_of(task.offered))
                if case is not None:
                    yield _Task(task.offered, task.seed, task.contributors, case)

    def _answer(self, closed: Closed) -> None:
        """Say what this member has found of what others doubt."""
        for case in closed.record.conduct.cases:
            is_spoken = case.is_closed or any(each.judge == self._me for each in case.opinions)
            if case.place in self._found and not is_spoken:
                self._opine(case.place)

    def _opine(self, place: Place) -> None:
        member, round, base_round = place
        opinion = Opine(member, self._me, round, base_round, self._found[place], bytes(64))
        word = self._means.signer.sign(opine_statement(self._means.swarm, opinion))
        self._say(structs.replace(opinion, word=word))

    async def _audit_all(self, _: object) -> None:
        while self._waiting:
            task = self._waiting.popleft()
            chosen = task if isinstance(task, _Task) else await self._chosen(task.tasks)
            if chosen is not None:
                await self._audit(chosen)
        self._is_busy, self._base = False, None

    async def _chosen(self, tasks: Sequence[_Task]) -> _Task | None:
        """The most doubtful of those that this member can tell anything of, and has not done again, if one is."""
        gains: list[tuple[_Task, Gain]] = []
        for task in tasks:
            gain = None if place_of(task.offered) in self._found else await self._gain(task)
            if gain is not None:
                gains.append((task, gain))
        place = most_doubtful([gain for _, gain in gains])
        if place is None:
            return None
        self._allowance.spend(1)
        return replace(gains[place][0], is_chosen=True)

    async def _gain(self, task: _Task) -> Gain | None:
        method, share, base = self._keeper.audits, self._share(task), base_of(task.offered)
        members = self._members(task.offered)
        if share is None or members is None or not isinstance(method, Compares):
            return None
        state = await self._state(base)
        if isinstance(state, str):
            return None
        tried = await self._means.workers.run(partial(attempt, partial(method.gain, state, share, members, task.seed)))
        return None if isinstance(tried, Raised) else tried.result

    def _share(self, task: _Task) -> Share | None:
        """As audits see it; None where its payload is gone."""
        offered, reader = task.offered, self._keeper.reader(task.offered)
        if reader is None:
            return None
        return Share(offered.round, offered.member, offered.contribution.samples, 1, base_of(offered).round, reader)

    def _members(self, offered: Offered) -> tuple[str, ...] | None:
        """Of its turn; None where the record is not known that made its state."""
        made = self._ledger().closed(base_of(offered).round)
        return None if made is None else tuple(sorted({offered.member, *(each.member for each in made.record.taken)}))

    async def _audit(self, task: _Task) -> None:
        offered, method, share = task.offered, self._keeper.audits, self._share(task)
        if share is None or method is None or place_of(offered) in self._found:
            return
        is_drawn = method.is_audited(share, task.seed, self._me, task.contributors)
        if not (is_drawn or (task.is_due and method.can_audit(share))):
            return
        base = base_of(offered)
        state = await self._state(base)
        if isinstance(state, str):
            return  # too long ago, or never this member's
        start = await self._start(task, base) if method.wants_starts else None
        if isinstance(start, int):
            self._judge(offered, start)
        elif start is not None or not method.wants_starts:
            await self._do_again(method, state, start, share, task)

    async def _do_again(self, method: Audits, state: Any, start: Start | None, share: Share, task: _Task) -> None:
        call = partial(method.audit, state, start, share, task.seed)
        tried = await self._means.workers.run(partial(attempt, call))
        if isinstance(tried, Raised):
            self._observe(Problem(f"the contribution of {share.member} cannot be audited: {tried.reason}"))
        elif tried.result is not None:
            self._observe(Audited(share.turn_round, share.member, tried.result))
            came_out = int(tried.result * RIGHT)
            self._judge(task.offered, 0 if came_out == WITHHELD else came_out)

    async def _state(self, base: Head) -> Any | str:
        """Of several contributions from one state it is loaded once."""
        if self._base is None or self._base[0] != base:
            self._base = base, await self._keeper.saved_state(base)
        return self._base[1]

    async def _start(self, task: _Task, base: Head) -> Start | int | None:
        """What the turn started from, fetched from its author; or this member's opinion without it, if any."""
        made, members = self._ledger().closed(base.round), self._members(task.offered)
        member, local = task.offered.member, task.offered.contribution.local
        if made is None or members is None:
            return None
        if local is None or local.size > self._keeper.checkpoint_bytes_max:
            return 0
        before = None
        if any(share.member == member for share in made.record.taken):
            own = [each for each in self._offers.get(base.round, ()) if each.member == member]
            newest = max(own, key=lambda each: (each.contribution.base_round, each.round), default=None)
            before = None if newest is None else self._keeper.reader(newest)
            if before is None:
                return None
        if not await self._has_fetched(task, local):
            since = self._ledger().staleness(base.round)
            return WITHHELD if since is not None and since <= self._keeper.states_kept - MARGIN else None
        reader = self._means.blobs.open(local)
        return None if reader is None else Start(reader, members, before)

    async def _has_fetched(self, task: _Task, local: BlobRef) -> bool:
        """Also from who has looked into it already: else an author might give it to a few alone."""
        said = () if task.case is None else task.case.opinions
        holders = [task.offered.member, *(PeerId(each.judge) for each in said if each.came_out != WITHHELD)]
        others = [holder for holder in holders if holder != self._me]
        label, blobs = self._means.pins.label("start", task.offered.round), self._means.blobs
        until_round = self._ledger().newest + PATIENCE_ROUNDS
        with trio.move_on_after(self._means.spec.round_s):
            while await blobs.fetch(local, lambda: others, pin=label, timeout_s=ASK_S) is not None:
                if self._ledger().newest >= until_round:
                    return False
                await trio.sleep(PAUSE_S)
            return True
        return False

    def _judge(self, offered: Offered, came_out: int) -> None:
        self._found[place_of(offered)] = came_out
        if came_out == WITHHELD:
            what = f"what its work for round {offered.round} started from"
            self._observe(Problem(f"{offered.member} does not hand over {what}"))
        if came_out < RIGHT:
            self._opine(place_of(offered))


def place_of(offered: Offered) -> Place:
    """Of a contribution in the log."""
    return offered.member, offered.round, offered.contribution.base_round
