"""Blobs between nodes on a simulated network: shared out, resumed, bounded, and right whatever holders send."""

import os
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from shoal.transport.blob_plan import WAIT_S_MAX
from shoal.transport.blob_store import BlobStore
from shoal.transport.blob_stream import IDLE_S, SERVES_PER_PEER_MAX, ChunkSource, OpenSource, Received, rpc_sources
from shoal.transport.blobs import (
    CHUNK_BYTES,
    CHUNKS,
    HAVE,
    MANIFEST,
    PIECE_BYTES,
    BlobRef,
    ChunksRequest,
    HaveReply,
    HaveRequest,
    Manifest,
    ManifestReply,
    ManifestRequest,
    Piece,
    bitmap_from_mask,
)
from shoal.transport.blocking_service import run_inline
from shoal.transport.bulk import PACE_S, BlobService, Lie
from shoal.transport.memory import Network
from shoal.transport.port import Call, Code, PeerId, Refusal, Streaming, Transport, Unary
from shoal.transport.upload_service import Uploads
from shoal.transport.wire import Message

MIB = 2**20
FUZZ_COUNT = 100_000 if os.environ.get("SHOAL_SOAK") else 300


def content(chunks: int, seed: int = 0) -> bytes:
    """`chunks` chunks, but for a few bytes of the last."""
    return b"".join(random.Random(f"{seed} {index}").randbytes(CHUNK_BYTES) for index in range(chunks))[:-7]


@dataclass
class Node:
    transport: Transport
    store: BlobStore
    lies: list[Lie]
    blobs: BlobService = field(init=False)
    received: list[tuple[PeerId, int]] = field(default_factory=list[tuple[PeerId, int]])  # chunks, from whom

    @property
    def peer(self) -> PeerId:
        return self.transport.peer_id

    def sources(self, chunk_s: float) -> OpenSource:
        """The node's chunk sources, which note what comes and take `chunk_s` for each chunk."""
        inner = rpc_sources(self.transport)

        @asynccontextmanager
        async def open_source(peer: PeerId, digest: bytes, manifest: Manifest) -> AsyncGenerator[ChunkSource, None]:
            async with inner(peer, digest, manifest) as source:
                yield _Noted(source, peer, self.received, chunk_s)

        return open_source


@dataclass
class _Noted:
    source: ChunkSource
    peer: PeerId
    received: list[tuple[PeerId, int]]
    chunk_s: float

    def take(self, first: int, count: int) -> None:
        self.source.take(first, count)

    async def receive(self) -> Received:
        chunk = await self.source.receive()
        if isinstance(chunk, tuple):
            await trio.sleep(self.chunk_s)
            self.received.append((self.peer, chunk[0]))
        return chunk


@dataclass
class World:
    """Nodes on one simulated network, all connected."""

    network: Network
    nursery: trio.Nursery
    path: Path

    async def transport(self, name: str) -> Transport:
        return await self.network.open(PeerId(name))

    async def node(
        self, name: str, *, chunk_s: float = 0.0, budget: int = 256 * MIB, upload_bytes_per_s: float = 0.0
    ) -> Node:
        """A node that takes `chunk_s` to receive a chunk."""
        transport = await self.transport(name)
        store = BlobStore(self.path / name, budget, boot="boot")
        lies: list[Lie] = []
        node = Node(transport, store, lies)
        node.blobs = BlobService(
            transport,
            store,
            report=lies.append,
            run_blocking=run_inline,
            open_source=node.sources(chunk_s),
            uploads=Uploads(upload_bytes_per_s, clock=trio.current_time),
        )
        await self.nursery.start(node.blobs.run)
        return node


@asynccontextmanager
async def world(path: Path) -> AsyncGenerator[World, None]:
    network = Network(is_full=True)
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        yield World(network, nursery, path)
        nursery.cancel_scope.cancel()


def known(*nodes: Node | Transport) -> Callable[[], list[PeerId]]:
    return lambda: [node.peer if isinstance(node, Node) else node.peer_id for node in nodes]


async def put(node: Node, data: bytes, pin: str = "kept") -> BlobRef:
    ref = await node.blobs.put([memoryview(data)], pin=pin)
    assert isinstance(ref, BlobRef)
    return ref


def read_all(node: Node, ref: BlobRef) -> bytes | None:
    blob = node.blobs.open(ref)
    return None if blob is None else blob.read(0, blob.size)


Wrong = Callable[[Call[Piece, ChunksRequest], BlobRef, bytes, ChunksRequest], Awaitable[None]]


async def serve_badly(
    transport: Transport, origin: Node, ref: BlobRef, data: bytes, answer: Wrong, have: bytes | None = None
) -> None:
    """A holder that says it has all (or `have`) of a blob, and answers requests for chunks by `answer`."""
    held = origin.store.held(ref.digest)
    assert held is not None
    manifest_data = held.manifest_data

    async def stream(peer: PeerId, call: Call[Piece, ChunksRequest]) -> Refusal | None:
        while isinstance(request := await call.receive(), ChunksRequest):
            await answer(call, ref, data, request)
        return None

    transport.serve(MANIFEST, lambda peer, request: ManifestReply(manifest_data, have))
    transport.serve(HAVE, lambda peer, request: HaveReply([have for _ in request.digests]))
    transport.serve_stream(CHUNKS, stream)


async def send(call: Call[Piece, ChunksRequest], index: int, data: bytes, piece: int = PIECE_BYTES) -> None:
    for offset in range(0, len(data), piece):
        await call.send(Piece(index, memoryview(data)[offset : offset + piece]))


def chunk_of(data: bytes, index: int) -> bytes:
    return data[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]


async def wrong_bytes(call: Call[Piece, ChunksRequest], ref: BlobRef, data: bytes, request: ChunksRequest) -> None:
    for index in range(request.first, request.first + request.count):
        await send(call, index, bytes(len(chunk_of(data, index))))


async def another_chunk(call: Call[Piece, ChunksRequest], ref: BlobRef, data: bytes, request: ChunksRequest) -> None:
    index = (request.first + request.count) % (len(data) // CHUNK_BYTES)
    await send(call, index, chunk_of(data, index))


async def no_such_chunk(call: Call[Piece, ChunksRequest], ref: BlobRef, data: bytes, request: ChunksRequest) -> None:
    await send(call, 60_000, bytes(CHUNK_BYTES))


async def tiny_pieces(call: Call[Piece, ChunksRequest], ref: BlobRef, data: bytes, request: ChunksRequest) -> None:
    await send(call, request.first, chunk_of(data, request.first), piece=1_000)


async def too_much(call: Call[Piece, ChunksRequest], ref: BlobRef, data: bytes, request: ChunksRequest) -> None:
    await send(call, request.first, chunk_of(data, request.first)[:PIECE_BYTES] * 18)


async def mixed_chunks(call: Call[Piece, ChunksRequest], ref: BlobRef, data: bytes, request: ChunksRequest) -> None:
    for index in range(request.first, request.first + 2):
        await call.send(Piece(index, memoryview(data)[:PIECE_BYTES]))


async def not_yet_in_mid_chunk(
    call: Call[Piece, ChunksRequest], ref: BlobRef, data: bytes, request: ChunksRequest
) -> None:
    await call.send(Piece(request.first, memoryview(data)[:PIECE_BYTES]))
    await call.send(Piece(request.first, memoryview(b"")))


LIES: dict[str, Wrong] = {
    "wrong bytes": wrong_bytes,
    "another chunk": another_chunk,
    "no such chunk": no_such_chunk,
    "tiny pieces": tiny_pieces,
    "too much": too_much,
    "mixed chunks": mixed_chunks,
    "not yet, in mid-chunk": not_yet_in_mid_chunk,
}


async def test_what_one_node_puts_another_fetches_verified_and_pinned(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path) as net:
        a, b = await net.node("a"), await net.node("b")
        data = content(5)
        ref = await put(a, data)
        assert b.blobs.open(ref) is None
        assert await b.blobs.fetch(ref, known(a, b), pin="round 1", timeout_s=60) is None
        assert read_all(b, ref) == data
        assert b.store.labels() == {"round 1": {ref.digest}}
        assert await b.blobs.fetch(ref, known(), pin="round 2", timeout_s=60) is None  # it is here
        assert b.store.labels() == {"round 1": {ref.digest}, "round 2": {ref.digest}}


def changed(data: bytes, *places: int) -> bytes:
    """`data` with the bytes in these places turned into others."""
    other = bytearray(data)
    for place in places:
        other[place] ^= 0xFF
    return bytes(other)


async def test_of_a_blob_that_is_like_another_only_what_differs_goes_over_the_wire(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path) as net:
        a, b = await net.node("a"), await net.node("b")
        old = content(8)
        new = changed(old, 5 * CHUNK_BYTES + 17)
        like, ref = await put(b, old), await put(a, new)
        before = b.transport.traffic().bytes_received
        assert await b.blobs.fetch(ref, known(a), pin="x", timeout_s=60, like=like) is None
        assert read_all(b, ref) == new
        assert b.received == [(a.peer, 5)]
        assert CHUNK_BYTES < b.transport.traffic().bytes_received - before < CHUNK_BYTES + 8192
        assert read_all(b, like) == old


async def test_a_chunk_that_has_gone_bad_here_is_fetched_though_it_should_be_the_same(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path) as net:
        a, b = await net.node("a"), await net.node("b")
        old = content(4)
        new = changed(old, 0)
        like, ref = await put(b, old), await put(a, new)
        file = tmp_path / "b" / like.cid
        file.write_bytes(changed(file.read_bytes(), 2 * CHUNK_BYTES + 1))
        assert await b.blobs.fetch(ref, known(a), pin="x", timeout_s=60, like=like) is None
        assert read_all(b, ref) == new
        assert sorted(b.received) == [(a.peer, 0), (a.peer, 2)]


async def test_what_is_like_a_blob_that_is_not_here_is_fetched_as_a_whole(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path) as net:
        a, b = await net.node("a"), await net.node("b")
        like, ref = await put(a, content(3, seed=1)), await put(a, content(3))
        assert await b.blobs.fetch(ref, known(a), pin="x", timeout_s=60, like=like) is None
        assert read_all(b, ref) == content(3)


@pytest.mark.parametrize("chunks", [2, 6])
async def test_blobs_of_other_lengths_share_what_stands_in_the_same_place(
    tmp_path: Path, autojump_clock: MockClock, chunks: int
) -> None:
    async with world(tmp_path) as net:
        a, b = await net.node("a"), await net.node("b")
        like, ref = await put(b, content(chunks)), await put(a, content(4))
        assert await b.blobs.fetch(ref, known(a), pin="x", timeout_s=60, like=like) is None
        assert read_all(b, ref) == content(4)
        whole = min(chunks, 4) - 1  # the last of the shorter lacks a few bytes
        assert sorted(index for _, index in b.received) == list(range(whole, 4))


async def test_all_that_wait_for_a_blob_may_name_one_that_is_like_it(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with world(tmp_path) as net:
        a, b = await net.node("a"), await net.node("b")
        new = content(6)
        ref = await put(a, new)
        likes = [await put(b, changed(new, place * CHUNK_BYTES, 5 * CHUNK_BYTES)) for place in (1, 2)]
        results: list[Refusal | None] = []

        async def fetch(like: BlobRef) -> None:
            results.append(await b.blobs.fetch(ref, known(a), pin="x", timeout_s=60, like=like))

        async with trio.open_nursery() as nursery:
            for like in likes:
                nursery.start_soon(fetch, like)
        assert results == [None, None]
        assert [index for _, index in b.received] == [5]


async def test_the_empty_blob_is_a_blob(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with world(tmp_path) as net:
        a, b = await net.node("a"), await net.node("b")
        ref = await put(a, b"")
        assert await b.blobs.fetch(ref, known(a), pin="x", timeout_s=60) is None
        assert read_all(b, ref) == b""


async def test_several_holders_share_the_work(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with world(tmp_path) as net:
        holders = [await net.node(name) for name in "abc"]
        data = content(30)
        refs = [await put(holder, data) for holder in holders]
        d = await net.node("d", chunk_s=0.1)
        assert await d.blobs.fetch(refs[0], known(*holders), pin="x", timeout_s=60) is None
        assert read_all(d, refs[0]) == data
        for holder in holders:
            assert sum(peer == holder.peer for peer, _ in d.received) >= 7


@pytest.mark.parametrize("lie", LIES)
async def test_a_liar_is_dropped_for_good_and_reported(tmp_path: Path, autojump_clock: MockClock, lie: str) -> None:
    async with world(tmp_path) as net:
        a, b, liar = await net.node("a"), await net.node("b", chunk_s=0.1), await net.transport("l")
        data = content(12)
        ref = await put(a, data)
        await serve_badly(liar, a, ref, data, LIES[lie])
        assert await b.blobs.fetch(ref, known(liar, a), pin="x", timeout_s=60) is None
        assert read_all(b, ref) == data
        assert [(found.peer, found.blob) for found in b.lies] == [(liar.peer_id, ref)]


async def test_a_liar_alone_ends_in_a_refusal_that_names_it(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with world(tmp_path) as net:
        a, b, liar = await net.node("a"), await net.node("b"), await net.transport("l")
        data = content(3)
        ref = await put(a, data)
        await serve_badly(liar, a, ref, data, wrong_bytes)
        refusal = await b.blobs.fetch(ref, known(liar), pin="x", timeout_s=20)
        assert isinstance(refusal, Refusal)
        assert refusal.code is Code.DEADLINE_EXCEEDED
        assert "1 lied" in refusal.message
        assert liar.peer_id in refusal.message
        assert b.blobs.open(ref) is None
        assert b.store.labels() == {}


async def test_a_lie_in_the_manifest_or_the_bitmap_is_a_lie(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with world(tmp_path) as net:
        a, b = await net.node("a"), await net.node("b")
        forger, mapper = await net.transport("f"), await net.transport("m")
        data = content(3)
        ref = await put(a, data)
        forger.serve(MANIFEST, lambda peer, request: ManifestReply(b"\x93\x01\x00\xc4\x00", None))
        await serve_badly(mapper, a, ref, data, wrong_bytes, have=b"\xff\xff")
        assert isinstance(await b.blobs.fetch(ref, known(forger, mapper), pin="x", timeout_s=20), Refusal)
        assert sorted(lie.peer for lie in b.lies) == sorted([forger.peer_id, mapper.peer_id])


async def test_a_holder_that_falls_silent_is_replaced(tmp_path: Path, autojump_clock: MockClock) -> None:
    async def silence(call: Call[Piece, ChunksRequest], ref: BlobRef, data: bytes, request: ChunksRequest) -> None:
        await call.send(Piece(request.first, memoryview(chunk_of(data, request.first))[:PIECE_BYTES]))
        await trio.sleep_forever()

    async with world(tmp_path) as net:
        a, b, silent = await net.node("a"), await net.node("b", chunk_s=0.05), await net.transport("s")
        data = content(20)
        ref = await put(a, data)
        await serve_badly(silent, a, ref, data, silence)
        began = trio.current_time()
        assert await b.blobs.fetch(ref, known(silent, a), pin="x", timeout_s=60) is None
        assert read_all(b, ref) == data
        assert trio.current_time() - began < 4
        assert b.lies == []


async def test_on_a_slow_uplink_all_wait_for_their_turns_and_fetch_nothing_twice(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path) as net:
        slow = await net.node("slow", upload_bytes_per_s=60_000)
        others = [await net.node(f"n{number}") for number in range(8)]
        ref = await put(slow, content(1))
        results: list[Refusal | None] = []

        async def fetch(node: Node) -> None:
            results.append(await node.blobs.fetch(ref, known(slow), pin="x", timeout_s=300))

        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for node in others:
                nursery.start_soon(fetch, node)
        assert results == [None] * 8
        assert trio.current_time() - began < 1.1 * 8 * CHUNK_BYTES / 60_000
        assert slow.transport.traffic().bytes_sent < 8.2 * CHUNK_BYTES


async def test_who_says_for_ever_that_it_is_not_yet_the_turn_holds_nobody_up(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async def not_yet(call: Call[Piece, ChunksRequest], ref: BlobRef, data: bytes, request: ChunksRequest) -> None:
        while True:
            await call.send(Piece(request.first, memoryview(b"")))
            await trio.sleep(1)

    async with world(tmp_path) as net:
        a, b, alone, liar = *[await net.node(name) for name in "abc"], await net.transport("l")
        data = content(20)
        ref = await put(a, data)
        await serve_badly(liar, a, ref, data, not_yet)
        began = trio.current_time()
        assert await b.blobs.fetch(ref, known(liar, a), pin="x", timeout_s=60) is None
        assert trio.current_time() - began < 4
        refusal = await alone.blobs.fetch(ref, known(liar), pin="x", timeout_s=3_600)
        assert isinstance(refusal, Refusal)
        assert WAIT_S_MAX <= trio.current_time() - began < 1.2 * WAIT_S_MAX


async def test_nobody_who_has_it_is_a_refusal_that_says_so(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with world(tmp_path) as net:
        a, b = await net.node("a"), await net.node("b")
        ref = BlobRef(bytes(32), 5)
        refusal = await b.blobs.fetch(ref, known(a), pin="x", timeout_s=5)
        assert isinstance(refusal, Refusal)
        assert "NOT_FOUND" in refusal.message
        assert ref.cid in refusal.message
        refusal = await b.blobs.fetch(ref, known(), pin="x", timeout_s=5)
        assert isinstance(refusal, Refusal)
        assert "nobody is known to hold it" in refusal.message


async def test_many_fetches_of_a_blob_are_one_and_each_pins(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with world(tmp_path) as net:
        a, b = await net.node("a"), await net.node("b", chunk_s=0.1)
        ref = await put(a, content(6))
        results: list[Refusal | None] = []

        async def fetch(label: str) -> None:
            results.append(await b.blobs.fetch(ref, known(a), pin=label, timeout_s=60))

        async with trio.open_nursery() as nursery:
            for label in range(20):
                nursery.start_soon(fetch, str(label))
        assert results == [None] * 20
        assert sorted(index for _, index in b.received) == list(range(6))
        assert set(b.store.labels()) == {str(label) for label in range(20)}


async def test_who_gives_up_takes_nothing_from_those_who_wait_on(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with world(tmp_path) as net:
        a, b = await net.node("a"), await net.node("b", chunk_s=1.0)
        ref = await put(a, content(6))
        results: list[Refusal | None] = []

        async def fetch(timeout_s: float) -> None:
            results.append(await b.blobs.fetch(ref, known(a), pin=f"for {timeout_s}", timeout_s=timeout_s))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetch, 2.5)
            nursery.start_soon(fetch, 60.0)
        assert isinstance(results[0], Refusal)
        assert results[1] is None
        assert set(b.store.labels()) == {"for 60.0"}


async def test_a_fetch_nobody_waits_for_ends_and_the_next_one_takes_it_up(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path) as net:
        a, b = await net.node("a"), await net.node("b", chunk_s=1.0)
        data = content(10)
        ref = await put(a, data)
        refusal = await b.blobs.fetch(ref, known(a), pin="x", timeout_s=4.5)
        assert isinstance(refusal, Refusal)
        assert "chunks are missing" in refusal.message
        await trio.sleep(5)
        first = len(b.received)
        assert 3 <= first <= 5
        assert await b.blobs.fetch(ref, known(a), pin="x", timeout_s=60) is None
        assert sorted(index for _, index in b.received) == list(range(10))
        assert read_all(b, ref) == data


async def test_who_says_how_fast_it_must_come_gives_up_on_less_and_goes_on_from_there(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path) as net:
        a, b = await net.node("a"), await net.node("b", chunk_s=4.0)
        ref = await put(a, content(10))
        began = trio.current_time()
        refusal = await b.blobs.fetch(ref, known(a), pin="x", timeout_s=3600, bytes_per_s_min=MIB)
        assert isinstance(refusal, Refusal)
        assert refusal.code is Code.DEADLINE_EXCEEDED
        assert "1049 KB/s" in refusal.message
        assert trio.current_time() - began <= PACE_S + 0.1
        first = len(b.received)
        assert await b.blobs.fetch(ref, known(a), pin="x", timeout_s=3600, bytes_per_s_min=MIB / 8) is None
        assert first > 0
        assert sorted({index for _, index in b.received}) == list(range(10))
        assert len(b.received) < 10 + first


async def test_a_node_that_is_still_fetching_serves_what_it_has(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with world(tmp_path) as net:
        a, b, c = await net.node("a"), await net.node("b", chunk_s=0.5), await net.node("c", chunk_s=0.5)
        data = content(30)
        ref = await put(a, data)

        async with trio.open_nursery() as nursery:
            for node in (b, c):
                nursery.start_soon(partial(node.blobs.fetch, ref, known(a, b, c), pin="x", timeout_s=600))
        for node, other in ((b, c), (c, b)):
            assert read_all(node, ref) == data
            assert sum(peer == other.peer for peer, _ in node.received) >= 5


async def test_holders_that_are_announced_later_are_used(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with world(tmp_path) as net:
        a, b = await net.node("a"), await net.node("b")
        ref = await put(a, content(2))
        holders: list[PeerId] = []

        async def announce() -> None:
            await trio.sleep(20)
            holders.append(a.peer)

        net.nursery.start_soon(announce)
        began = trio.current_time()
        assert await b.blobs.fetch(ref, lambda: holders, pin="x", timeout_s=60) is None
        assert trio.current_time() - began < 22


async def test_a_blob_beyond_the_budget_is_refused_before_it_is_fetched(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path) as net:
        a, b = await net.node("a"), await net.node("b", budget=4 * MIB)
        kept, ref = await put(b, content(2, 1)), await put(a, content(3))
        refusal = await b.blobs.fetch(ref, known(a), pin="x", timeout_s=60)
        assert isinstance(refusal, Refusal)
        assert "budget for blobs is full" in refusal.message
        assert b.received == []
        assert b.blobs.open(kept) is not None
        b.blobs.unpin("kept")
        assert await b.blobs.fetch(ref, known(a), pin="x", timeout_s=60) is None
        assert b.blobs.open(kept) is None


async def test_letting_go_is_written_down(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with world(tmp_path) as net:
        a = await net.node("a")
        await put(a, b"abc", "x")
        await put(a, b"def", "y")
        a.blobs.unpin("x")
        await trio.sleep(1)
        assert list(BlobStore(tmp_path / "a", MIB, boot="boot").labels()) == ["y"]
        a.blobs.unpin("y")
    assert list(BlobStore(tmp_path / "a", MIB, boot="boot").labels()) == []


async def test_a_wrong_size_in_the_reference_is_refused_and_nobody_blamed(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with world(tmp_path) as net:
        a, b = await net.node("a"), await net.node("b")
        ref = await put(a, content(2))
        refusal = await b.blobs.fetch(BlobRef(ref.digest, 7), known(a), pin="x", timeout_s=60)
        assert isinstance(refusal, Refusal)
        assert "the reference says 7 bytes" in refusal.message
        assert b.lies == []


async def test_a_peer_gets_a_bounded_number_of_streams(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with world(tmp_path) as net:
        a, greedy = await net.node("a"), await net.transport("g")
        ref = await put(a, content(2))
        answers: list[object] = []

        async def take() -> None:
            async with greedy.stream(a.peer, CHUNKS, timeout_s=20) as call:
                await call.send(ChunksRequest(ref.digest, 0, 1))
                answers.append(await call.receive())
                await trio.sleep(10)

        async with trio.open_nursery() as nursery:
            for _ in range(SERVES_PER_PEER_MAX + 3):
                nursery.start_soon(take)
        refusals = [answer for answer in answers if isinstance(answer, Refusal)]
        assert [refusal.code for refusal in refusals] == [Code.BUSY] * 3
        assert sum(isinstance(answer, Piece) for answer in answers) == SERVES_PER_PEER_MAX
        answers.clear()
        await trio.sleep(1)  # the end of a call travels too
        await take()
        assert isinstance(answers[0], Piece)  # the places are free again


async def test_a_stream_that_takes_no_bytes_loses_its_place(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with world(tmp_path) as net:
        a, idle = await net.node("a"), await net.transport("i")
        ref = await put(a, content(20))
        async with idle.stream(a.peer, CHUNKS, timeout_s=3_000) as call:
            await call.send(ChunksRequest(ref.digest, 0, 20))
            await trio.sleep(3 * IDLE_S)
            while isinstance(answer := await call.receive(), Piece):
                pass
            assert isinstance(answer, Refusal)
            assert answer.code is Code.DEADLINE_EXCEEDED


async def test_what_is_not_there_is_not_found(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with world(tmp_path) as net:
        a, asker = await net.node("a"), await net.transport("q")
        ref = await put(a, content(2))
        answer = await asker.request(a.peer, MANIFEST, ManifestRequest(bytes(32)), timeout_s=5)
        assert isinstance(answer, Refusal)
        assert answer.code is Code.NOT_FOUND
        for request in (ChunksRequest(bytes(32), 0, 1), ChunksRequest(ref.digest, 2, 1)):
            async with asker.stream(a.peer, CHUNKS, timeout_s=5) as call:
                await call.send(request)
                refusal = await call.receive()
                assert isinstance(refusal, Refusal)
                assert refusal.code is Code.NOT_FOUND


async def test_a_holder_says_which_chunks_it_has(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with world(tmp_path) as net:
        a, b, asker = await net.node("a"), await net.node("b", chunk_s=1.0), await net.transport("q")
        ref = await put(a, content(10))
        net.nursery.start_soon(lambda: b.blobs.fetch(ref, known(a), pin="x", timeout_s=60))
        await trio.sleep(4.5)
        mask = sum(1 << index for _, index in b.received)
        assert mask
        have = bitmap_from_mask(mask, 10)
        reply = await asker.request(b.peer, HAVE, HaveRequest([bytes(32), ref.digest]), timeout_s=5)
        assert isinstance(reply, HaveReply)
        assert reply.haves == [b"", have]
        held = await asker.request(b.peer, MANIFEST, ManifestRequest(ref.digest), timeout_s=5)
        assert isinstance(held, ManifestReply)
        assert held.have == have
        whole = await asker.request(a.peer, HAVE, HaveRequest([ref.digest]), timeout_s=5)
        assert isinstance(whole, HaveReply)
        assert whole.haves == [None]


async def test_real_threads_do_the_same(tmp_path: Path) -> None:
    async with world(tmp_path) as net:
        nodes: list[BlobService] = []
        peers: list[PeerId] = []
        for name in "ab":
            transport = await net.transport(name)
            nodes.append(BlobService(transport, BlobStore(tmp_path / name, 64 * MIB)))
            peers.append(transport.peer_id)
            await net.nursery.start(nodes[-1].run)
        data = content(8)
        ref = await nodes[0].put(iter([data[:1000], data[1000:]]), pin="x")
        assert isinstance(ref, BlobRef)
        assert await nodes[1].fetch(ref, lambda: peers, pin="y", timeout_s=30) is None
        blob = nodes[1].open(ref)
        assert blob is not None
        assert blob.read(0, blob.size) == data


async def test_a_put_that_is_cancelled_stops_at_the_next_chunk(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, 2**40)
    async with world(tmp_path) as net:
        blobs = BlobService(await net.transport("a"), store)
        with trio.move_on_after(0.05) as scope:
            await blobs.put((bytes(CHUNK_BYTES) for _ in range(10**6)), pin="x")
    assert scope.cancelled_caught
    assert store.used_bytes == 0


class Anything(Message, frozen=True):
    """An array of any values: what a peer may put where a request or a reply belongs."""

    first: object = None
    second: object = None
    third: object = None


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=80) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)


async def test_any_request_gets_an_answer_or_one_refusal(tmp_path: Path, autojump_clock: MockClock) -> None:
    manifest = Unary(MANIFEST.name, Anything, Anything, reply_bytes_max=MANIFEST.reply_bytes_max)
    chunks = Streaming(CHUNKS.name, Anything, Piece)
    values: list[object] = []

    @given(value=anything)
    @settings(max_examples=FUZZ_COUNT, database=None)
    def collect(value: object) -> None:
        values.append(value)

    collect()
    async with world(tmp_path) as net:
        a, fuzzer = await net.node("a"), await net.transport("f")
        ref = await put(a, content(2))
        odd: list[object] = [ref.digest, bytes(32), 0, 1, 65_535, 65_536, -1, True, *values]
        for number, value in enumerate(odd):
            request = Anything(odd[number % 7], value, odd[(number * 5) % 7])
            assert await fuzzer.request(a.peer, manifest, request, timeout_s=5) is not None
            async with fuzzer.stream(a.peer, chunks, timeout_s=5) as call:
                await call.send(request)
                await call.finish()
                while isinstance(await call.receive(), Piece):
                    pass
        reply = await fuzzer.request(a.peer, MANIFEST, ManifestRequest(ref.digest), timeout_s=5)
        assert isinstance(reply, ManifestReply)  # it still serves


async def test_any_answer_of_a_holder_leaves_the_fetch_whole(tmp_path: Path, autojump_clock: MockClock) -> None:
    manifest, chunks = Unary(MANIFEST.name, ManifestRequest, Anything), Streaming(CHUNKS.name, ChunksRequest, Anything)
    values: list[object] = []

    @given(value=anything)
    @settings(max_examples=FUZZ_COUNT // 20, database=None)
    def collect(value: object) -> None:
        values.append(value)

    collect()
    async with world(tmp_path) as net:
        a, b, fuzzer = await net.node("a"), await net.node("b"), await net.transport("f")
        for number, value in enumerate(values):
            data = content(2, number)
            ref = await put(a, data, "now")
            held = a.store.held(ref.digest)
            assert held is not None
            opening = held.manifest_data if number % 2 else value

            async def stream(
                peer: PeerId, call: Call[Anything, ChunksRequest], value: object = value
            ) -> Refusal | None:
                await call.send(Anything(value, 0, value))
                return None

            def answer(peer: PeerId, request: ManifestRequest, opening: object = opening) -> Anything:
                return Anything(opening, None)

            fuzzer.serve(manifest, answer)
            fuzzer.serve_stream(chunks, stream)
            assert await b.blobs.fetch(ref, known(fuzzer, a), pin="now", timeout_s=60) is None
            assert read_all(b, ref) == data
            for node in (a, b):
                node.blobs.unpin("now")
