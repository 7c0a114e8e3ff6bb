"""The fetching side of bulk connections to one peer: jobs that worker threads take, and a source of chunks over them.

A thread per connection asks for chunks ahead of what comes, receives each into its own buffer, and has it hashed and
written by the same thread while it is in the processor's cache. What a connection leaves undone when it breaks goes to
the others, or to streams over libp2p: a chunk that came in part is gone on with, not fetched again.
"""

import math
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

import trio

from .blob_stream import ALIVE_S, Alive, Landed, Received, RpcSource
from .blobs import CHUNK_BYTES, RUN_CHUNKS_MAX, Manifest
from .bulk_link_service import Link, LinkBroken
from .bulk_messages import (
    BYE,
    CHUNK,
    FAREWELL,
    FORGET,
    HEAD_BYTES,
    LATER,
    REFUSED,
    SERVES,
    TEXT_BYTES_MAX,
    WANT,
    Head,
    Request,
    parse_head,
)
from .bulk_pool_service import Job, Pool
from .port import Code, Refusal
from .wire import Malformed

LATER_S: Final = 600.0  # until it is a chunk's turn at its holder
CHUNK_S: Final = 30.0  # from a chunk's head to its end, and as long as its bytes take at the least rate that is of use
BYTES_PER_S_MIN: Final = 4_096  # that rate; slower, it would hold a thread for days
AHEAD_S: Final = 0.25  # of what a connection brings is asked for in advance: more than a round trip, mostly
AHEAD_MIN: Final = 2  # chunks; more: those of a connection that has become slow wait while others are free
AHEAD_MAX: Final = 64

OpenRpc = Callable[[], AbstractAsyncContextManager[RpcSource]]


class Fetcher:
    """The thread of one connection."""

    def __init__(self, link: Link, pool: Pool, *, is_ready: bool) -> None:
        self._link = link
        self._pool = pool
        self._is_ready = is_ready  # the other side has said that it serves
        self._buffer = memoryview(bytearray(CHUNK_BYTES))
        self._head = memoryview(bytearray(HEAD_BYTES))
        self._flying: deque[Job] = deque()  # asked for, in order
        self._forgotten: set[Job] = set()  # of those, which the other side was told to forget
        self._rate = 0.0  # bytes/s, smoothed

    def run(self, clock: Callable[[], float]) -> str:
        """Fetch until the connection ends: why. Blocks."""
        reason = "done"
        try:
            while self._ask(may_wait=True):
                began_at = clock()
                self._begin()
                received = self._receive(self._flying[0], clock)
                if received:
                    sample = received / max(clock() - began_at, 1e-6)
                    self._rate = (self._rate + sample) / 2 if self._rate else sample
            self._begin()
            self._part()
        except LinkBroken as error:
            reason = str(error)
        self._pool.leave(self._link, self._undone())
        return reason

    def _begin(self) -> None:
        """The first thing that the other side says: it has been asked for something by then."""
        if self._is_ready:
            return
        ready = memoryview(bytearray(len(SERVES)))
        self._link.receive_exactly(ready)
        if bytes(ready) != SERVES:
            raise LinkBroken("it does not serve")
        self._is_ready = True

    def _ask(self, *, may_wait: bool) -> bool:
        """Ask for as much as may be under way. False: nothing is, and nothing more is to come."""
        ahead = min(max(math.ceil(self._rate * AHEAD_S / CHUNK_BYTES), AHEAD_MIN), AHEAD_MAX)
        jobs = self._pool.next(self._link, max(ahead - len(self._flying), 0), may_wait=may_wait and not self._flying)
        self._tell([*self._forgets(), *_wants(jobs or [])])
        self._flying += jobs or []
        return bool(self._flying)

    def _forgets(self) -> list[Request]:
        """Of what is under way, what nobody wants any more and the other side does not know of."""
        gone = {job for job in self._flying if job.is_forgotten}
        requests = [Request(FORGET, job.digest, job.index) for job in self._flying if job in gone - self._forgotten]
        self._forgotten = gone
        return requests

    def _tell(self, requests: list[Request]) -> None:
        if requests:
            self._link.is_carrying = True
            self._link.send(b"".join(request.encode() for request in requests))

    def _receive(self, job: Job, clock: Callable[[], float]) -> int:
        """The answer for the first of what is under way: how many bytes."""
        before, asked_at, moves_at = job.filled, clock(), None
        told_at = asked_at
        view = (self._buffer if job.buffer is None else job.buffer)[: job.length]
        while job.filled < job.length:
            self._link.receive_exactly(self._head)
            head = parse_head(self._head)
            if isinstance(head, Head) and head.kind == REFUSED and head.index == job.index:
                self._take_refusal(job, head.length)
                return job.filled - before
            if head == Head(LATER, job.index, 0):
                if (now := clock()) > asked_at + LATER_S:
                    raise LinkBroken(f"it was not the turn of a chunk for {LATER_S:g} s")
                told_at = self._tell_alive(job, told_at, now)
                self._ask(may_wait=False)
                continue
            if isinstance(head, Malformed) or not _continues(head, job):
                left = f"{job.length - job.filled} bytes of chunk {job.index} were due"
                problem = head.reason if isinstance(head, Malformed) else f"sent {head} where {left}"
                self._pool.tell(job.source.lied, Malformed(problem))
                raise LinkBroken(problem)
            moves_at = clock() if moves_at is None else moves_at
            end = job.filled + head.length
            while job.filled < end:
                job.filled += self._link.receive_some(view[job.filled : end])
                if (now := clock()) > moves_at + CHUNK_S + (job.filled - before) / BYTES_PER_S_MIN:
                    raise LinkBroken(f"a chunk comes at less than {BYTES_PER_S_MIN} bytes/s")
                told_at = self._tell_alive(job, told_at, now)
            self._ask(may_wait=False)
        self._flying.popleft()
        if not job.is_forgotten:
            self._pool.tell(job.source.landed, job, self._pool.land(job.digest, job.index, [view]))
        return job.filled - before

    def _tell_alive(self, job: Job, told_at: float, now: float) -> float:
        """When it was last told."""
        if now < told_at + ALIVE_S:
            return told_at
        self._pool.tell(job.source.heard, job)
        return now

    def _take_refusal(self, job: Job, length: int) -> None:
        text = memoryview(bytearray(length))
        self._link.receive_exactly(text)
        self._flying.popleft()
        reason = bytes(text).decode(errors="replace")[:TEXT_BYTES_MAX]
        self._pool.tell(job.source.refused, job, Refusal(Code.NOT_FOUND, f"chunk {job.index}: {reason}"))

    def _part(self) -> None:
        """The other side says that it knows: what it has sent has come."""
        self._link.send(Request(BYE).encode())
        self._link.receive_exactly(self._head)
        if parse_head(self._head) != Head(FAREWELL, 0, 0):
            raise LinkBroken("no farewell")

    def _undone(self) -> list[Job]:
        """The first may be here in part."""
        if self._flying and self._flying[0].filled and self._flying[0].buffer is None:
            self._flying[0].buffer = self._buffer
        return list(self._flying)


def _continues(head: Head, job: Job) -> bool:
    """Whether what follows is some more of the chunk."""
    return (head.kind, head.index) == (CHUNK, job.index) and 0 < head.length <= job.length - job.filled


def _wants(jobs: list[Job]) -> list[Request]:
    """Requests for jobs, of neighbours in one."""
    requests: list[Request] = []
    for job in jobs:
        last = requests[-1] if requests else None
        is_next = last is not None and (last.digest, last.first + last.count) == (job.digest, job.index)
        if last is not None and is_next and not job.filled and last.count < RUN_CHUNKS_MAX:
            requests[-1] = Request(WANT, last.digest, last.first, last.count + 1, last.skip)
        else:
            requests.append(Request(WANT, job.digest, job.index, 1, job.filled))
    return requests


class BulkSource:
    """A ChunkSource: over a peer's bulk connections while there are some, else over a stream of libp2p's."""

    def __init__(self, pool: Pool, open_rpc: OpenRpc, digest: bytes, manifest: Manifest) -> None:
        self._pool = pool
        self._open_rpc = open_rpc
        self._digest = digest
        self._manifest = manifest
        self._jobs: dict[int, Job] = {}
        self._fallen, self._falling = trio.open_memory_channel[Job](math.inf)
        self._streamed: dict[int, Job] = {}  # asked for by libp2p
        self._send, self._arrived = trio.open_memory_channel[Received](math.inf)

    def take(self, first: int, count: int) -> None:
        """As ChunkSource.take."""
        for index in range(first, first + count):
            job = self._jobs[index] = Job(self, self._digest, index, self._manifest.chunk_bytes(index))
            if not self._pool.put(job):
                self.fall_back(job)

    async def receive(self) -> Received:
        """As ChunkSource.receive."""
        return await self._arrived.receive()

    def landed(self, job: Job, verdict: bool | Refusal) -> None:
        if self._jobs.get(job.index) is job:
            del self._jobs[job.index]
            self._send.send_nowait(Landed(job.index, verdict))

    def heard(self, job: Job) -> None:
        if self._jobs.get(job.index) is job:
            self._send.send_nowait(Alive())

    def refused(self, job: Job, refusal: Refusal) -> None:
        if self._jobs.get(job.index) is job:
            self._send.send_nowait(refusal)

    def lied(self, why: Malformed) -> None:
        self._send.send_nowait(why)

    def fall_back(self, job: Job) -> None:
        if self._jobs.get(job.index) is job:
            self._fallen.send_nowait(job)

    def forget(self) -> None:
        """Nobody waits for anything any more."""
        self._pool.forget(list(self._jobs.values()))
        self._jobs.clear()

    async def stream(self) -> None:
        """Have brought by libp2p what falls back. Runs until cancelled."""
        problem: Refusal | Malformed | None = None
        while problem is None:
            job = await self._falling.receive()
            problem = await self._stream(job)
        self._send.send_nowait(problem)

    async def _stream(self, first: Job) -> Refusal | Malformed | None:
        """By one stream, until it ends: why; None: nobody waited for anything by it."""
        async with self._open_rpc() as rpc, trio.open_nursery() as nursery:
            nursery.start_soon(self._ask_for, rpc, first)
            while isinstance(chunk := await rpc.receive(), tuple | Alive):
                if isinstance(chunk, Alive):
                    self._send.send_nowait(chunk)
                    continue
                self._streamed.pop(chunk[0], None)
                job = self._jobs.pop(chunk[0], None)
                self._pool.bytes_streamed += sum(len(piece) for piece in chunk[1])
                before = [] if job is None or job.buffer is None else [job.buffer[: job.filled]]
                self._send.send_nowait((chunk[0], [*before, *chunk[1]]))
            nursery.cancel_scope.cancel()
        return chunk if self._streamed or isinstance(chunk, Malformed) else None

    async def _ask_for(self, rpc: RpcSource, job: Job) -> None:
        while True:
            self._streamed[job.index] = job
            rpc.take(job.index, 1, job.filled)
            job = await self._falling.receive()


@asynccontextmanager
async def open_bulk_source(
    pool: Pool, open_rpc: OpenRpc, digest: bytes, manifest: Manifest
) -> AsyncGenerator[BulkSource, None]:
    """A source, for as long as the context lasts."""
    source = BulkSource(pool, open_rpc, digest, manifest)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(source.stream)
        try:
            yield source
        finally:
            source.forget()
            nursery.cancel_scope.cancel()
