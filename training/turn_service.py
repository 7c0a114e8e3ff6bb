"""This member's own part: asked for by the round core, worked on, stored, and offered once it is on disk. A shell.

A turn that made nothing of use is told to the core as well: who is waited for must say that it has nothing.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import trio

from shoal.transport.blob_disk import disk_refusal
from shoal.transport.blobs import BlobRef
from shoal.transport.port import Refusal

from .attempt import Raised
from .effects import Effect, Train
from .events import LocalDone, Problem
from .means import Means
from .metering import RoundMeter
from .method import Turn, Work
from .records import INLINE_BYTES_MAX, Contribution, Offered, seal_contribution, turn_seed
from .rounds import Rounds
from .state_service import StateKeeper
from .storage_service import StorageKeeper

TRY_AGAIN_S = 10.0  # after training or storing failed
PART_MIN = 0.5  # of the samples of its last turn that a turn cut short must have, to be worth its bytes


@dataclass(eq=False, slots=True)
class _Begun:
    """A turn that began before it was asked for, while the state that it starts from was hashed and saved."""

    turn: Train  # as it is going to be asked for, but for the base's digest and some of its time
    started_at: float
    asked: Train | None = None
    is_void: bool = False
    work: Work[Any] | Raised | None = None

    def fits(self, turn: Train) -> bool:
        return _work_of(turn) == _work_of(self.turn)


class Turns:
    """Of one run of one member, one at a time."""

    def __init__(
        self,
        means: Means,
        rounds: Rounds,
        keeper: StateKeeper[Any, Any] | StorageKeeper,
        meter: RoundMeter,
        do: Callable[[list[Effect]], None],
        offer: Callable[[Offered], None],
    ) -> None:
        self._means = means
        self._rounds = rounds
        self._keeper = keeper
        self._meter = meter
        self._do = do
        self._offer = offer
        self._lock = trio.Lock()  # held while a turn is worked on, and by others while it is settled
        self._begun: _Begun | None = None
        self.is_void = False  # what is worked on is of no use
        self._last_samples = 0

    @asynccontextmanager
    async def settled(self) -> AsyncGenerator[None]:
        """Nothing is worked on; what began and was not asked for is given up."""
        if self._begun is not None and self._begun.asked is None:
            self._begun.is_void = True
        async with self._lock:
            await self._give_up()
            yield

    def begin(self, turn: Train, start: Callable[[Callable[[Any], Any], object], None]) -> None:
        """Work on what is going to be asked for, by a task that `start` starts."""
        audits = method_keeper(self._keeper).audits
        if audits is None or not audits.wants_starts:  # else others have to find what it starts from
            self._begun = _Begun(turn, trio.current_time())
            start(self._work_ahead, self._begun)

    async def _work_ahead(self, begun: _Begun) -> None:
        async with self._lock:
            if begun is self._begun:
                begun.work = await method_keeper(self._keeper).train(self._turn(begun.turn, partial(self._ends, begun)))

    def _ends(self, begun: _Begun) -> bool:
        """Read from the worker's thread, too."""
        if begun.asked is not None:
            return self._is_over(begun.asked)
        return self.is_void or begun.is_void or not self._rounds.is_in_time(begun.turn)  # no longer if it pauses

    async def _give_up(self) -> None:
        if self._begun is not None:
            self._begun = None
            await method_keeper(self._keeper).discard()

    async def train(self, effect: Train) -> None:
        said = ""
        while failure := await self._take_turn(effect):
            if failure != said:
                self._means.observe(Problem(f"nothing is contributed to round {effect.round} for now: {failure}"))
            said = failure
            self._do(self._rounds.sits_out(trio.current_time()))
            await trio.sleep(TRY_AGAIN_S)  # room or memory may be there by then; who is alone would wait for ever

    async def _take_turn(self, turn: Train) -> str | None:
        """Train and contribute, if it is not too late; or why it should be tried again."""
        keeper = method_keeper(self._keeper)
        if self._begun is not None and self._begun.fits(turn):
            self._begun.asked = turn
        elif self._begun is not None:
            self._begun.is_void = True
        async with self._lock:
            if self._is_over(turn):
                await self._give_up()
                self._do(self._rounds.gave_up(trio.current_time()))
                return None
            started_at = trio.current_time()
            start = await keeper.start(turn.base.round)
            if isinstance(start, str):
                return start
            begun = self._begun
            if begun is not None and begun.asked is turn and begun.work is not None:
                self._begun, started_at, work = None, begun.started_at, begun.work
            else:
                await self._give_up()
                work = await keeper.train(self._turn(turn, partial(self._is_over, turn)))
            if isinstance(work, Raised):
                return work.reason
            if (
                not work.samples and turn.round > turn.base.round + 1
            ):  # its turn from this state is made: it adds nothing
                await keeper.discard()
                self._do(self._rounds.gave_up(trio.current_time()))
                return None
            is_whole = not self._is_over(turn) or work.samples >= PART_MIN * self._last_samples > 0
            if self.is_void or not (is_whole and self._rounds.is_in_time(turn)):
                await keeper.discard()
                self._do(self._rounds.gave_up(trio.current_time()))
                return None
            offered = await self._contribution(turn, work, start)
            if isinstance(offered, Refusal):
                return offered.message
            if offered is not None:
                self._last_samples = work.samples
                self._contribute(offered, work, started_at)
            return None

    def _contribute(self, offered: Offered, work: Work[Any], started_at: float) -> None:
        method_keeper(self._keeper).offered(offered.hash)
        now = trio.current_time()
        self._meter.contribute(now)
        self._means.observe(
            LocalDone(offered.round, work.samples, now - started_at, _bytes_of(offered), dict(work.metrics))
        )
        self._offer(offered)

    def _turn(self, turn: Train, is_over: Callable[[], bool]) -> Turn:
        workers, me = self._means.workers, self._means.signer.peer_id
        return Turn(
            round=turn.round,
            base_round=turn.base.round,
            member=me,
            members=turn.members,
            seed=turn_seed(self._means.swarm, turn.round, turn.base.round, me),
            deadline_at=workers.clock() + turn.deadline_at - trio.current_time(),
            clock=workers.clock,
            is_over=is_over,
            has_contributed=turn.has_contributed,
        )

    def _is_over(self, turn: Train) -> bool:
        """Read from the worker's thread, too."""
        return self.is_void or self._rounds.is_over(turn)

    async def _contribution(self, turn: Train, work: Work[Any], start: BlobRef | None) -> Offered | Refusal | None:
        """The work as a contribution, its payload stored; None if there is nothing to contribute."""
        round, base = turn.round, turn.base
        payload = await self._payload(round, work)
        if isinstance(payload, Refusal):
            return payload
        if isinstance(payload, str):
            self._means.observe(Problem(f"nothing is contributed to round {round}: {payload}"))
            self._do(self._rounds.sits_out(trio.current_time()))
            return None
        contribution = Contribution(base.round, base.record, base.digest, work.samples, payload, start)
        offered = seal_contribution(self._means.signer, self._means.swarm, round, contribution)
        own = self._rounds.pool.of(self._means.signer.peer_id)
        envelopes = tuple(each.envelope for each in (*own, offered))
        try:
            await self._means.workers.run(partial(self._means.store.save_turns, envelopes))
        except OSError as error:
            # Not offered either: after a restart this member would make, and sign, another one for the same round.
            return disk_refusal(error)
        return offered

    async def _payload(self, round: int, work: Work[Any]) -> bytes | BlobRef | Refusal | str:
        """The work's payload, stored if it is too large to travel inside; or why there is nothing to contribute."""
        size, spec = sum(memoryview(piece).nbytes for piece in work.payload), self._means.spec
        if not 1 <= work.samples <= spec.samples_max:
            return f"{work.samples} samples stand behind the work; the spec allows 1 to {spec.samples_max}"
        if size > spec.payload_bytes_max:
            return f"the payload has {size} bytes; the spec allows {spec.payload_bytes_max}"
        if size <= INLINE_BYTES_MAX:
            return b"".join(work.payload)
        return await self._means.blobs.put(work.payload, pin=self._means.pins.label("round", round))


def _work_of(turn: Train) -> tuple[object, ...]:
    """All that what a turn makes follows from."""
    return turn.round, turn.base.round, turn.base.record, turn.members, turn.has_contributed


def _bytes_of(offered: Offered) -> int:
    """What there is of a contribution to be sent, once."""
    return len(offered.envelope) + (0 if offered.ref is None else offered.ref.size)


def method_keeper(keeper: StateKeeper[Any, Any] | StorageKeeper) -> StateKeeper[Any, Any]:
    """Who is asked to train, check and apply."""
    if isinstance(keeper, StorageKeeper):
        raise TypeError("the round core asked a storage member to train, check or apply")
    return keeper
