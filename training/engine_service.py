"""Carries out what the round core decides, and tells it how that ended. A shell."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import trio

from shoal.crdt.compact import Frontier
from shoal.crdt.service import StoreService
from shoal.transport.blobs import BlobRef
from shoal.transport.port import PeerId, Refusal

from .agreeing import Keep, Split
from .answers_service import Cores
from .attempt import Raised
from .audits_service import Auditing
from .calls import TellHead
from .checkpoints import Choice
from .checkpoints_service import ask_heads
from .compaction_service import Compactor
from .effects import (
    AdoptStore,
    AnnounceHeld,
    ApplyRecord,
    AskLog,
    AskProof,
    CheckPayload,
    Collect,
    Effect,
    FetchPayload,
    JudgeStore,
    KeepLeap,
    MarkStore,
    Observe,
    Recovered,
    Resync,
    SpreadWords,
    Train,
)
from .events import Evaluated, Event, Finished, Problem, Resynced
from .exchange_service import Exchange
from .log import ROUNDS_SERVED
from .log_asking_service import LogAsking
from .means import Means
from .members import Opine
from .membership_view import shares_of
from .metering import RoundMeter
from .method import EvaluatesSeldom
from .ports import BlobReader
from .records import Head, Offered
from .sharing_service import Sharing
from .state_service import Applied, StateKeeper
from .storage_service import StorageKeeper
from .turn_service import Turns, method_keeper
from .voting_effects import Save, Send
from .ways_service import Ways
from .writing_service import Writer

FETCH_PAUSE_S = 1.0  # before a payload that nobody could give is asked for again
CHECKED_AT_ONCE = 32  # payloads of at most INLINE_BYTES_MAX each; more: one that is slow to check holds up the others


class Engine:
    """One run of one member. A storage member has a StorageKeeper and is never asked to train, check or apply."""

    def __init__(
        self, means: Means, cores: Cores, keeper: StateKeeper[Any, Any] | StorageKeeper, store: StoreService
    ) -> None:
        self._means = means
        self._observe = means.observe
        self._cores = cores
        self._rounds = cores.rounds
        self._roster = cores.roster
        self._log = cores.log
        self._keeper = keeper
        self.exchange = Exchange(means, cores, self.do, self.look_soon, store.meet, lambda: self._meter.bytes_per_s)
        self._compactor = Compactor(means, store, cores, self.exchange.ask_store, self._store_adopted)
        self._log_asking = LogAsking(means.swarm, cores, means.workers, self.do)
        self.sharing = Sharing(store, means.signer.peer_id, self.exchange.introduce, means.observe)
        self.finished = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._backlog: list[tuple[Callable[[Any], Any], object]] = []  # what is to be done once `run` runs
        self._changed = trio.Event()
        self._unchecked: list[Offered] = []  # that travelled inside of their messages, being checked or about to be
        self._is_look_due = False
        self._state_lock = trio.Lock()  # one applies or goes over to another head at a time
        self._meter = RoundMeter(means.signer.peer_id, means.transport.traffic())
        self._turns = Turns(means, cores.rounds, keeper, self._meter, self.do, self.offer)
        self._writer = Writer(means, cores, self._written)
        self._auditing: Auditing | None = None
        if isinstance(keeper, StateKeeper):
            self._auditing = Auditing(means, keeper, lambda: self._rounds.ledger, self._start, self._opine)
        self._ways = Ways(means, cores, keeper, self.exchange, self._holders_of_head, lambda: self._meter.bytes_per_s)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                for task, argument in self._backlog:
                    nursery.start_soon(task, argument)
                nursery.start_soon(self._writer.run)
                nursery.start_soon(self._compactor.run)
                if self._rounds.position.snapshot is not None:
                    self._compactor.adopt(self._rounds.position.snapshot)
                await nursery.start(self.exchange.run)
                nursery.start_soon(self._watch_time)
                task_status.started()
                self.do(self._rounds.look(trio.current_time()))
        finally:
            self._turns.is_void = True

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
                case SpreadWords(changes):
                    self.exchange.spread(changes)
                case Save() | Keep() | KeepLeap() | Recovered() | Split() | Send() | ApplyRecord() | AdoptStore():
                    self._writer.put(effect)
                case Train():
                    self._start(self._turns.train, effect)
                case FetchPayload(offered):
                    self._start(self._fetch, offered)
                case CheckPayload(offered) if offered.ref is None:
                    self._unchecked.append(offered)
                    if len(self._unchecked) == 1:
                        self._start(self._check_small, None)
                case CheckPayload(offered):
                    self._start(self._check, offered)
                case Collect():
                    self._start(self._collect, effect)
                case MarkStore():
                    self._start(self._mark_store, effect)
                case JudgeStore():
                    self._start(self._judge_store, effect)
                case AskLog():
                    self._start(partial(self._log_asking.ask_log, self.exchange), effect)
                case AskProof():
                    self._start(partial(self._log_asking.ask_proof, self.exchange), effect)
                case Resync():
                    self._start(self._resync, effect)
        self._changed.set()

    def offer(self, offered: Offered, *, is_here: bool = True) -> None:
        """This member's contribution is on disk: bring it to the others; or, where its payload is lost, get it back."""
        if is_here:
            self.exchange.offer(offered)
            self.sharing.say_contribution(offered)
        contributed = self._rounds.contributed(trio.current_time(), offered, is_here=is_here)
        self.do([] if isinstance(contributed, str) else contributed)

    def has_votes_to_say(self) -> bool:
        """Whether this member has voted and some have yet to hear it."""
        return not self._cores.unwritten.is_done or self.exchange.has_ballots()

    def look_soon(self) -> None:
        """Each answer tells where a peer stands: what follows from many that come together is worked out once."""
        self._is_look_due = True
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
            if scope.cancelled_caught or self._is_look_due:
                self._is_look_due = False
                self.do(self._rounds.look(trio.current_time()))

    def _written(self, batch: list[Effect]) -> None:
        """These are on disk: go on with what had to wait for that."""
        for effect in batch:
            match effect:
                case Send(ballot, peer):
                    self.exchange.say(ballot, peer)
                case ApplyRecord():
                    self._start(self._apply, effect)
                case AdoptStore(store):
                    self._compactor.adopt(store)
                case _:
                    pass
        self._changed.set()

    # The others' parts ------------------------------------------------------------------------------------------

    async def _fetch(self, offered: Offered) -> None:
        """Have a contribution's payload here, however often it takes, while a record may take it."""
        ref, means = offered.ref, self._means
        if ref is None:
            return
        label, holders = means.pins.label("round", offered.round), partial(self._roster.holders, offered)
        patience_s = means.spec.round_s + means.spec.grace_s
        started_at = trio.current_time()
        while self._rounds.pool.get(offered.hash) is offered:
            refusal = await means.blobs.fetch(ref, holders, pin=label, timeout_s=patience_s)
            if refusal is None:
                self._meter.fetched(ref.size, trio.current_time() - started_at)
                self.do(self._rounds.fetched(trio.current_time(), offered))
                return
            await trio.sleep(FETCH_PAUSE_S)

    async def _check(self, offered: Offered) -> None:
        payload = method_keeper(self._keeper).reader(offered)
        if payload is None:
            await trio.sleep(FETCH_PAUSE_S)
            self.do(self._rounds.lost(offered))
        else:
            await self._check_all([(offered, payload)])

    async def _check_small(self, _: object) -> None:
        """All that came meanwhile at once: the way to a thread and back costs more than a small payload's check."""
        while self._unchecked:
            batch = self._unchecked[:CHECKED_AT_ONCE]
            readers = [(offered, method_keeper(self._keeper).reader(offered)) for offered in batch]
            await self._check_all([(offered, reader) for offered, reader in readers if reader is not None])
            del self._unchecked[: len(batch)]

    async def _check_all(self, payloads: Sequence[tuple[Offered, BlobReader]]) -> None:
        for (offered, _), wrong in zip(payloads, await method_keeper(self._keeper).check(payloads), strict=True):
            self.do(self._rounds.checked(trio.current_time(), offered, wrong))

    async def _collect(self, effect: Collect) -> None:
        first = () if effect.proposer is None else (effect.proposer,)
        others = tuple(peer for peer in self._roster.connected() if peer not in first)
        found = await self.exchange.collect(effect.missing, (*first, *others))
        self.do(self._rounds.collected(trio.current_time(), effect.record, effect.missing, found))

    async def _mark_store(self, effect: MarkStore) -> None:
        mark = await self._compactor.mark(effect.round, effect.writers)
        if mark is not None:
            self.do(self._rounds.store_marked(trio.current_time(), effect.round, mark))

    def _store_adopted(self, digest: bytes, frontier: Frontier) -> None:
        self.do(self._rounds.store_adopted(trio.current_time(), digest, frontier))

    async def _judge_store(self, effect: JudgeStore) -> None:
        is_right = await self._compactor.judge(effect.round, effect.mark)
        if is_right is not None:
            self.do(self._rounds.store_judged(trio.current_time(), effect.mark, is_right=is_right))

    async def _apply(self, effect: ApplyRecord) -> None:
        keeper, closed, started_at = method_keeper(self._keeper), effect.closed, trio.current_time()
        record = closed.record
        async with self._state_lock:
            if self._rounds.head.record != record.previous:
                return  # gone over to another head meanwhile
            weights = self._rounds.weights(effect.closed)
            made = await keeper.apply(effect.offers, weights, closed.voters) if effect.offers else keeper.state
            if isinstance(made, Refusal):
                self._observe(Problem(made.message))
                self.do(self._rounds.unapplied(trio.current_time(), effect.offers))
                return
            figures, is_taken = list[Event](), trio.Event()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._go_on, effect, made, is_taken, figures)
                digest = await keeper.digest(made) if effect.offers else self._rounds.head.digest
                await self._ways.keep(effect, weights)
                now, traffic = trio.current_time(), self._means.transport.traffic()
                round_at = started_at if self._rounds.started_at is None else self._rounds.started_at
                told = self._meter.close(now, round_at, started_at, traffic, closed, digest)
                self._observe(replace(told, weights=shares_of(closed, weights)))
                self._log.close(record.round, effect.offers)
                await is_taken.wait()
                if (
                    not effect.offers or record.round == self._rounds.ledger.newest
                ):  # else there is more to catch up with
                    head = Head(record.round, closed.hash, digest)
                    self._stood(head, await keeper.save(head))
                    self._audit(effect)
            for figure in figures:
                self._observe(figure)
            self.do(self._rounds.applied(trio.current_time(), closed, digest, keeper.evidence()))

    async def _go_on(self, effect: ApplyRecord, made: object, is_taken: trio.Event, figures: list[Event]) -> None:
        """Take the new state, evaluate it and begin the next turn, while it is hashed and saved."""
        if not effect.offers:  # the state stays, and with it whatever this member is making of it
            is_taken.set()
            return
        async with self._turns.settled():
            await method_keeper(self._keeper).go_on(made, frozenset(offered.hash for offered in effect.offers))
        is_taken.set()
        round = effect.closed.record.round
        if round == self._rounds.ledger.newest and self._rounds.started_at is not None:  # else it is late enough
            figures += await self._evaluate(round)
        turn = self._rounds.turn_after(trio.current_time(), effect.closed)
        if turn is not None:
            self._turns.begin(turn, self._start)

    def _opine(self, opinion: Opine) -> None:
        self.do(self._rounds.wants(trio.current_time(), opinion))  # nothing, where this node has no vote

    def _audit(self, effect: ApplyRecord) -> None:
        if self._auditing is not None:
            self._auditing.applied(effect.closed, effect.offers)

    async def _evaluate(self, round: int) -> list[Event]:
        keeper = method_keeper(self._keeper)
        if isinstance(keeper.method, EvaluatesSeldom) and not keeper.method.is_evaluated(round):
            return []
        figures = await keeper.evaluate()
        if isinstance(figures, Raised):
            return [Problem(f"evaluating failed after round {round}: {figures.reason}")]
        return [Evaluated(round, dict(figures))]

    # Other heads ------------------------------------------------------------------------------------------------

    async def _resync(self, effect: Resync) -> None:
        """Go over to a head that others tell."""
        choice = await ask_heads(self.exchange, self._cores, effect.holders)
        if choice is None:
            self.do(self._rounds.resync_failed(trio.current_time(), effect.holders))
            return
        told, tellers = choice.told, choice.tellers
        applied: Applied[Any] = Applied(self._keeper.state, told.head.digest)
        if told.head.digest and told.checkpoint is not None:
            arrived = await self._ways.go(choice)
            if isinstance(arrived, str):
                self._observe(Problem(arrived))
                self.do(self._rounds.resync_failed(trio.current_time(), tellers))
                return
            applied = arrived
        await self._go_over(choice, applied)
        await self._ways.fill()

    async def _go_over(self, choice: Choice, applied: Applied[Any]) -> None:
        told, source = choice.told, choice.tellers[0]
        async with self._state_lock:
            before = self._rounds.head
            if not self._rounds.is_better(told.head):
                self.do(self._rounds.resync_failed(trio.current_time(), ()))
                return
            self._turns.is_void = True
            async with self._turns.settled():
                self._turns.is_void = False
                checkpoint = await self._keeper.stand_at(told.head, applied, frozenset())
            self._stood(told.head, checkpoint)
            for peer in choice.tellers:
                self._roster.trust(peer)
            self._observe(Resynced(before.round, told.head.round, source))
            self.do(self._rounds.adopted(trio.current_time(), told.head, self._keeper.evidence()))

    def _holders_of_head(self, told: TellHead, tellers: tuple[PeerId, ...]) -> tuple[PeerId, ...]:
        """Who can give the checkpoint: who told of it, all who stand there or say that they hold it, the rest."""
        others = [peer for peer in self._roster.connected() if peer not in tellers]
        known = set[PeerId]() if told.checkpoint is None else self.sharing.holders(told.checkpoint)
        others.sort(key=lambda peer: (self._roster.head(peer) != told.head and peer not in known, peer))
        return (*tellers, *others)

    def _stood(self, head: Head, checkpoint: BlobRef | str | None) -> None:
        """A new head is saved, if it can be: answer with it, let go of what is old."""
        if isinstance(checkpoint, str):
            self._observe(Problem(checkpoint))
            checkpoint = None
        self._log.told = TellHead(head, checkpoint)
        if checkpoint is not None:
            self.sharing.say_checkpoint(head.round, checkpoint)
        late = self._means.spec.stale_rounds_max
        audited = self._keeper.states_kept if isinstance(self._keeper, StateKeeper) else 0
        self._means.pins.keep_newest("round", head.round, max(ROUNDS_SERVED + late, audited), ahead=late + 2)
