"""What a node keeps of a store, on its way to disk: one worker thread, and a transaction for all that waits."""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, TypeVar

import trio

from shoal.transport.blocking_service import RunBlocking
from shoal.transport.wire import Malformed

from .compact import Snapshot, digest_of, read_snapshot
from .dots import Writer
from .operation import Stretch
from .replica import Admission, Replica
from .store import Fault, Store, StoreError

WAITING_MAX: Final = 4096  # batches; beyond, and while the disk is full, only whose they are is remembered
RETRY_S: Final = 5.0

T = TypeVar("T")
log = logging.getLogger(__name__)


class Disk:
    """See the module's text. `replica` holds all that waits here."""

    def __init__(self, store: Store, replica: Replica, blocking: RunBlocking) -> None:
        self._store = store
        self._replica = replica
        self._run = blocking
        self._thread = trio.CapacityLimiter(1)
        self._waiting: list[Stretch] = []
        self._behind: set[Writer] = set()  # whose batches on disk are to be replaced as a whole
        self._snapshot: Snapshot | None = None  # that is to take the place of what is below it
        self._writing = trio.Lock()
        self._wake = trio.Event()
        self.problem = ""  # that keeps it from writing

    async def load(self) -> bool:
        """Feed the replica, which nobody uses yet, with what is on disk. Returns whether the disk has lost some."""
        return await self._blocking(self._load)

    async def run(self) -> None:
        """Write what waits until cancelled."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            if not await self._write():
                await trio.sleep(RETRY_S)
                self._wake.set()

    def put(self, admission: Admission) -> None:
        """Store what was kept, soon."""
        self._behind |= admission.forked
        self._waiting += [each for each in admission.kept if each.writer not in admission.forked]
        if len(self._waiting) > WAITING_MAX:
            self._forget()
        if self._is_behind():
            self._wake.set()

    async def compact(self, snapshot: Snapshot, admission: Admission) -> str:
        """Put an adopted snapshot in the place of what it stands for. Returns what keeps it from there, for now."""
        self._snapshot = snapshot
        self.put(admission)
        await self._write()
        return self.problem

    async def append(self, stretch: Stretch) -> str:
        """A batch of the node's own is on disk when this returns nothing; else what keeps it from there."""
        async with self._writing:  # else what is being tried again right now would not be seen to be behind
            if self.problem and self._is_behind():
                return self.problem  # there is no room for what came before either
            try:
                await self._blocking(lambda: self._store.append([stretch]))
            except StoreError as error:
                self._say(error)
                return self.problem
            self.problem = ""
            return ""

    async def copy_to(self, path: Path) -> None:
        """Put what is on disk into a file of its own. Raises StoreError."""
        await self._blocking(lambda: self._store.copy_to(path))

    async def recovered(self) -> None:
        """What the disk had lost is here again."""
        try:
            await self._blocking(self._store.recovered)
        except StoreError as error:
            self._say(error)

    async def close(self) -> None:
        """Write what waits, and close the file."""
        with trio.CancelScope(shield=True):
            await self._write()
            await self._blocking(self._store.close)

    def _is_behind(self) -> bool:
        return bool(self._waiting or self._behind or self._snapshot)

    async def _write(self) -> bool:
        async with self._writing:
            return not self._is_behind() or await self._write_all()

    async def _write_all(self) -> bool:
        behind, self._behind = self._behind, set()
        waiting = [stretch for stretch in self._waiting if stretch.writer not in behind]
        snapshot, self._snapshot = self._snapshot, None
        self._waiting = []
        replaced = [(writer, self._replica.batches(writer)) for writer in sorted(behind)]
        try:
            await self._blocking(lambda: self._put(snapshot, waiting, replaced))
        except StoreError as error:
            self._say(error)
            self._behind |= behind
            self._snapshot = self._snapshot or snapshot
            self._waiting = waiting + self._waiting
            self._forget()
            return False
        if self.problem:
            log.info("the store can be written again")
        self.problem = ""
        return True

    def _put(
        self, snapshot: Snapshot | None, waiting: list[Stretch], replaced: Iterable[tuple[Writer, list[bytes]]]
    ) -> None:
        if waiting:
            self._store.append(waiting)
        if snapshot is not None:
            pieces = list(snapshot.pieces())
            frontier = {writer: mark.number for writer, mark in snapshot.frontier.items()}
            self._store.compact(pieces, digest_of(pieces), frontier)
        for writer, batches in replaced:
            self._store.replace(writer, batches)

    def _forget(self) -> None:
        self._behind |= {stretch.writer for stretch in self._waiting}
        self._waiting = []

    def _say(self, error: StoreError) -> None:
        if self.problem != str(error):
            log.error("%s", error)
        self.problem = str(error)

    async def _blocking(self, call: Callable[[], T]) -> T:
        return await self._run(call, limiter=self._thread)

    def _load(self) -> bool:
        loaded = self._store.load()
        if loaded.snapshot is not None:
            pieces = list(loaded.snapshot.pieces)
            read = read_snapshot(pieces, self._replica.swarm)
            if digest_of(pieces) != loaded.snapshot.digest or isinstance(read, Malformed):
                raise StoreError(Fault.DAMAGED, "the store's snapshot is not the one that its digest names")
            self._replica.adopt(read)
        for data in loaded.batches:
            self._replica.admit(data, is_trusted=True)
        return loaded.is_damaged
