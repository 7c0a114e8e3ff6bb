"""A member's part in compacting the store: works out snapshots, keeps the newest for others, adopts what is agreed on.
A shell; when and whether to stands in `compacting`.

A snapshot is a blob, on disk before this member proposes or votes for it: so one that is agreed on is to be had, though
everybody is killed right after. Who has not got the operations up to its frontier fetches it from any member; what a
member hands over is believed for its digest, so a liar costs one fetch.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import trio

from shoal.crdt.cells import Applied
from shoal.crdt.compact import Frontier, digest_of, rebased
from shoal.crdt.dots import Writer
from shoal.crdt.operation import Operation
from shoal.crdt.replica import Adoption, Replica
from shoal.crdt.service import StoreService
from shoal.transport.blobs import BlobRef
from shoal.transport.port import PeerId, Refusal
from shoal.transport.wire import Malformed

from .agreed import FRONTIER_MAX, StoreMark
from .compacting import SNAPSHOT_BYTES_MAX, Marked, chosen, framed, frontier_of, mark_of, unframed
from .events import Problem
from .exchange_service import Means
from .log import Log
from .roster import Roster

SPREAD_S: Final = 10.0  # until what is written here is taken to have reached the others
SAMPLES: Final = 3  # of the frontier, in that time
FETCH_S: Final = 600.0
ASK_PAUSE_S: Final = 5.0  # before those are asked again who had no snapshot

Ask = Callable[[PeerId, bytes], Awaitable[BlobRef | None]]


class Compactor:
    """See the module's text. `ask` asks a peer for the blob of the snapshot with this digest."""

    def __init__(self, means: Means, store: StoreService, roster: Roster, log: Log, ask: Ask) -> None:
        self._means = means
        self._store = store
        self._roster = roster
        self._log = log
        self._ask = ask
        self._own = Writer(means.signer.public_key)
        self._past: deque[Frontier] = deque(maxlen=SAMPLES)  # the oldest has spread by now, if there are so many
        self._held: dict[bytes, int] = {}  # snapshots by digest, and for which round's record
        self._wanted: Marked | None = None  # that is agreed on
        self._wake = trio.Event()
        self._gathering = trio.CancelScope()
        self._liars: set[PeerId] = set()  # who handed over another snapshot than the wanted one
        self._turn = trio.Lock()  # one snapshot is worked out at a time
        self._said = ""

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_spread)
            nursery.start_soon(self._adopt_wanted, nursery)

    async def mark(self, round: int, writers: frozenset[Writer]) -> StoreMark | None:
        """What could be proposed in this round: all that these writers had written some seconds ago."""
        frontier = chosen(self._past[0], writers) if len(self._past) == SAMPLES else {}
        if not 0 < len(frontier) <= FRONTIER_MAX:
            return None
        async with self._turn:
            pieces = await self._pieces(frontier)
            if pieces is None or not _fits(pieces):
                return None
            digest = digest_of(pieces)
            return mark_of(frontier, digest) if await self._hold(round, digest, pieces) else None

    async def judge(self, round: int, mark: StoreMark) -> bool | None:
        """Whether the mark is right; None while that cannot be said, or not be kept."""
        async with self._turn:
            pieces = await self._pieces(frontier_of(mark))
            if pieces is None:
                return None
            if digest_of(pieces) != mark.digest or not _fits(pieces):
                return False
            return True if await self._hold(round, mark.digest, pieces) else None

    def adopt(self, marked: Marked) -> None:
        """The members agreed on this, unless it is known already, or older."""
        if self._wanted is None or marked.round > self._wanted.round:
            self._wanted = marked
            self._gathering.cancel()  # who has the one before may have let go of it
            self._liars.clear()
            self._wake.set()

    async def _watch_spread(self) -> None:
        while True:
            self._past.append(self._store.replica.frontier())
            await trio.sleep(SPREAD_S / (SAMPLES - 1))

    async def _pieces(self, frontier: Frontier) -> list[bytes] | None:
        """Of the snapshot at this frontier, if the operations are here."""
        work_out = self._store.replica.begin_snapshot(frontier)
        if isinstance(work_out, Malformed):
            return None
        return await self._means.workers.run(lambda: list(work_out().pieces()))

    # What is held.

    async def _hold(self, round: int, digest: bytes, pieces: list[bytes]) -> bool:
        """Have a snapshot on disk, for others to fetch."""
        ref = await self._means.blobs.put(framed(pieces), pin=self._means.pins.label("store", round))
        if isinstance(ref, Refusal):
            self._complain(f"a snapshot of the store is not kept: {ref.message}")
            return False
        self._take_note(round, digest, ref)
        return True

    def _take_note(self, round: int, digest: bytes, ref: BlobRef) -> None:
        self._held[digest] = round
        self._log.snapshots[digest] = ref
        agreed = set[int]() if self._wanted is None else {self._wanted.round}
        self._let_go({round, *agreed})

    def _let_go(self, rounds: set[int]) -> None:
        """Of all snapshots but those for these rounds' records."""
        for digest in [digest for digest, round in self._held.items() if round not in rounds]:
            del self._held[digest]
            del self._log.snapshots[digest]
        self._means.pins.keep_only("store", rounds)

    # What is agreed on.

    async def _adopt_wanted(self, nursery: trio.Nursery) -> None:
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            marked = self._wanted
            if marked is None:
                continue
            pieces: list[bytes] | None = None
            with trio.CancelScope() as self._gathering:
                pieces = await self._gather(marked)
            lost = [] if pieces is None else await self._put_in_force(marked, pieces)
            if lost:
                nursery.start_soon(self._write_again, lost)

    async def _gather(self, marked: Marked) -> list[bytes]:
        """The agreed snapshot, however long it takes."""
        while True:
            pieces = await self._find(marked)
            if pieces is not None:
                return pieces
            await trio.sleep(ASK_PAUSE_S)

    async def _find(self, marked: Marked) -> list[bytes] | None:
        """As it is held here, from the operations here, or from whoever has it."""
        mark = marked.mark
        ref = self._log.snapshots.get(mark.digest)
        pieces = None if ref is None else await self._read(mark, ref)
        if pieces is not None:
            return pieces
        async with self._turn:
            pieces = await self._pieces(frontier_of(mark))
            if pieces is not None and digest_of(pieces) == mark.digest:
                await self._hold(marked.round, mark.digest, pieces)
                return pieces
        for peer in self._roster.connected():
            if peer not in self._liars and (pieces := await self._fetch(marked, peer)) is not None:
                return pieces
        return None

    async def _fetch(self, marked: Marked, peer: PeerId) -> list[bytes] | None:
        means, mark = self._means, marked.mark
        ref = await self._ask(peer, mark.digest)
        if ref is None or ref.size > SNAPSHOT_BYTES_MAX:
            return None
        label = means.pins.label("store", marked.round)
        refusal = await means.blobs.fetch(ref, lambda: (peer, *self._roster.connected()), pin=label, timeout_s=FETCH_S)
        if refusal is not None:
            self._complain(f"the agreed snapshot of the store cannot be had from {peer}: {refusal.message}")
            return None
        pieces = await self._read(mark, ref)
        if pieces is None:
            self._liars.add(peer)
            means.blobs.unpin(label)
            return None
        self._take_note(marked.round, mark.digest, ref)
        return pieces

    async def _read(self, mark: StoreMark, ref: BlobRef) -> list[bytes] | None:
        """The pieces in a blob, if they are the mark's."""
        reader = self._means.blobs.open(ref)
        pieces = None if reader is None else await self._means.workers.run(partial(unframed, reader))
        return pieces if isinstance(pieces, list) and digest_of(pieces) == mark.digest else None

    async def _put_in_force(self, marked: Marked, pieces: list[bytes]) -> list[Applied]:
        """Returns what this member had written beside it."""
        adoption: Adoption | Malformed | Refusal | None = None
        if not self._store.replica.is_at(frontier_of(marked.mark)):
            adoption = await self._store.adopt(pieces, marked.mark.digest)
        self._let_go({marked.round, *(round for round in self._held.values() if round > marked.round)})
        if isinstance(adoption, Malformed):
            self._complain(f"the store is not compacted: {adoption.reason}")
        elif isinstance(adoption, Refusal):
            self._complain(f"the store is compacted in memory only: {adoption.message}")
        return adoption.lost.get(self._own, []) if isinstance(adoption, Adoption) else []

    async def _write_again(self, lost: list[Applied]) -> None:
        written = await self._store.write(again(self._own, lost))
        if isinstance(written, Malformed):
            self._complain(f"what the members did not agree on cannot be written again: {written.reason}")
        elif isinstance(written, Refusal):
            self._complain(f"what the members did not agree on is not written again: {written.message}")

    def _complain(self, message: str) -> None:
        if message != self._said:
            self._said = message
            self._means.observe(Problem(message))


def again(writer: Writer, lost: list[Applied]) -> Callable[[Replica], list[Operation]]:
    """What a member writes whose operations lie beside the agreed ones: the same, after those."""

    def make(replica: Replica) -> list[Operation]:
        head = replica.heads()[writer]  # it is in the frontier
        return rebased(lost, head.number + 1, head.hash)

    return make


def _fits(pieces: list[bytes]) -> bool:
    return sum(len(piece) + 4 for piece in pieces) <= SNAPSHOT_BYTES_MAX
