"""Audits: parts of what others contributed, done again here. A shell.

The record after the one that took a contribution draws what is done again, for all members the same. What does not come
out the same this member says, and, where another says so, what does (`Opine`): a quorum's word is a verdict
(verdicts.py).

A peer can contribute anything; the draw comes when it has. A member that judges falsely says so alone.
"""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from blake3 import blake3
from msgspec import structs

from .agreed import opine_statement
from .attempt import Raised, attempt
from .events import Audited, Event, Problem
from .ledger import Closed
from .means import Means
from .members import RIGHT, Opine
from .method import Audits, Share
from .records import Head, Offered
from .soundness import base_of
from .state_service import StateKeeper
from .verdicts import CASE_ROUNDS

Start = Callable[[Callable[[Any], Any], object], None]


class Auditing:
    """Of one run of one member, one contribution at a time."""

    def __init__(self, means: Means, keeper: StateKeeper[Any, Any], start: Start, say: Callable[[Opine], None]) -> None:
        """`start` runs a task with an argument; `say` spreads this member's word."""
        self._swarm = means.swarm
        self._signer = means.signer
        self._me = means.signer.peer_id
        self._workers = means.workers
        self._observe: Callable[[Event], None] = means.observe
        self._keeper = keeper
        self._start = start
        self._say = say
        self._record = b""  # the newest that was applied
        self._taken: tuple[Offered, ...] = ()  # by it
        self._waiting: deque[Offered] = deque()  # what the record before it took
        self._seed = b""
        self._is_busy = False
        self._base: tuple[Head, Any | str] | None = None  # what the last one that was audited started from
        self._found: dict[tuple[str, int, int], int] = {}  # by contribution: which part came out the same

    def applied(self, closed: Closed, offers: tuple[Offered, ...]) -> None:
        """A record was applied, which took these."""
        if not isinstance(self._keeper.method, Audits):
            return
        self._answer(closed)
        drawn = self._taken if closed.record.previous == self._record else ()
        self._record, self._taken = closed.hash, offers
        others = [offered for offered in drawn if offered.member != self._me]
        # What there was no time for since the last draw is left: on slow machines in large swarms, in an order that all
        # have in common.
        self._waiting = deque(sorted(others, key=lambda offered: blake3(closed.hash + offered.hash).digest()))
        self._seed = closed.hash
        if others and not self._is_busy:
            self._is_busy = True
            self._start(self._audit_all, None)

    def _answer(self, closed: Closed) -> None:
        """Say what this member has found of what others doubt."""
        for case in closed.record.conduct.cases:
            is_spoken = case.is_closed or any(each.judge == self._me for each in case.opinions)
            if case.place in self._found and not is_spoken:
                self._opine(case.place)
        oldest = closed.record.round - CASE_ROUNDS
        self._found = {place: found for place, found in self._found.items() if place[1] >= oldest}

    def _opine(self, place: tuple[str, int, int]) -> None:
        member, round, base_round = place
        opinion = Opine(member, self._me, round, base_round, self._found[place], bytes(64))
        self._say(structs.replace(opinion, word=self._signer.sign(opine_statement(self._swarm, opinion))))

    async def _audit_all(self, _: object) -> None:
        while self._waiting:
            await self._audit(self._waiting.popleft(), self._seed)
        self._is_busy, self._base = False, None

    async def _audit(self, offered: Offered, seed: bytes) -> None:
        method, reader = self._keeper.method, self._keeper.reader(offered)
        if reader is None or not isinstance(method, Audits):
            return
        base = base_of(offered)
        share = Share(offered.round, offered.member, offered.contribution.samples, 1, base.round, reader)
        if not method.is_audited(share, seed):
            return
        state = await self._state(base)
        if isinstance(state, str):
            return  # too long ago, or never this member's
        call = partial(method.audit, state, self._keeper.local, share, seed)
        tried = await self._workers.run(partial(attempt, call))
        if isinstance(tried, Raised):
            self._observe(Problem(f"the contribution of {offered.member} cannot be audited: {tried.reason}"))
        elif tried.result is not None:
            self._judge(offered, tried.result)

    async def _state(self, base: Head) -> Any | str:
        """Of several contributions from one state it is loaded once."""
        if self._base is None or self._base[0] != base:
            self._base = base, await self._keeper.saved_state(base)
        return self._base[1]

    def _judge(self, offered: Offered, opinion: float) -> None:
        self._observe(Audited(offered.round, offered.member, opinion))
        place = offered.member, offered.round, offered.contribution.base_round
        self._found[place] = int(opinion * RIGHT)
        if opinion < 1.0:
            self._opine(place)
