"""How chunks travel between two nodes over RPC: both ends of the stream, and the seam where another way can slide in.

What a peer can make this node hold: two chunks for each of its SERVES_PER_PEER_MAX streams, one on its way out and
one just read, for as long as it goes on taking bytes. What it can make it do: read those chunks. As a holder it can
fill one chunk's buffer.
"""

import logging
import math
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

import trio

from .blobs import CHUNKS, PIECE_BYTES, ChunksRequest, Manifest, Piece, cid_text
from .port import Call, Code, PeerId, Refusal, Reply, Request, Streaming
from .upload_service import Uploads
from .wire import Malformed

_log = logging.getLogger(__name__)

STREAM_S: Final = 600.0  # then a stream is opened afresh
SERVES_PER_PEER_MAX: Final = 8  # streams; a peer opens one per blob
SERVES_MAX: Final = 32  # memory: 2 MiB each
ALIVE_S: Final = 5.0  # how often it is told that something comes of a chunk, or will
IDLE_S: Final = 30.0  # without a request or without a byte taken, a stream ends: its place is for others

Chunk = tuple[int, list[memoryview]]  # index and bytes, in pieces as they came


@dataclass(frozen=True, slots=True)
class Landed:
    """A chunk that is verified and stored already, or was not what it should be (False), or could not be stored."""

    index: int
    verdict: bool | Refusal


@dataclass(frozen=True, slots=True)
class Alive:
    """What was asked for is neither here nor forgotten: it is on its way, or waits for its turn at its holder."""


Received = Chunk | Landed | Alive | Refusal | Malformed
ReadChunk = Callable[[bytes, int], Awaitable[bytes | None]]  # digest, index -> bytes; None: not here. Raises OSError


class ChunkSource(Protocol):
    """One peer's stream of one blob's chunks."""

    def take(self, first: int, count: int) -> None:
        """Ask for chunks `first` to `first + count - 1`, without waiting; that it failed shows in `receive`."""
        ...

    async def receive(self) -> Received:
        """The next chunk, unverified, of the length that the manifest gives, or landed; Alive about every ALIVE_S until
        then. Malformed: no honest peer sends that.
        """
        ...


OpenSource = Callable[[PeerId, bytes, Manifest], AbstractAsyncContextManager[ChunkSource]]


class RpcSource:
    """Chunks from an RPC stream: 17 pieces each, small enough for one encrypted write."""

    def __init__(self, call: Call[ChunksRequest, Piece], digest: bytes, manifest: Manifest) -> None:
        self._call = call
        self._digest = digest
        self._manifest = manifest
        self._index = -1
        self._pieces: list[memoryview] = []
        self._told_at = trio.current_time()  # that something comes
        self._missing = 0  # bytes of the chunk that are still to come
        self._skips: dict[int, int] = {}  # bytes at the beginning of chunks that do not come
        self._unsent, self._unsaid = trio.open_memory_channel[ChunksRequest](math.inf)

    def take(self, first: int, count: int, skip: int = 0) -> None:
        """As ChunkSource.take; the first chunk comes without its first `skip` bytes."""
        self._skips[first] = skip
        self._unsent.send_nowait(ChunksRequest(self._digest, first, count, skip))

    async def ask(self) -> None:
        """Send on what is to be taken, until the call is over."""
        async for request in self._unsaid:
            if await self._call.send(request) is not None:
                return

    async def receive(self) -> Chunk | Alive | Refusal | Malformed:
        while True:
            piece = await self._call.receive()
            if piece is None:
                return Refusal(Code.UNREACHABLE, "ended the stream before all was sent")
            if isinstance(piece, Refusal):
                return piece
            if not piece.data and not self._missing:
                if self._is_due():
                    return Alive()
                continue
            if not self._missing and piece.index < self._manifest.chunk_count:
                self._index = piece.index
                self._missing = self._manifest.chunk_bytes(piece.index) - self._skips.pop(piece.index, 0)
                self._pieces = []
            if piece.index != self._index or len(piece.data) != min(PIECE_BYTES, self._missing):
                return Malformed(f"sent {len(piece.data)} bytes of chunk {piece.index} where they do not belong")
            self._pieces.append(piece.data)
            self._missing -= len(piece.data)
            if not self._missing:
                return self._index, self._pieces
            if self._is_due():
                return Alive()

    def _is_due(self) -> bool:
        """Whether it is time to tell again that something comes."""
        now = trio.current_time()
        is_due = now >= self._told_at + ALIVE_S / 2  # the holder tells it every ALIVE_S
        self._told_at = now if is_due else self._told_at
        return is_due


class Streams(Protocol):
    """Of a transport, what chunks need."""

    def stream(
        self, peer: PeerId, method: Streaming[Request, Reply], *, timeout_s: float
    ) -> AbstractAsyncContextManager[Call[Request, Reply]]:
        """As `Transport.stream`."""
        ...


def rpc_sources(streams: Streams) -> OpenSource:
    """Chunks from RPC streams."""
    return partial(rpc_stream, streams)


@asynccontextmanager
async def rpc_stream(
    streams: Streams, peer: PeerId, digest: bytes, manifest: Manifest
) -> AsyncGenerator[RpcSource, None]:
    """One of them, for as long as the context lasts."""
    async with streams.stream(peer, CHUNKS, timeout_s=STREAM_S) as call, trio.open_nursery() as nursery:
        source = RpcSource(call, digest, manifest)
        nursery.start_soon(source.ask)
        yield source
        nursery.cancel_scope.cancel()


@dataclass(frozen=True, slots=True)
class _Part:
    """Of a chunk, what was asked for."""

    digest: bytes
    index: int
    data: memoryview


class ChunkServer:
    """Answers CHUNKS streams, a bounded number for each peer and in all."""

    def __init__(self, read: ReadChunk, uploads: Uploads) -> None:
        self._read = read
        self._uploads = uploads
        self._open: Counter[PeerId] = Counter()

    async def serve(self, peer: PeerId, call: Call[Piece, ChunksRequest]) -> Refusal | None:
        """The handler of CHUNKS."""
        if self._open[peer] >= SERVES_PER_PEER_MAX or self._open.total() >= SERVES_MAX:
            own, total = self._open[peer], self._open.total()
            return Refusal(Code.BUSY, f"{own} streams of chunks go to you, {total} in all: try again later")
        self._open[peer] += 1
        try:
            return await self._answer(peer, call)
        finally:
            self._open[peer] -= 1
            if not self._open[peer]:
                del self._open[peer]

    async def _answer(self, peer: PeerId, call: Call[Piece, ChunksRequest]) -> Refusal | None:
        """Answer requests in order; the disk is a chunk ahead of the network."""
        send, receive = trio.open_memory_channel[_Part | Refusal](0)
        refusal: Refusal | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read_ahead, call, send)
            async with receive:
                async for chunk in receive:
                    refusal = chunk if isinstance(chunk, Refusal) else await self._send(peer, call, chunk)
                    if refusal is not None:
                        nursery.cancel_scope.cancel()
                        break
        return refusal

    async def _read_ahead(
        self, call: Call[Piece, ChunksRequest], send: trio.MemorySendChannel[_Part | Refusal]
    ) -> None:
        async with send:
            while True:
                request: ChunksRequest | Refusal | None = None
                with trio.move_on_after(IDLE_S):
                    request = await call.receive()
                if not isinstance(request, ChunksRequest):
                    return
                for index in range(request.first, request.first + request.count):
                    skip = request.skip if index == request.first else 0
                    await send.send(await self._chunk(request.digest, index, skip))

    async def _chunk(self, digest: bytes, index: int, skip: int) -> _Part | Refusal:
        try:
            data = await self._read(digest, index)
        except OSError as error:
            _log.error("chunk %d of %s can't be read: %s", index, cid_text(digest), error)
            return Refusal(Code.INTERNAL, "the disk failed")
        if data is None or len(data) <= skip:
            return Refusal(Code.NOT_FOUND, f"chunk {index} of {cid_text(digest)} is not here")
        return _Part(digest, index, memoryview(data)[skip:])

    async def _send(self, peer: PeerId, call: Call[Piece, ChunksRequest], part: _Part) -> Refusal | None:
        ticket, is_whole = self._uploads.ask(peer, part.digest, part.index), False
        try:
            while not await self._uploads.turn(ticket, ALIVE_S):
                if (refusal := await _send_piece(call, Piece(part.index, memoryview(b"")))) is not None:
                    return refusal
            refusal = await self._send_now(call, part)
            is_whole = refusal is None
            return refusal
        finally:
            self._uploads.leave(ticket, is_whole=is_whole)

    async def _send_now(self, call: Call[Piece, ChunksRequest], part: _Part) -> Refusal | None:
        for offset in range(0, len(part.data), PIECE_BYTES):
            piece = Piece(part.index, part.data[offset : offset + PIECE_BYTES])
            await self._uploads.pause(part.digest, len(piece.data))
            if (refusal := await _send_piece(call, piece)) is not None:
                return refusal
            self._uploads.sent(len(piece.data))
        return None


async def _send_piece(call: Call[Piece, ChunksRequest], piece: Piece) -> Refusal | None:
    with trio.move_on_after(IDLE_S):
        return await call.send(piece)
    return Refusal(Code.DEADLINE_EXCEEDED, f"no byte was taken for {IDLE_S:g} s")
