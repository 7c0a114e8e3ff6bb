"""Carries out what the round core decides, and tells it how that ended. A shell."""

from collections.abc import Callable
from functools import partial
from typing import Any

import trio

from shoal.crdt.service import StoreService
from shoal.transport.blob_disk import disk_refusal
from shoal.transport.blobs import BlobRef
from shoal.transport.port import PeerId, Refusal

from .answers_service import Cores
from .attempt import Raised
from .effects import (
    AnnounceHeld,
    ApplyRecord,
    AskRecords,
    CheckPayload,
    Collect,
    Effect,
    FetchPayload,
    Observe,
    ProposeRecord,
    Resync,
    Train,
)
from .events import Evaluated, Finished, LocalDone, Problem, Resynced
from .exchange_service import Exchange, Means
from .heads import contributors_of, head_after, proof
from .log import RECORDS_KEPT
from .metering import RoundMeter
from .method import Turn, Work
from .records import (
    INLINE_BYTES_MAX,
    Contribution,
    Offered,
    Proposed,
    TellHead,
    seal_contribution,
    seal_proposal,
    turn_seed,
)
from .sharing_service import Sharing
from .state_service import StateKeeper
from .storage_service import StorageKeeper

TRY_AGAIN_S = 10.0  # after training or storing failed
FETCH_PAUSE_S = 1.0  # before a payload that nobody could give is asked for again


class Engine:
    """One run of one member. A storage member has a StorageKeeper and is never asked to train, check or apply."""

    def __init__(
        self, means: Means, cores: Cores, keeper: StateKeeper[Any, Any] | StorageKeeper, store: StoreService
    ) -> None:
        self._means = means
        self._observe = means.observe
        self._rounds = cores.rounds
        self._roster = cores.roster
        self._log = cores.log
        self._keeper = keeper
        self.exchange = Exchange(means, cores, self.do, store.meet)
        self.sharing = Sharing(store, means.signer.peer_id, self.exchange.introduce, means.observe)
        self.finished = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._backlog: list[tuple[Callable[[Any], Any], object]] = []  # what is to be done once `run` runs
        self._changed = trio.Event()
        self._fetches: set[trio.CancelScope] = set()  # of the open round's payloads
        self._state_lock = trio.Lock()  # one applies or goes over to another head at a time
        self._turn_lock = trio.Lock()  # held while this member's turn is worked on, and while it is settled
        self._is_turn_void = False
        self._meter = RoundMeter(means.signer.peer_id, means.transport.traffic())

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                for task, argument in self._backlog:
                    nursery.start_soon(task, argument)
                await nursery.start(self.exchange.run)
                nursery.start_soon(self._watch_time)
                task_status.started()
                self.do(self._rounds.look(trio.current_time()))
        finally:
            self._is_turn_void = True

    def do(self, effects: list[Effect]) -> None:
        """Carry these out; what takes time goes on in a task of its own."""
        for effect in effects:
            match effect:
                case Observe(event):
                    self._observe(event)
                    if isinstance(event, Finished):
                        self.finished.set()
                case AnnounceHeld():
                    self.exchange.announce()
                case ProposeRecord(record):
                    proposed = seal_proposal(self._means.signer, self._means.swarm, record)
                    self.exchange.propose(proposed)
                    own = self._rounds.proposed(trio.current_time(), proposed)
                    self.do([] if isinstance(own, str) else own)
                case Train():
                    self._start(self._train, effect)
                case FetchPayload(offered):
                    self._start(self._fetch, offered)
                case CheckPayload(offered):
                    self._start(self._check, offered)
                case Collect():
                    self._start(self._collect, effect)
                case ApplyRecord():
                    self._start(self._apply, effect)
                case AskRecords():
                    self._start(self._ask_records, effect)
                case Resync():
                    self._start(self._resync, effect)
        self._changed.set()

    async def wait_for_change(self) -> None:
        """Until something was heard or done."""
        await self._changed.wait()

    def _start(self, task: Callable[[Any], Any], argument: object) -> None:
        if self._nursery is None:
            self._backlog.append((task, argument))
        else:
            self._nursery.start_soon(task, argument)

    async def _watch_time(self) -> None:
        """Wake the core when it wants to be woken."""
        while True:
            self._changed = trio.Event()
            with trio.move_on_at(self._rounds.deadline(trio.current_time())) as scope:
                await self._changed.wait()
            if scope.cancelled_caught:
                self.do(self._rounds.look(trio.current_time()))

    # One's own part ---------------------------------------------------------------------------------------------

    async def _train(self, effect: Train) -> None:
        said = ""
        while failure := await self._take_turn(effect):
            if failure != said:
                self._observe(Problem(f"nothing is contributed to round {effect.round} for now: {failure}"))
            said = failure
            self.do(self._rounds.sits_out(trio.current_time()))
            await trio.sleep(TRY_AGAIN_S)  # room or memory may be there by then; who is alone would wait for ever

    async def _take_turn(self, effect: Train) -> str | None:
        """Train and contribute, if it is not too late; or why it should be tried again."""
        keeper = self._method_keeper()
        async with self._turn_lock:
            if self._is_over(effect.round) or self._rounds.has_contributed():
                return None
            started_at = trio.current_time()
            work = await keeper.train(self._turn(effect))
            if isinstance(work, Raised):
                return work.reason
            if self._is_over(effect.round):
                if self._rounds.round == effect.round:  # paused; else the round's end settles it
                    await keeper.discard()
                return None
            offered = await self._contribution(effect.round, work)
            if isinstance(offered, Refusal):
                return offered.message
            if offered is None or self._is_over(effect.round):
                return None
            keeper.offered(offered.hash)
            now = trio.current_time()
            self._meter.contribute(now)
            self._observe(LocalDone(effect.round, work.samples, now - started_at, dict(work.metrics)))
            self.exchange.offer(offered)
            self.sharing.say_contribution(offered)
            contributed = self._rounds.contributed(now, offered)
            self.do([] if isinstance(contributed, str) else contributed)
            return None

    def _turn(self, effect: Train) -> Turn:
        workers, me = self._means.workers, self._means.signer.peer_id
        return Turn(
            round=effect.round,
            member=me,
            members=effect.members,
            seed=turn_seed(self._means.swarm, effect.round, me),
            deadline_at=workers.clock() + effect.deadline_at - trio.current_time(),
            clock=workers.clock,
            is_over=partial(self._is_over, effect.round),
        )

    def _is_over(self, round: int) -> bool:
        """Read from the worker's thread, too."""
        return self._is_turn_void or self._rounds.is_over(round)

    async def _contribution(self, round: int, work: Work[Any]) -> Offered | Refusal | None:
        """The work as a contribution, its payload stored; None if there is nothing to contribute."""
        payload = await self._payload(round, work)
        if isinstance(payload, Refusal):
            return payload
        if isinstance(payload, str):
            self._observe(Problem(f"nothing is contributed to round {round}: {payload}"))
            self.do(self._rounds.sits_out(trio.current_time()))
            return None
        head = self._rounds.head
        contribution = Contribution(head.record, head.digest, work.samples, payload)
        offered = seal_contribution(self._means.signer, self._means.swarm, round, contribution)
        try:
            await self._means.workers.run(partial(self._means.store.save_turn, round, offered.envelope))
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

    # The others' parts ------------------------------------------------------------------------------------------

    async def _fetch(self, offered: Offered) -> None:
        """Have a contribution's payload here, however often it takes, while its round is open."""
        ref, means = offered.ref, self._means
        if ref is None:
            return
        label, holders = means.pins.label("round", offered.round), partial(self._roster.holders, offered)
        patience_s = means.spec.round_s + means.spec.grace_s
        with trio.CancelScope() as scope:
            self._fetches.add(scope)
            while True:
                refusal = await means.blobs.fetch(ref, holders, pin=label, timeout_s=patience_s)
                if refusal is None:
                    break
                await trio.sleep(FETCH_PAUSE_S)
        self._fetches.discard(scope)
        if not scope.cancelled_caught:
            self.do(self._rounds.fetched(trio.current_time(), offered))

    async def _check(self, offered: Offered) -> None:
        wrong = await self._method_keeper().check(offered)
        self.do(self._rounds.checked(trio.current_time(), offered, wrong))

    async def _collect(self, effect: Collect) -> None:
        proposer = effect.proposed.proposer
        others = tuple(peer for peer in self._roster.connected() if peer != proposer)
        found = await self.exchange.collect(effect.missing, (proposer, *others))
        self.do(self._rounds.collected(trio.current_time(), effect.proposed, found))

    async def _apply(self, effect: ApplyRecord) -> None:
        keeper, proposed, started_at = self._method_keeper(), effect.proposed, trio.current_time()
        async with self._state_lock:
            if self._rounds.head.record != proposed.record.previous:
                return  # gone over to another head meanwhile
            applied = await keeper.apply(effect.offers)
            if isinstance(applied, str):
                self._observe(Problem(applied))
                self.do(self._rounds.unapplied(trio.current_time(), proposed))
                return
            taken = frozenset(offered.hash for offered in effect.offers)
            now, traffic = trio.current_time(), self._means.transport.traffic()
            round_at = started_at if self._rounds.started_at is None else self._rounds.started_at
            self._observe(self._meter.close(now, round_at, started_at, traffic, proposed, applied.digest))
            head = head_after(proposed, applied.digest)
            async with self._turn_lock:
                checkpoint = await keeper.stand_at(head, proposed, applied.state, taken)
            self._log.close(proposed, effect.offers)
            await self._stood(TellHead(head, proposed.envelope, self._saved(checkpoint)))
            figures = await keeper.evaluate()
            if isinstance(figures, Raised):
                self._observe(Problem(f"evaluating failed after round {head.round}: {figures.reason}"))
            else:
                self._observe(Evaluated(head.round, dict(figures)))
            self.do(self._rounds.applied(trio.current_time(), proposed, applied.digest))

    # Other heads ------------------------------------------------------------------------------------------------

    async def _ask_records(self, effect: AskRecords) -> None:
        proposed = await self.exchange.ask_record(effect.round, effect.holders)
        is_found = False
        if proposed is not None:
            # Who closed the round may be unknown here or gone: that it leads to a head others stand at is what counts.
            heard = self._rounds.caught_up(trio.current_time(), proposed)
            is_found = not isinstance(heard, str)
            self.do([] if isinstance(heard, str) else heard)
        self.do(self._rounds.asked(trio.current_time(), is_found))

    async def _resync(self, effect: Resync) -> None:
        """Go over to a head that others tell."""
        told, source = await self._ask_heads(effect)
        if told is None:
            self.do(self._rounds.resync_failed(trio.current_time(), effect.holders))
            return
        proposed = proof(told, self._means.swarm)
        state: Any = self._keeper.state
        if told.head.digest and told.checkpoint is not None:
            holders = partial(self._holders_of_head, told, source)
            fetched = await self._keeper.fetch_state(told.head, told.checkpoint, holders)
            if isinstance(fetched, str):
                self._observe(Problem(f"the state of round {told.head.round} cannot be had from {source}: {fetched}"))
                self.do(self._rounds.resync_failed(trio.current_time(), (source,)))
                return
            state = fetched.state
        await self._go_over(told, proposed, state, source)

    async def _go_over(self, told: TellHead, proposed: Proposed | None, state: Any, source: PeerId) -> None:
        async with self._state_lock:
            before = self._rounds.head
            if not self._rounds.is_better(told.head):
                self.do(self._rounds.resync_ended(trio.current_time()))
                return
            self._is_turn_void = True
            async with self._turn_lock:
                self._is_turn_void = False
                checkpoint = await self._keeper.stand_at(told.head, proposed, state, frozenset())
            if proposed is not None:
                offers = (self._rounds.offer(taken.contribution) for taken in proposed.record.taken)
                self._log.close(proposed, tuple(offered for offered in offers if offered is not None))
            await self._stood(TellHead(told.head, told.proposal, self._saved(checkpoint)))
            self._roster.trust(source)
            self._observe(Resynced(before.round, told.head.round, source))
            self.do(self._rounds.adopted(trio.current_time(), told.head, contributors_of(proposed)))

    async def _ask_heads(self, effect: Resync) -> tuple[TellHead | None, PeerId]:
        """A better head with its proof, from the first of its holders that gives one."""
        for peer in effect.holders:
            told = await self.exchange.ask_head(peer)
            if (
                told is None
                or not self._rounds.is_better(told.head)
                or (told.head.round and not proof(told, self._means.swarm))
            ):
                continue
            if not told.head.digest or told.checkpoint is not None:
                return told, peer
        return None, self._means.signer.peer_id

    def _holders_of_head(self, told: TellHead, source: PeerId) -> tuple[PeerId, ...]:
        """Who can give the checkpoint: whoever told of it, all who stand there or say that they hold it, the rest."""
        others = [peer for peer in self._roster.connected() if peer != source]
        known = set[PeerId]() if told.checkpoint is None else self.sharing.holders(told.checkpoint)
        others.sort(key=lambda peer: (self._roster.head(peer) != told.head and peer not in known, peer))
        return (source, *others)

    async def _stood(self, told: TellHead) -> None:
        """A new head is saved: answer with it, let go of what is old."""
        self._log.told = told
        if told.checkpoint is not None:
            self.sharing.say_checkpoint(told.head.round, told.checkpoint)
        for scope in self._fetches:
            scope.cancel()
        self._means.pins.keep_newest("round", told.head.round, RECORDS_KEPT)

    def _saved(self, checkpoint: BlobRef | str | None) -> BlobRef | None:
        if isinstance(checkpoint, str):
            self._observe(Problem(checkpoint))
            return None
        return checkpoint

    def _method_keeper(self) -> StateKeeper[Any, Any]:
        if isinstance(self._keeper, StorageKeeper):
            raise TypeError("the round core asked a storage member to train, check or apply")
        return self._keeper
