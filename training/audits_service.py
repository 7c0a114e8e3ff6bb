"""Audits: parts of what others contributed, done again here. A shell.

The record after the one that took a contribution draws what is done again, for all members the same. Who is found to
have made its work up twice is one that this member says should go (`Remove`): it does once a quorum has found the same.

A peer can contribute anything; the draw comes when it has. A member that judges falsely says so alone.
"""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from blake3 import blake3

from shoal.transport.port import PeerId

from .attempt import Raised, attempt
from .events import Audited, Event, Problem
from .ledger import Closed
from .means import Means
from .method import Audits, Share
from .opinions import Opinions
from .records import Head, Offered
from .soundness import base_of
from .state_service import StateKeeper

Start = Callable[[Callable[[Any], Any], object], None]


class Auditing:
    """Of one run of one member, one contribution at a time."""

    def __init__(
        self, means: Means, keeper: StateKeeper[Any, Any], start: Start, remove: Callable[[PeerId], str | None]
    ) -> None:
        """`start` runs a task with an argument; `remove` has this member say that another should go."""
        self._me = means.signer.peer_id
        self._workers = means.workers
        self._observe: Callable[[Event], None] = means.observe
        self._keeper = keeper
        self._start = start
        self._remove = remove
        self._record = b""  # the newest that was applied
        self._taken: tuple[Offered, ...] = ()  # by it
        self._waiting: deque[Offered] = deque()  # what the record before it took
        self._seed = b""
        self._is_busy = False
        self._base: tuple[Head, Any | str] | None = None  # what the last one that was audited started from
        self._opinions = Opinions()

    def applied(self, closed: Closed, offers: tuple[Offered, ...]) -> None:
        """A record was applied, which took these."""
        if not isinstance(self._keeper.method, Audits):
            return
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
        if self._opinions.judge(offered.member, opinion):
            self._remove(offered.member)  # what it answers: gone already, or this node has no vote
