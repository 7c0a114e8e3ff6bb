"""Blobs over the network: serves what the store holds, and fetches what it lacks from several holders at once.

What to ask of whom is decided in `blob_plan`; this carries it out. Hashing and disk run in worker threads, and a chunk
is counted as here only when it was hashed and written. How bytes travel is a `ChunkSource`'s affair.

What peers can make a fetch hold: a chunk for each holder that delivers, and VERIFIED_AT_ONCE that wait for the disk.
"""

import logging
import math
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import trio

from .blob_asking_service import ASK_S, Asker, Had
from .blob_file import Buffer, StoredBlob
from .blob_holder import Lines
from .blob_plan import VERIFIED_AT_ONCE, Ask, Drop, Effect, FetchPlan, Take
from .blob_serving_service import BlobServer
from .blob_store import BlobStore
from .blob_stream import Alive, ChunkSource, Landed, OpenSource, rpc_sources
from .blobs import (
    CHUNK_BYTES,
    MANIFEST,
    BlobRef,
    Manifest,
    ManifestReply,
    ManifestRequest,
)
from .blocking_service import RunBlocking, run_in_thread
from .port import Code, PeerId, Refusal, Transport
from .upload_service import Uploads
from .wire import Malformed, encode

_log = logging.getLogger(__name__)

PACE_S: Final = 10.0  # over which it is looked at how fast a blob comes; longer where two chunks may take longer
HOLDERS_S: Final = 0.5  # how often it is asked anew who holds the blob
SEARCH_AFTER_S: Final = 2.0  # without a delivery from those: then others are searched for
SEARCH_PAUSE_S: Final = 30.0
FETCHES_AT_ONCE: Final = 8  # of different blobs, for one swarm; more wait. Memory: up to a chunk per holder each

FindHolders = Callable[[bytes], Awaitable[Iterable[PeerId]]]


@dataclass(frozen=True, slots=True)
class Lie:
    """A peer sent what no honest peer sends. It is not asked again in that fetch."""

    peer: PeerId
    blob: BlobRef
    reason: str


@dataclass(slots=True, eq=False)
class _Waiter:
    holders: Callable[[], Iterable[PeerId]]
    label: str
    like: BlobRef | None


@dataclass(slots=True, eq=False)
class _Link:
    """What one holder is to send, and how to stop it."""

    source: ChunkSource | None = None  # where it is open
    early: list[Take] = field(default_factory=list[Take])  # before it was
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)


@dataclass(slots=True, eq=False)
class _Fetch:
    """One blob on its way here, for all who wait for it."""

    plan: FetchPlan
    waiters: list[_Waiter] = field(default_factory=list[_Waiter])
    links: dict[PeerId, _Link] = field(default_factory=dict[PeerId, _Link])
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    changed: trio.Event = field(default_factory=trio.Event)
    disk_refusal: Refusal | None = None
    done: trio.Event = field(default_factory=trio.Event)
    result: Refusal | None = None


class BlobService:
    """The node's blobs: `training.ports.Blobs` over a store and a transport.

    Args:
        report: called with every lie.
        run_blocking: `run_inline` on a virtual clock.
        uploads: what holds chunks back; None: nothing.
        open_source: where chunks come from, if not by the transport's own ways.
        find_holders: searches for connected peers that say they hold the blob with this digest, when nobody whom the
            fetch's owner named delivers it.
    """

    def __init__(
        self,
        transport: Transport,
        store: BlobStore,
        *,
        report: Callable[[Lie], None] = lambda lie: None,
        run_blocking: RunBlocking = run_in_thread,
        open_source: OpenSource | None = None,
        uploads: Uploads | None = None,
        find_holders: FindHolders | None = None,
    ) -> None:
        self._transport = transport
        self._store = store
        self._report = report
        self._blocking = run_blocking
        uploads = uploads or Uploads(clock=trio.current_time if transport.bulk is None else time.monotonic)
        faster = None if transport.bulk is None else transport.bulk.attach(store, uploads)
        self._open_source = open_source or faster or rpc_sources(transport)
        self._find_holders = find_holders
        self._lines = Lines()
        self._asker = Asker(transport)
        self._fetches: dict[bytes, _Fetch] = {}
        self._fetch_slots: defaultdict[str, trio.Semaphore] = defaultdict(partial(trio.Semaphore, FETCHES_AT_ONCE))
        self._verify_slots = trio.Semaphore(VERIFIED_AT_ONCE)
        self._server = BlobServer(transport, store, self._lines, uploads, run_blocking)
        self._nursery: trio.Nursery | None = None
        self._unpinned = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve and fetch until cancelled."""
        self._server.start()
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                while True:
                    await self._unpinned.wait()
                    self._unpinned = trio.Event()
                    await self._blocking(self._flush)
        finally:
            self._nursery = None
            self._server.stop()
            self._flush()  # some lines: no need for a thread, and none could be awaited any more

    async def put(self, pieces: Iterable[Buffer], *, pin: str) -> BlobRef | Refusal:
        """Store the concatenation of `pieces`, pinned under the label `pin`. An iterator runs in a worker thread."""
        return await self._blocking(lambda: self._store.put(pieces, pin, _check_cancelled))

    async def fetch(
        self,
        ref: BlobRef,
        holders: Callable[[], Iterable[PeerId]],
        *,
        pin: str,
        timeout_s: float,
        like: BlobRef | None = None,
        bytes_per_s_min: float = 0.0,
    ) -> Refusal | None:
        """Have `ref` here, verified and pinned. Fetches of one blob are one, which ends with the last who waits.

        Only what differs from `like` is fetched, if that is complete here when the manifest has come. Who waits gives
        up when it comes more slowly than it says; what has come is kept for the next try.
        """
        fetch: _Fetch | None = None
        waiter = _Waiter(holders, pin, like)
        with trio.move_on_after(timeout_s):
            while True:
                is_here = await self._blocking(partial(self._pin_if_here, ref, pin))
                if isinstance(is_here, Refusal):
                    return is_here
                if is_here:
                    return None
                fetch = self._fetches.get(ref.digest) or self._start(ref)
                if fetch.scope.cancel_called or fetch.plan.ref != ref:
                    await fetch.done.wait()
                    continue
                fetch.waiters.append(waiter)
                try:
                    if not await _is_fast(fetch, bytes_per_s_min):
                        why = f"comes at less than {bytes_per_s_min / 1000:.0f} KB/s: {fetch.plan.explain()}"
                        return Refusal(Code.DEADLINE_EXCEEDED, f"{ref.cid} {why}")
                finally:
                    fetch.waiters.remove(waiter)
                    if not fetch.waiters and not fetch.done.is_set():
                        fetch.scope.cancel()
                if fetch.result is not None:
                    return fetch.result
        why = "no answer from the disk" if fetch is None else fetch.plan.explain()
        return Refusal(Code.DEADLINE_EXCEEDED, f"{ref.cid} is not here after {timeout_s:g} s: {why}")

    def open(self, ref: BlobRef) -> StoredBlob | None:
        """A reader, or None if the blob is not complete here. Cheap, from any thread."""
        return self._store.open(ref)

    def unpin(self, pin: str) -> None:
        """Let go of what the label holds: at once, and on disk soon."""
        self._store.unpin(pin)
        self._unpinned.set()

    def labels(self) -> dict[str, frozenset[bytes]]:
        """The digests of what each label holds."""
        return self._store.labels()

    def _pin_if_here(self, ref: BlobRef, pin: str) -> bool | Refusal:
        return self._store.open(ref) is not None and self._store.pin(ref.digest, pin)

    def _flush(self) -> None:
        try:
            self._store.flush()
        except OSError as error:
            _log.warning("pins could not be written down: %s; trying again with the next", error)

    def _start(self, ref: BlobRef) -> _Fetch:
        if self._nursery is None:
            raise RuntimeError("BlobService.run is not running")
        fetch = self._fetches[ref.digest] = _Fetch(FetchPlan(ref, self._transport.peer_id, self._lines))
        self._nursery.start_soon(self._run_fetch, fetch)
        return fetch

    async def _run_fetch(self, fetch: _Fetch) -> None:
        digest = fetch.plan.ref.digest
        fetch.result = Refusal(Code.CANCELLED, "nobody waits for it any more")
        try:
            with fetch.scope:
                owner = fetch.waiters[0].label.split("/")[0] if fetch.waiters else ""
                async with self._fetch_slots[owner], trio.open_nursery() as nursery:
                    if self._find_holders is not None:
                        nursery.start_soon(self._search, fetch, self._find_holders)
                    fetch.result = await self._drive(fetch, nursery)
                    nursery.cancel_scope.cancel()
        finally:
            fetch.plan.close()
            self._store.abandon(digest)  # looks at one file name: no need for a thread
            del self._fetches[digest]
            fetch.done.set()

    async def _drive(self, fetch: _Fetch, nursery: trio.Nursery) -> Refusal | None:
        """Feed the plan and carry out what it says, until the blob is here or can't be."""
        plan, digest = fetch.plan, fetch.plan.ref.digest
        left = await self._blocking(partial(self._store.unfinished, digest))
        plan.manifest = left[0] if left is not None and left[0].size == plan.ref.size else None
        offer_at = -math.inf
        while fetch.disk_refusal is None and plan.failure is None and not plan.is_hopeless(trio.current_time()):
            if plan.manifest is not None and not plan.is_begun:
                likes = [waiter.like.digest for waiter in fetch.waiters if waiter.like is not None]
                have = await self._blocking(partial(self._begin, digest, plan.manifest, likes))
                if isinstance(have, Refusal):
                    return have
                plan.begin(have)
            if plan.is_complete:
                return await self._blocking(partial(self._store.finish, digest, [w.label for w in fetch.waiters]))
            now = trio.current_time()
            if now >= offer_at:
                offer_at = now + HOLDERS_S
                peers = (peer for waiter in fetch.waiters for peer in waiter.holders())
                plan.offer(peer for peer in peers if peer != self._transport.peer_id)
            self._step(fetch, nursery)
            fetch.changed = trio.Event()
            with trio.move_on_at(min(plan.wake_at(now), offer_at)):
                await fetch.changed.wait()
        if plan.failure is not None:
            return fetch.disk_refusal or Refusal(Code.MALFORMED, plan.failure)
        return fetch.disk_refusal or Refusal(Code.NOT_FOUND, f"{plan.ref.cid} is not to be had: {plan.explain()}")

    def _begin(self, digest: bytes, manifest: Manifest, likes: list[bytes]) -> int | Refusal:
        """Make room, and have here what can be had without the network: chunks, as bits."""
        have = self._store.begin(digest, manifest, encode(manifest), _check_cancelled)
        for like in likes:
            if isinstance(have, Refusal):
                break
            have = self._store.copy_same(digest, like, _check_cancelled)
        return have

    async def _search(self, fetch: _Fetch, find_holders: FindHolders) -> None:
        """While nobody delivers, ask those as well who say elsewhere that they hold it."""
        while True:
            await trio.sleep(SEARCH_AFTER_S)
            if not fetch.links:
                fetch.plan.offer(await find_holders(fetch.plan.ref.digest))
                fetch.changed.set()
                await trio.sleep(SEARCH_PAUSE_S)

    def _step(self, fetch: _Fetch, nursery: trio.Nursery) -> None:
        for effect in fetch.plan.step(trio.current_time()):
            self._carry_out(fetch, nursery, effect)

    def _carry_out(self, fetch: _Fetch, nursery: trio.Nursery, effect: Effect) -> None:
        match effect:
            case Ask(peer, wants_manifest):
                nursery.start_soon(self._ask, fetch, peer, wants_manifest)
            case Take(peer):
                if peer not in fetch.links:
                    fetch.links[peer] = _Link()
                    nursery.start_soon(self._pull, fetch, nursery, peer, fetch.links[peer])
                link = fetch.links[peer]
                if link.source is None:
                    link.early.append(effect)
                else:
                    link.source.take(effect.first, effect.count)
            case Drop(peer, reason, is_lie):
                gone = fetch.links.pop(peer, None)
                if gone is not None:
                    gone.scope.cancel()
                if is_lie:
                    _log.warning("%s lied about %s: %s", peer, fetch.plan.ref.cid, reason)
                    self._report(Lie(peer, fetch.plan.ref, reason))

    async def _ask(self, fetch: _Fetch, peer: PeerId, wants_manifest: bool) -> None:
        digest, manifest = fetch.plan.ref.digest, b""
        limit_bytes = next((each.limit_bytes for each in self._transport.connections() if each.peer == peer), None)
        reply: ManifestReply | Had | Refusal
        if limit_bytes is not None and limit_bytes < min(CHUNK_BYTES, fetch.plan.ref.size):
            reply = Refusal(Code.UNREACHABLE, f"the relay that leads to it carries {limit_bytes} bytes")
        elif wants_manifest:
            if self._transport.bulk is not None:
                self._transport.bulk.prepare(peer, fetch.plan.ref.size)
            reply = await self._transport.request(peer, MANIFEST, ManifestRequest(digest), timeout_s=ASK_S)
            manifest = reply.manifest if isinstance(reply, ManifestReply) else b""
        else:
            assert self._nursery is not None
            reply = await self._asker.ask(self._nursery, peer, digest)
        if not isinstance(reply, Refusal):
            fetch.plan.replied(peer, manifest, reply.have, reply.bytes_per_s, trio.current_time())
        else:
            tell = fetch.plan.lacks if reply.code is Code.NOT_FOUND else fetch.plan.failed
            tell(peer, _text(reply), trio.current_time())
        fetch.changed.set()

    async def _pull(self, fetch: _Fetch, nursery: trio.Nursery, peer: PeerId, link: _Link) -> None:
        """Receive chunks from one holder, until it fails or is dropped."""
        plan = fetch.plan
        assert plan.manifest is not None
        with link.scope:
            async with self._open_source(peer, plan.ref.digest, plan.manifest) as source:
                link.source = source
                for take in link.early:
                    source.take(take.first, take.count)
                while isinstance(chunk := await source.receive(), tuple | Landed | Alive):
                    if isinstance(chunk, Alive):
                        plan.heard(peer, trio.current_time())
                        continue
                    index = chunk.index if isinstance(chunk, Landed) else chunk[0]
                    is_wanted = plan.arrived(peer, index, trio.current_time())
                    if is_wanted and isinstance(chunk, Landed):
                        self._stored(fetch, peer, index, chunk.verdict)
                    elif is_wanted and isinstance(chunk, tuple):
                        await self._verify_slots.acquire()
                        nursery.start_soon(self._verify, fetch, peer, index, chunk[1])
                    self._step(fetch, nursery)  # at once: by way of `_drive` it takes as long as the chunk did
                if fetch.links.get(peer) is link:  # else it was dropped in the same moment
                    del fetch.links[peer]
                    reason = chunk.reason if isinstance(chunk, Malformed) else _text(chunk)
                    plan.failed(peer, reason, trio.current_time(), is_lie=isinstance(chunk, Malformed))
                    fetch.changed.set()

    async def _verify(self, fetch: _Fetch, peer: PeerId, index: int, pieces: list[memoryview]) -> None:
        try:
            write = partial(self._store.write_chunk, fetch.plan.ref.digest, index, pieces)
            verdict = await self._blocking(write)
        finally:
            self._verify_slots.release()
        self._stored(fetch, peer, index, verdict)

    def _stored(self, fetch: _Fetch, peer: PeerId, index: int, verdict: bool | Refusal) -> None:
        if isinstance(verdict, Refusal):
            fetch.disk_refusal = verdict
        else:
            fetch.plan.stored(peer, index, verdict, trio.current_time())
        if fetch.plan.is_complete or verdict is not True:
            fetch.changed.set()


async def _is_fast(fetch: _Fetch, bytes_per_s_min: float) -> bool:
    """Wait for its end; False as soon as it comes too slowly. Room made for it here is not its holders' business."""
    span_s = max(PACE_S, 2 * CHUNK_BYTES / bytes_per_s_min) if bytes_per_s_min else math.inf
    plan = fetch.plan
    while not fetch.done.is_set():
        before, is_remote = plan.stored_count, plan.manifest is None or plan.is_begun
        with trio.move_on_after(span_s):
            await fetch.done.wait()
        is_slow = (plan.stored_count - before) * CHUNK_BYTES < bytes_per_s_min * span_s
        if is_slow and is_remote and not fetch.done.is_set():
            return False
    return True


def _check_cancelled() -> None:
    with suppress(RuntimeError):  # on a virtual clock this is no worker thread
        trio.from_thread.check_cancelled()


def _text(refusal: Refusal) -> str:
    return f"{refusal.code.name}: {refusal.message[:200]}"
