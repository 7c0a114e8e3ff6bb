"""A member's part in compacting the store: works out snapshots, keeps the newest for others, adopts what is agreed on.
A shell; when and whether to stands in `compacting`.

A snapshot is a blob, on disk before this member proposes or votes for it: so one that is agreed on is to be had, though
everybody is killed right after. Who has not got the operations up to its frontier fetches it from any member; what a
member hands over is believed for its digest, so a liar costs one fetch, and who gives it away in drops some seconds.
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
from .answers_service import Cores
from .compacting import SNAPSHOT_BYTES_MAX, chosen, framed, frontier_of, mark_of, unframed
from .events import Problem
from .fetching_service import PacedFetches
from .means import Means

SLOTS: Final = 16  # labels under which snapshots are kept, by their digest; few share one
SPREAD_S: Final = 10.0  # until what is written here is taken to have reached the others
SAMPLES: Final = 3  # of the frontier, in that time
ASK_PAUSE_S: Final = 5.0  # before those are asked again who had no snapshot

Ask = Callable[[PeerId, bytes], Awaitable[BlobRef | None]]
Tell = Callable[[bytes, Frontier], None]


class Compactor:
    """See the module's text.

    Args:
        ask: a peer for the blob of the snapshot with this digest.
        tell: that a snapshot is in force, and its frontier.
    """

    def __init__(self, means: Means, store: StoreService, cores: Cores, ask: Ask, tell: Tell) -> None:
        self._means = means
        self._store = store
        self._roster = cores.roster
        self._log = cores.log
        self._ask = ask
        self._tell = tell
        self._own = Writer(means.signer.public_key)
        self._fetches = PacedFetches(means.blobs)
        self._past: deque[Frontier] = deque(maxlen=SAMPLES)  # the oldest has spread by now, if there are so many
        self._held: dict[bytes, int] = {}  # snapshots by digest, and the round whose record they are for
        self._wanted: StoreMark | bytes | None = None  # that is agreed on, or its digest
        self._in_force = b""  # its digest, as far as it is known
        self._wake = trio.Event()
        self._gathering = trio.CancelScope()
        self._liars: set[PeerId] = set()  # who handed over another snapshot than the wanted one
        self._turn = trio.Lock()  # one snapshot is worked out at a time
        self._said = ""
        means.pins.remember("store", range(SLOTS))  # an earlier run may have left some
        self._arriving = means.pins.label("arriving", 0)  # what a member hands over, until it is verified
        means.blobs.unpin(self._arriving)  # likewise

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

    def adopt(self, store: StoreMark | bytes) -> None:
        """The members agreed on this; what they agreed on before does not matter any more."""
        if isinstance(self._wanted, StoreMark) and self._wanted.digest == _digest(store):
            return  # again: nothing was written in between
        self._wanted = store
        self._gathering.cancel()
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
        ref = await self._means.blobs.put(framed(pieces), pin=self._label(digest))
        if isinstance(ref, Refusal):
            self._complain(f"a snapshot of the store is not kept: {ref.message}")
            return False
        self._take_note(round, digest, ref)
        return True

    def _take_note(self, round: int, digest: bytes, ref: BlobRef) -> None:
        """What was to be agreed on in earlier rounds is of no use any more."""
        self._log.snapshots[digest] = ref
        self._held[digest] = round
        self._keep_only({digest for digest, held in self._held.items() if held >= round})

    def _keep_only(self, digests: set[bytes]) -> None:
        """And what is agreed on."""
        kept = digests if self._wanted is None else {*digests, _digest(self._wanted)}
        for digest in self._held.keys() - kept:
            del self._held[digest]
            del self._log.snapshots[digest]
        self._means.pins.keep_only("store", set(map(_slot, kept)))

    def _label(self, digest: bytes) -> str:
        return self._means.pins.label("store", _slot(digest))

    # What is agreed on.

    async def _adopt_wanted(self, nursery: trio.Nursery) -> None:
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            wanted, pieces = self._wanted, None
            if wanted is None:
                continue
            with trio.CancelScope() as self._gathering:
                pieces = await self._gather(wanted)
            if pieces is not None:
                lost = await self._put_in_force(_digest(wanted), pieces)
                if lost:
                    nursery.start_soon(self._write_again, lost)

    async def _gather(self, store: StoreMark | bytes) -> list[bytes]:
        """The agreed snapshot, however long it takes."""
        while True:
            pieces = await self._find_here(store) or await self._find_there(_digest(store))
            if pieces is not None:
                return pieces
            await trio.sleep(ASK_PAUSE_S)

    async def _find_here(self, store: StoreMark | bytes) -> list[bytes] | None:
        """As it is held, is in force already, or follows from the operations."""
        digest = _digest(store)
        ref = self._log.snapshots.get(digest)
        pieces = None if ref is None else await self._read(digest, ref)
        if pieces is not None:
            return pieces
        base = self._store.replica.base()
        frontiers = [base, frontier_of(store)] if isinstance(store, StoreMark) else [base]
        async with self._turn:
            for frontier in frontiers:
                pieces = await self._pieces(frontier)
                if pieces is None or digest_of(pieces) != digest:
                    continue
                if frontier is base:
                    self._in_force = digest
                await self._hold(self._newest_round, digest, pieces)
                return pieces
        return None

    async def _find_there(self, digest: bytes) -> list[bytes] | None:
        """From whoever has it."""
        for peer in self._roster.connected():
            if peer in self._liars:
                continue
            ref = await self._ask(peer, digest)
            if ref is None or ref.size > SNAPSHOT_BYTES_MAX:
                continue
            pieces = await self._fetch(digest, ref, peer)
            if pieces is not None:
                return pieces
        return None

    async def _fetch(self, digest: bytes, ref: BlobRef, peer: PeerId) -> list[bytes] | None:
        """Kept under a label of its own until it is found right: under the digest's another may be held."""
        holders = partial(self._holders, peer)
        try:
            refusal = await self._fetches.fetch(ref, holders, pin=self._arriving)
            if refusal is None:
                pieces = await self._read(digest, ref)
                if pieces is None:
                    self._liars.add(peer)
                    return None
                async with self._turn:
                    refusal = await self._fetches.fetch(ref, tuple, pin=self._label(digest))  # it is here: no holders
                    if refusal is None:
                        self._take_note(self._newest_round, digest, ref)
                        return pieces
        finally:
            self._means.blobs.unpin(self._arriving)
        self._complain(f"the agreed snapshot of the store cannot be had from {peer}: {refusal.message}")
        return None

    def _holders(self, peer: PeerId) -> tuple[PeerId, ...]:
        return (peer, *(other for other in self._roster.connected() if other != peer))

    @property
    def _newest_round(self) -> int:
        """That a snapshot is held for."""
        return max(self._held.values(), default=0)

    async def _read(self, digest: bytes, ref: BlobRef) -> list[bytes] | None:
        """The pieces in a blob, if they are of this digest."""
        reader = self._means.blobs.open(ref)
        pieces = None if reader is None else await self._means.workers.run(partial(unframed, reader))
        return pieces if isinstance(pieces, list) and digest_of(pieces) == digest else None

    async def _put_in_force(self, digest: bytes, pieces: list[bytes]) -> list[Applied]:
        """Returns what this member had written beside it."""
        adoption = None if digest == self._in_force else await self._store.adopt(pieces, digest)
        if isinstance(adoption, Malformed):
            self._complain(f"the store is not compacted: {adoption.reason}")
            return []
        self._in_force = digest
        if isinstance(adoption, Refusal):
            self._complain(f"the store is compacted in memory only: {adoption.message}")
        async with self._turn:  # or what is being put right now would be let go of
            round = self._held.get(digest, 0)
            self._keep_only({other for other, held in self._held.items() if held > round})
        self._tell(digest, self._store.replica.base())
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


def _digest(store: StoreMark | bytes) -> bytes:
    return store.digest if isinstance(store, StoreMark) else store


def _slot(digest: bytes) -> int:
    return digest[0] % SLOTS
