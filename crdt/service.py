"""A swarm's replicated store on a node: keeps it equal with its peers' and on disk. A shell: it decides nothing.

Everything that comes, by gossip or exchange, is taken in at once and on disk soon; the node's own operations are on
disk before they are applied, so before anybody hears of them.
"""

import logging
import secrets
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import trio

from shoal.transport.blocking_service import RunBlocking, run_in_thread
from shoal.transport.identity import peer_id_of
from shoal.transport.port import GOSSIP_BYTES_MAX, Code, PeerConnected, PeerId, Refusal, Transport
from shoal.transport.wire import Malformed

from .cells import Key
from .changes_service import Changes
from .compact import Snapshot, digest_of, read_snapshot
from .disk_service import Disk
from .dots import Writer
from .exchange import Asking, Busy, Exchanges, NeedsSnapshot, Question
from .exchange_messages import EXCHANGE_VERSION, Calls, Compare, Compared, Settle, Settled, topic
from .guard import Guard, Standing
from .heads import SALT_BYTES
from .operation import BatchSigner, Operation, Stretch
from .partners import Partners
from .replica import Admission, Adoption, Replica
from .rules import Records, Rules
from .status import Exchanged, Status
from .store import Store

COMPARE_S: Final = 3.0  # for 65 KB; longer: peers that keep silent hold up those that do not
ANSWER_S: Final = 20.0  # for a piece of 256 KB over a slow line
EXCHANGE_S: Final = 300.0
SLICE: Final = 32  # batches taken in, at 0.1 ms each, before others have their turn
WRITES_MAX: Final = 256  # own writes that wait; more are refused
SUBSCRIPTIONS_MAX: Final = 64
NEEDS_MAX: Final = 64  # snapshots that peers have and are needed here

_DAMAGED: Final = "the store's file was damaged and is put aside; the other members fill a new one"

_GONE: Final = (Code.BUSY, Code.UNREACHABLE, Code.CANCELLED)  # nobody's fault

log = logging.getLogger(__name__)


class StoreService:
    """See the module's text.

    Args:
        store: closed when `run` ends.
        signer: whose operations `write` writes.
        blocking: how calls that wait for the disk are run.
        meets_all: whoever is connected is a partner; else only those whom `meet` names.
    """

    def __init__(
        self,
        swarm: bytes,
        rules: Rules,
        transport: Transport,
        store: Store,
        signer: BatchSigner,
        records: Records | None = None,
        *,
        blocking: RunBlocking = run_in_thread,
        meets_all: bool = True,
    ) -> None:
        self.replica = Replica(swarm, rules, records)  # for reading
        self._transport = transport
        self._signer = signer
        self._own = Writer(signer.public_key)
        self._disk = Disk(store, self.replica, blocking)
        self._blocking = blocking
        self._calls = Calls(swarm)
        self._topic = topic(swarm)
        self._exchanges = Exchanges(self.replica, self._own)
        self._meets_all = meets_all
        self._partners = Partners(0, 0.0)
        self._guard = Guard()
        self._wake = trio.Event()
        self._may_write = trio.Event()
        self._turn = trio.Lock()  # own writes come one after the other: each sees those before it
        self._turns_count = 0
        self._readers: list[Changes] = []
        self._last: Exchanged | None = None
        self._round_trips = 0
        self._intakes: dict[PeerId, trio.Lock] = {}  # one message's batches of a peer at a time
        self._needs: dict[Writer, NeedsSnapshot] = {}

    async def load(self) -> str:
        """Read what is on disk; once, before `run`. Raises StoreError if it cannot be read.

        Returns what people should know of what was found, if anything.
        """
        is_damaged = await self._disk.load()
        self._exchanges.update(self.replica.heads())
        own = self.replica.chain(self._own)
        has_ended = own.is_forked if own is not None else not self.replica.has_room(self._own)
        self._guard = Guard(is_damaged=is_damaged, has_ended=has_ended)
        return _DAMAGED if is_damaged else ""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep equal until cancelled."""
        # Whom it asks when is no secret, and no two nodes ask in step.
        self._partners = Partners(int.from_bytes(self._own[:8]), trio.current_time())
        try:
            async with trio.open_nursery() as self._nursery:
                nursery = self._nursery
                self._transport.serve(self._calls.compare, self._on_compare)
                self._transport.serve(self._calls.settle, self._on_settle)
                nursery.start_soon(self._disk.run)
                nursery.start_soon(self._exchange_often, nursery)
                with self._transport.subscribe(self._topic, self._is_news):
                    task_status.started()
                    await self._watch()
        finally:
            for method in (self._calls.compare.name, self._calls.settle.name):
                self._transport.stop_serving(method)
            await self._disk.close()

    def meet(self, peer: PeerId) -> None:
        """A connected peer keeps this store as well."""
        self._partners.connected(peer, trio.current_time())
        self._wake.set()

    async def write(self, make: Callable[[Replica], Sequence[Operation]]) -> Stretch | Malformed | Refusal:
        """The node's own operations, made from the state as it is then, in one batch. On disk when this returns.

        Waits while peers have not said how far this node's chain goes. Refusal: the node may not write, or not now.
        """
        if self._turns_count >= WRITES_MAX:
            return Refusal(Code.BUSY, f"{WRITES_MAX} writes wait already: {self._guard.standing.value}")
        self._turns_count += 1
        try:
            await self._may_write.wait()
            async with self._turn:
                return await self._write(make)
        finally:
            self._turns_count -= 1

    @asynccontextmanager
    async def changes(self) -> AsyncGenerator[Changes, None]:
        """Which keys change from now on."""
        if len(self._readers) >= SUBSCRIPTIONS_MAX:
            raise RuntimeError(f"more than {SUBSCRIPTIONS_MAX} readers of one store's changes")
        reader = Changes()
        self._readers.append(reader)
        try:
            yield reader
        finally:
            self._readers.remove(reader)

    async def copy_to(self, path: Path) -> None:
        """Put what is on disk into a file of its own. Raises StoreError."""
        await self._disk.copy_to(path)

    def records_came(self) -> None:
        """The swarm's records have become more: what waited for them may count."""
        self._keep(self.replica.records_came())

    async def adopt(self, pieces: Sequence[bytes], digest: bytes) -> Adoption | Malformed | Refusal:
        """Put an agreed snapshot in the place of all operations up to its frontier, here and on disk.

        Args:
            digest: of the snapshot that was agreed on. The pieces may come from anybody.

        Refusal: it is in force, but not on disk yet; own writes wait until it is.
        """
        snapshot = await self._blocking(partial(_read, pieces, digest, self.replica.swarm))
        if isinstance(snapshot, Malformed):
            return snapshot
        async with self._turn:  # or an own write could follow what only memory knows
            own = self.replica.chain(self._own)
            adoption = self.replica.adopt(snapshot)
            if isinstance(adoption, Malformed):
                return adoption
            if self._own in snapshot.frontier and self.replica.chain(self._own) is not own:
                self._came_back()
            self._exchanges.update({*snapshot.frontier, *adoption.admission.writers})
            self._needs = {writer: need for writer, need in self._needs.items() if writer not in snapshot.frontier}
            self._tell(adoption.touched | adoption.admission.touched)
            problem = await self._disk.compact(snapshot, adoption.admission)
        return Refusal(Code.REFUSED, problem) if problem else adoption

    def status(self) -> Status:
        heads = self.replica.heads()
        forked = tuple(sorted(peer_id_of(writer) for writer, head in heads.items() if head.is_forked))
        problems = [self._disk.problem] if self._disk.problem else []
        if self._guard.standing is Standing.REFUSES:
            problems.append(self._refused().message)
        needs = tuple(self._needs.values())
        count = sum(self.replica.context().values())
        return Status(
            len(heads), count, forked, self._guard.standing, self._last, self._round_trips, needs, tuple(problems)
        )

    # Own operations.

    async def _write(self, make: Callable[[Replica], Sequence[Operation]]) -> Stretch | Malformed | Refusal:
        if self._guard.standing is Standing.REFUSES:
            return self._refused()
        stretch = self.replica.draft(self._signer, make(self.replica))
        if isinstance(stretch, Malformed):
            return stretch
        problem = await self._disk.append(stretch)
        if problem:
            return Refusal(Code.REFUSED, problem)
        admission = self.replica.admit(stretch.data, is_trusted=True)
        self._exchanges.update([stretch.writer])
        self._tell(admission.touched)
        if len(stretch.data) <= GOSSIP_BYTES_MAX:
            self._transport.publish(self._topic, stretch.data)
        return stretch

    def _refused(self) -> Refusal:
        if not self.replica.has_room(self._own):
            most = self.replica.rules.writers_max
            return Refusal(Code.REFUSED, f"more than {most} write in this swarm, who all come before this node")
        return Refusal(
            Code.REFUSED,
            f"{peer_id_of(self._own)} has written operations that this disk does not have: its data directory was "
            "copied, restored from a backup, or its store deleted. Writing on would fork its history, and nothing it "
            "writes would count. Stop the other copy, if there is one, and give this node a new key: stop it, move "
            "identity.key out of its data directory, and start it.",
        )

    # What comes.

    def _is_news(self, peer: PeerId, data: bytes) -> bool:
        admission = self._exchanges.take(data)
        self._keep(admission)
        if admission.missing is not None:
            self._partners.is_missing(peer, trio.current_time())
            self._wake.set()
        return admission.is_news

    def _keep(self, admission: Admission) -> None:
        if self._own in admission.writers:
            self._came_back()
            if not self.replica.has_room(self._own):
                admission.forked.remove(self._own)  # it stays on this disk: there must not be another beginning
        self._disk.put(admission)
        self._exchanges.update({self._own, *admission.writers})
        self._tell(admission.touched)

    def _came_back(self) -> None:
        self._guard.came_back()
        self._look()

    def _tell(self, keys: set[Key]) -> None:
        for reader in self._readers:
            reader.tell(keys)

    # Exchanges.

    async def _on_compare(self, peer: PeerId, request: Compare) -> Compared | Refusal:
        if request.version > EXCHANGE_VERSION:
            return Refusal(Code.NEEDS_NEWER, f"version {request.version} of the store's exchange needs a newer Shoal")
        async with self._intake(peer):
            now = trio.current_time()
            self._partners.heard(peer, now)
            reply = Busy() if self._partners.is_doubted(peer, now) else self._exchanges.compared(peer, request, now)
        return Refusal(Code.BUSY, "too many comparisons") if isinstance(reply, Busy) else reply

    async def _on_settle(self, peer: PeerId, request: Settle) -> Settled | Refusal:
        async with self._intake(peer):  # what it handed over before comes first
            now = trio.current_time()
            self._partners.heard(peer, now)
            reply = Busy() if self._partners.is_doubted(peer, now) else self._exchanges.settled(peer, request, now)
        if isinstance(reply, Busy):
            return Refusal(Code.BUSY, "too many pieces")
        # While both sides take in what they got, neither waits for the other.
        await self._nursery.start(self._take_given, peer, request.batches)
        return reply

    def _intake(self, peer: PeerId) -> trio.Lock:
        return self._intakes.setdefault(peer, trio.Lock())

    async def _take_given(
        self, peer: PeerId, batches: Sequence[bytes], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        kept = 0
        async with self._intake(peer):
            task_status.started()
            async for admission in self._take(batches):
                kept += len(admission.kept)
                if admission.refusal is not None:
                    self._partners.doubt(peer, trio.current_time())
                elif admission.missing is not None:
                    self._partners.is_missing(peer, trio.current_time())
        self._partners.heard(peer, trio.current_time())
        self._spread(peer, kept)

    async def _take(self, batches: Iterable[bytes]) -> AsyncGenerator[Admission, None]:
        """In slices, so that nothing else waits for long; up to the first that is refused."""
        for count, data in enumerate(batches, 1):
            admission = self._exchanges.take(data)
            self._keep(admission)
            if admission.is_news and len(data) <= GOSSIP_BYTES_MAX:
                self._transport.heard(self._topic, data)
            yield admission
            if admission.refusal is not None:
                return
            if count % SLICE == 0:
                await trio.lowlevel.checkpoint()

    async def _watch(self) -> None:
        while True:
            async with self._transport.events() as events:
                async for event in events:
                    if isinstance(event, PeerConnected):
                        if self._meets_all:
                            self._partners.connected(event.peer, trio.current_time())
                    elif all(connection.peer != event.peer for connection in self._transport.connections()):
                        self._partners.disconnected(event.peer)
                        self._intakes.pop(event.peer, None)
                    self._wake.set()

    async def _exchange_often(self, nursery: trio.Nursery) -> None:
        while True:
            self._wake = trio.Event()
            now = trio.current_time()
            while (peer := self._partners.begin(now)) is not None:
                nursery.start_soon(self._exchange, peer)
            self._guard.look(now)
            self._look()
            if self._guard.is_damaged and self._guard.standing is Standing.WRITES:
                self._guard.is_damaged = False
                await self._disk.recovered()
            with trio.move_on_at(min(self._partners.deadline, self._guard.deadline)):
                await self._wake.wait()

    async def _exchange(self, peer: PeerId) -> None:
        asking = self._exchanges.ask(peer, secrets.token_bytes(SALT_BYTES))
        with trio.move_on_after(EXCHANGE_S) as scope:
            while (question := asking.question) is not None:
                await self._ask(peer, asking, question)
        if scope.cancelled_caught:
            asking.fail("it is too slow")
        now, outcome = trio.current_time(), asking.outcome
        if outcome.failure:
            log.info("an exchange with %s failed: %s", peer, outcome.failure)
        self._last = Exchanged(peer, now, outcome)
        self._round_trips += outcome.round_trips
        for need in outcome.needs:
            if len(self._needs) < NEEDS_MAX:
                self._needs[need.writer] = need
        if outcome.agrees:
            self._guard.agrees(peer, now)
        self._partners.ended(peer, outcome, now)
        self._spread(peer, outcome.kept_count)

    async def _ask(self, peer: PeerId, asking: Asking, question: Question) -> None:
        request = self._transport.request
        reply: Compared | Settled | Refusal
        if isinstance(question, Compare):
            reply = await request(peer, self._calls.compare, question, timeout_s=COMPARE_S)
        else:
            reply = await request(peer, self._calls.settle, question, timeout_s=ANSWER_S)
        if isinstance(reply, Refusal):
            if reply.code in _GONE:
                asking.leave()
            else:
                asking.fail(reply.message)
            return
        async for admission in self._take(asking.answered(reply, trio.current_time())):
            asking.took(admission)
        asking.go_on(trio.current_time())

    def _spread(self, source: PeerId, kept: int) -> None:
        if kept:
            self._partners.has_news(source, trio.current_time())
        self._wake.set()

    def _look(self) -> None:
        """Let own writes go on, or end their waiting."""
        if self._guard.standing is not Standing.ASKING:
            self._may_write.set()


def _read(pieces: Sequence[bytes], digest: bytes, swarm: bytes) -> Snapshot | Malformed:
    """The snapshot in `pieces`; a thread's work, as it may be large."""
    if digest_of(pieces) != digest:
        return Malformed("a snapshot that is not the one agreed on")
    return read_snapshot(pieces, swarm)
