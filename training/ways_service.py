"""Gets a member to the state at a head that others tell: by a replay of what was made since its own, or by a
checkpoint, whichever should be faster, and by the other one if that leads nowhere. Keeps what each round took, where
the method replays, so that others can do the same; who came by a checkpoint replays afterwards what it left out, or in
the end nobody would have it. A shell; what is estimated stands in `replaying`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import trio

from shoal.crdt.file_service import StoreError
from shoal.transport.port import PeerId

from .answers_service import Cores
from .calls import TellHead
from .checkpoints import Choice
from .effects import ApplyRecord
from .events import Problem, Went
from .exchange_service import Exchange
from .history import Replays, made_of
from .history_service import History
from .means import Means
from .method import Method
from .records import Head
from .replay_service import Replay
from .replaying import CONTRIBUTION_BYTES, Estimate, Way, contributors, estimate, why_not
from .state_service import Applied, FixesStart, StateKeeper
from .storage_service import StorageKeeper

TELLERS_NAMED_MAX = 4  # in a complaint
FILLING_S_MAX = 60.0  # that a replay may be estimated to take which is done for the history alone
MEASURED_BYTES_MIN = 2**20  # of less, round trips say more than the line


@dataclass(frozen=True, slots=True)
class _Skipped:
    """What lies between two states, the first of which this member has left."""

    state: Any
    own: Head
    choice: Choice
    plan: Estimate


class Ways:
    """One run's.

    Args:
        holders: who can give the checkpoint that is told, the likeliest first.
        bytes_per_s: at which payloads are fetched; 0: not known.
    """

    def __init__(
        self,
        means: Means,
        cores: Cores,
        keeper: StateKeeper[Any, Any] | StorageKeeper,
        exchange: Exchange,
        holders: Callable[[TellHead, tuple[PeerId, ...]], tuple[PeerId, ...]],
        bytes_per_s: Callable[[], int],
    ) -> None:
        self._means = means
        self._rounds = cores.rounds
        self._roster = cores.roster
        self._history = cores.history
        self._keeper = keeper
        self._exchange = exchange
        self._holders = holders
        self._payload_bytes_per_s = bytes_per_s
        self._bytes_per_s = 0.0  # of the last one that was fetched by either way
        self._shunned: set[PeerId] = set()  # whose histories led nowhere, or came too slowly
        self._replaying = trio.Lock()  # there is one draft
        self._filling = trio.CancelScope()
        self._skipped: _Skipped | None = None
        self._is_log_closed = False  # it has just led nowhere, in the time of which the others' checkpoints may go

    async def keep(self, effect: ApplyRecord, weights: Sequence[int]) -> None:
        """What this record took is applied: it is on disk before the state that it made is."""
        if self._history is None:
            return
        made = made_of(effect.closed.record.round, effect.offers, weights)
        if made is not None:
            await self._try("kept", partial(self._history.append, (made,)))

    async def go(self, choice: Choice) -> Applied[Any] | str:
        """The state at the head that is told, of its digest; or why it cannot be had."""
        told, history, self._skipped = choice.told, self._history, None
        self._filling.cancel()
        if told.checkpoint is None:
            return "nobody tells a checkpoint"
        if history is None or isinstance(self._keeper, StorageKeeper):
            return await self._fetch(choice)
        plan = self._plan(self._keeper, told, told.checkpoint.size)
        if isinstance(plan, str):
            if self._rounds.ledger.digest_at(self._rounds.head.round) not in (None, self._rounds.head.digest):
                await self._try("forgotten", history.forget)
            return await self._go(choice, Way.CHECKPOINT, plan, partial(self._fetch, choice))
        reason = (
            f"replaying {plan.contributions} contributions ({plan.log_bytes} bytes) should take {plan.log_s:.1f} s, "
            f"the checkpoint ({plan.checkpoint_bytes} bytes) {plan.checkpoint_s:.1f} s"
        )
        skipped = _Skipped(self._keeper.state, self._rounds.head, choice, plan)
        calls = {
            Way.LOG: partial(self._replay, self._keeper.method, history, skipped),
            Way.CHECKPOINT: partial(self._fetch, choice),
        }
        ways = (Way.CHECKPOINT,) if self._is_log_closed else plan.ways
        if plan.log_s <= FILLING_S_MAX:
            self._skipped = skipped
        self._is_log_closed = False
        arrived: Applied[Any] | str = ""
        for way in ways:
            arrived = await self._go(choice, way, reason, calls[way])
            if not isinstance(arrived, str):
                self._skipped = None if way is Way.LOG else self._skipped
                break
            self._is_log_closed = self._is_log_closed or way is Way.LOG
            reason = f"the other way led nowhere: {arrived}"
        return arrived

    def _plan(self, keeper: StateKeeper[Any, Any], told: TellHead, size: int) -> Estimate | str:
        """What both ways cost; or why only the checkpoint leads there."""
        method, rounds = keeper.method, self._rounds
        start = method.start_digest(self._means.spec) if isinstance(method, FixesStart) else None
        wrong = why_not(rounds.head, told.head, rounds.ledger, start)
        if wrong is not None:
            return wrong
        if not isinstance(method, Replays):
            return "the method does not replay"
        each = contributors(rounds.ledger, len(rounds.electorate.seats))
        rate = self._bytes_per_s or self._payload_bytes_per_s()
        lengths = [len(offered.envelope) for offered in rounds.pool.all() if offered.ref is None]
        length = sum(lengths) // len(lengths) if lengths else CONTRIBUTION_BYTES
        return estimate(method, round(each * (told.head.round - rounds.head.round)), length, size, rate)

    async def _go(self, choice: Choice, way: Way, reason: str, call: Callable[[], Any]) -> Applied[Any] | str:
        """One way; and what its owner is told of it."""
        own, started_at = self._rounds.head.round, trio.current_time()
        traffic = self._means.transport.traffic()
        arrived: Applied[Any] | str = await call()
        seconds = trio.current_time() - started_at
        fetched = self._means.transport.traffic().bytes_received - traffic.bytes_received
        is_there = not isinstance(arrived, str)
        self._means.observe(Went(way, own, choice.told.head.round, is_there, reason, fetched, seconds))
        return arrived

    async def _fetch(self, choice: Choice) -> Applied[Any] | str:
        told, started_at = choice.told, trio.current_time()
        assert told.checkpoint is not None
        holders = partial(self._holders, told, choice.tellers)
        fetched = await self._keeper.fetch_state(told.head, told.checkpoint, holders)
        if not isinstance(fetched, str):
            self._measure(told.checkpoint.size, trio.current_time() - started_at)
            return fetched
        named = ", ".join(choice.tellers[:TELLERS_NAMED_MAX])
        return f"the state of round {told.head.round} cannot be had, as {named} tells: {fetched}"

    async def fill(self) -> None:
        """Have what the checkpoint left out that this member came by. Another way to go ends it."""
        skipped, self._skipped = self._skipped, None
        if skipped is None or self._history is None or isinstance(self._keeper, StorageKeeper):
            return
        with trio.CancelScope() as self._filling:
            await self._replay(self._keeper.method, self._history, skipped)

    async def _replay(self, method: Method[Any, Any], history: History, skipped: _Skipped) -> Applied[Any] | str:
        async with self._replaying:
            return await self._replay_alone(method, history, skipped)

    async def _replay_alone(self, method: Method[Any, Any], history: History, skipped: _Skipped) -> Applied[Any] | str:
        replay = Replay(self._means, method, history, self._exchange, self._rounds.ledger)
        told, tellers, patience_s = skipped.choice.told, skipped.choice.tellers, skipped.plan.patience_s
        arrived = f"it is not done after {patience_s:.0f} s"

        def holders() -> Iterator[PeerId]:
            return (peer for peer in self._holders(told, tellers) if peer not in self._shunned)

        await self._try("dropped", history.drop_draft)  # of one that was ended
        with trio.move_on_after(patience_s) as scope:
            arrived = await replay.run(skipped.state, skipped.own, told.head, holders)
        self._shunned |= replay.liars
        if scope.cancelled_caught and replay.asked is not None:
            self._shunned.add(replay.asked)
        for peer in replay.liars:
            self._roster.doubt(peer, trio.current_time())
        if isinstance(arrived, str):
            await self._try("dropped", history.drop_draft)
            if replay.has_used_own and not scope.cancelled_caught:
                await self._try("forgotten", history.forget)  # or it would lead there again
            return arrived
        self._measure(replay.bytes, replay.fetching_s)
        await self._try("kept", history.adopt)
        return Applied(arrived, told.head.digest)

    def _measure(self, size: int, seconds: float) -> None:
        if size >= MEASURED_BYTES_MIN:
            self._bytes_per_s = size / max(seconds, 1e-3)

    async def _try(self, what: str, call: Callable[[], None]) -> None:
        """A history is for the others' sake: without it this member goes on."""
        try:
            await self._means.workers.run(call)
        except StoreError as error:
            self._means.observe(Problem(f"what rounds took is not {what} for those who come later: {error}"))
