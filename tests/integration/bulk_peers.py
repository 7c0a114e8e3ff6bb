"""Nodes with blobs on loopback, a front that stands before one of them, and peers that misuse bulk connections."""

import os
import random
import ssl
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Final

import trio

from shoal.transport.blob_store import BlobStore
from shoal.transport.blobs import (
    CHUNKS,
    HAVE,
    MANIFEST,
    PIECE_BYTES,
    BlobRef,
    ChunksRequest,
    HaveReply,
    ManifestReply,
    ManifestRequest,
    Piece,
)
from shoal.transport.bulk import BlobService, Lie
from shoal.transport.bulk_messages import COME, FETCHES, MEET, TOKEN_CHARS, Come, Coming, Meet, Met
from shoal.transport.credentials_service import Credentials
from shoal.transport.host import Host, open_host
from shoal.transport.identity import Identity
from shoal.transport.limits import Limits
from shoal.transport.port import Address, Call, Connection, PeerId, Refusal
from shoal.transport.upload_service import Uploads
from shoal.transport.wire import Malformed

MIB: Final = 2**20
LISTEN: Final = (Address("/ip4/127.0.0.1/tcp/0"),)
BUDGET_BYTES: Final = 10**9
PATIENCE_S: Final = 20.0
BULK_MODULES: Final = ("bulk_fetching_service.py", "bulk_serving_service.py", "bulk_link_service.py")
TOKEN: Final = "0123456789abcdef" * (TOKEN_CHARS // 16)  # the one that a villain hands out

TlsStream = trio.SSLStream[trio.SocketStream]
BROKEN: Final = (trio.BrokenResourceError, trio.ClosedResourceError, OSError, ssl.SSLError)


def identity(index: int) -> Identity:
    return Identity.from_seed(index.to_bytes(32, "big"))


def content(mib: int, seed: int = 0) -> bytes:
    """So many MiB, but for a few bytes."""
    return random.Random(1000 * seed + mib).randbytes(mib * MIB - 7)


def port_of(address: str) -> int:
    return int(address.split("/")[4])


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def bulk_threads() -> int:
    """Threads that use a bulk connection now. What trio keeps for the next call is none of them."""

    def files(frame: FrameType | None) -> Iterator[str]:
        while frame is not None:
            yield Path(frame.f_code.co_filename).name
            frame = frame.f_back

    frames = sys._current_frames().values()  # pyright: ignore[reportPrivateUsage]
    return sum(any(each in BULK_MODULES for each in files(frame)) for frame in frames)


async def until(is_so: Callable[[], bool], within_s: float = PATIENCE_S) -> None:
    with trio.fail_after(within_s):
        while not is_so():  # noqa: ASYNC110
            await trio.sleep(0.01)


@dataclass
class Node:
    """An honest one."""

    host: Host
    store: BlobStore
    blobs: BlobService
    lies: list[Lie]

    @property
    def peer(self) -> PeerId:
        return self.host.peer_id

    @property
    def address(self) -> Address:
        return self.host.addresses()[-1]

    async def put(self, data: bytes, pin: str = "kept") -> BlobRef:
        ref = await self.blobs.put([memoryview(data)], pin=pin)
        assert isinstance(ref, BlobRef)
        return ref

    async def fetch(self, ref: BlobRef, *holders: PeerId, timeout_s: float = PATIENCE_S) -> None:
        refusal = await self.blobs.fetch(ref, lambda: holders, pin="fetched", timeout_s=timeout_s)
        assert refusal is None, refusal

    def has(self, ref: BlobRef, data: bytes) -> bool:
        blob = self.blobs.open(ref)
        return blob is not None and blob.read(0, blob.size) == data

    def connection(self, peer: PeerId) -> Connection:
        (found,) = (each for each in self.host.connections() if each.peer == peer)
        return found

    def has_bulk(self, peer: PeerId) -> bool:
        return self.connection(peer).bulk.startswith("TLS")

    @property
    def bulk_received(self) -> int:
        """Bytes, encrypted."""
        assert self.host.bulk is not None
        return self.host.bulk.traffic().bytes_received

    @property
    def received(self) -> int:
        return self.host.traffic().bytes_received


@asynccontextmanager
async def open_node(
    index: int,
    path: Path,
    limits: Limits | None = None,
    *,
    uploads: Callable[[BlobStore], Uploads] | None = None,
) -> AsyncGenerator[Node]:
    store = BlobStore(path / str(index), BUDGET_BYTES, boot="boot")
    lies: list[Lie] = []
    async with open_host(identity(index), LISTEN, limits, seed=index) as host, trio.open_nursery() as nursery:
        limiter = None if uploads is None else uploads(store)
        blobs = BlobService(host, store, report=lies.append, uploads=limiter)
        await nursery.start(blobs.run)
        yield Node(host, store, blobs, lies)
        nursery.cancel_scope.cancel()


async def connect(one: Node | Host, address: Address) -> PeerId:
    peer = await (one.host if isinstance(one, Node) else one).connect(address, timeout_s=PATIENCE_S)
    assert not isinstance(peer, Refusal), peer
    return peer


def at(bytes_per_s: float) -> Callable[[BlobStore], Uploads]:
    return lambda store: Uploads(bytes_per_s, store.owner_of)


# A front


class Front:
    """Listens in a node's stead: hands libp2p on to it, and TLS as well, or to `on_tls`."""

    def __init__(self, target: Host, on_tls: Callable[[trio.SocketStream], Awaitable[None]] | None = None) -> None:
        self._target = target
        self._on_tls = on_tls
        self._passed: set[trio.SocketStream] = set()  # TLS, both ends
        self._others: set[trio.SocketStream] = set()
        self.tls_count = 0  # connections

    async def run(self, *, task_status: trio.TaskStatus[Address]) -> None:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener.socket.getsockname()[1]
        task_status.started(Address(f"/ip4/127.0.0.1/tcp/{port}/p2p/{self._target.peer_id}"))
        await trio.serve_listeners(self._take, [listener])

    def cut(self) -> None:
        """End all that is passed on of TLS, at once."""
        _abort(self._passed)

    def cut_libp2p(self) -> None:
        _abort(self._others)

    async def _take(self, stream: trio.SocketStream) -> None:
        first = await stream.socket.recv(1, trio.socket.MSG_PEEK)
        is_tls = first == b"\x16"
        self.tls_count += is_tls
        with suppress(*BROKEN):
            if is_tls and self._on_tls is not None:
                await self._on_tls(stream)
            elif first:
                await self._carry_both(stream, self._passed if is_tls else self._others)

    async def _carry_both(self, stream: trio.SocketStream, among: set[trio.SocketStream]) -> None:
        async with await trio.open_tcp_stream("127.0.0.1", port_of(self._target.addresses()[-1])) as other:
            among |= {stream, other}
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_carry, stream, other)
                    nursery.start_soon(_carry, other, stream)
            finally:
                among -= {stream, other}


def _abort(streams: set[trio.SocketStream]) -> None:
    for each in streams:
        with suppress(OSError):
            each.socket.shutdown(trio.socket.SHUT_RDWR)


async def _carry(source: trio.SocketStream, sink: trio.SocketStream) -> None:
    with suppress(*BROKEN):
        while data := await source.receive_some(65_536):
            await sink.send_all(data)
    with suppress(*BROKEN):
        await sink.send_eof()


# Those who misuse it

Serve = Callable[["Villain", TlsStream, trio.SocketStream], Awaitable[None]]


@dataclass
class Villain:
    """A holder that serves by streams as is right, slowly, and by TLS as `serve` says."""

    host: Host
    origin: Node
    ref: BlobRef
    data: bytes
    serve: Serve
    chunk_s: float = 0.05  # by streams
    credentials: Credentials = field(default_factory=Credentials)
    certificates: list[bytes] = field(default_factory=list[bytes])  # of those who met it
    served: int = 0  # TLS connections whose handshake was done
    streamed: int = 0  # chunks

    def attach(self) -> None:
        held = self.origin.store.held(self.ref.digest)
        assert held is not None

        def meet(peer: PeerId, request: Meet) -> Met:
            del peer
            self.certificates.append(request.certificate)
            return Met(self.credentials.certificate, TOKEN)

        def manifest(peer: PeerId, request: ManifestRequest) -> ManifestReply:
            del peer
            return ManifestReply(held.manifest_data, None)

        self.host.serve(MEET, meet)
        self.host.serve(MANIFEST, manifest)
        self.host.serve(HAVE, lambda _, request: HaveReply([None] * len(request.digests)))
        self.host.serve_stream(CHUNKS, self._stream)

    async def _stream(self, peer: PeerId, call: Call[Piece, ChunksRequest]) -> Refusal | None:
        del peer
        while isinstance(request := await call.receive(), ChunksRequest):
            for index in range(request.first, request.first + request.count):
                await trio.sleep(self.chunk_s)
                chunk = memoryview(self.data)[index * MIB : (index + 1) * MIB][
                    request.skip if index == request.first else 0 :
                ]
                for offset in range(0, len(chunk), PIECE_BYTES):
                    await call.send(Piece(index, chunk[offset : offset + PIECE_BYTES]))
                self.streamed += 1
        return None

    async def on_tls(self, stream: trio.SocketStream) -> None:
        contexts = self.credentials.contexts(self.certificates[-1])
        assert not isinstance(contexts, Malformed)
        tls = trio.SSLStream(stream, contexts[0], server_side=True, https_compatible=True)
        await tls.do_handshake()
        assert await tls.receive_some(1) == FETCHES
        self.served += 1
        await self.serve(self, tls, stream)


@asynccontextmanager
async def open_villain(index: int, origin: Node, ref: BlobRef, data: bytes, serve: Serve) -> AsyncGenerator[Villain]:
    """Its address is that of the front: `villain.host.addresses` is behind it."""
    async with open_host(identity(index), LISTEN, seed=index) as host:
        villain = Villain(host, origin, ref, data, serve)
        villain.attach()
        yield villain


@dataclass
class Intruder:
    """A peer that dials a node and begins TLS as it likes."""

    host: Host
    target: Node
    credentials: Credentials = field(default_factory=Credentials)

    async def meet(self, certificate: bytes | None = None) -> Met:
        own = self.credentials.certificate if certificate is None else certificate
        met = await self.host.request(self.target.peer, MEET, Meet(own), timeout_s=PATIENCE_S)
        assert isinstance(met, Met), met
        return met

    async def come(self, token: str) -> Coming | Refusal:
        return await self.host.request(self.target.peer, COME, Come(token), timeout_s=PATIENCE_S)

    async def dial(self, met: Met, credentials: Credentials | None = None, local: str = "127.0.0.1") -> TlsStream:
        """After the handshake, as far as this side can tell."""
        contexts = (credentials or self.credentials).contexts(met.certificate)
        assert not isinstance(contexts, Malformed)
        stream = await open_tcp(port_of(self.target.address), local)
        tls = trio.SSLStream(stream, contexts[1], server_hostname=met.token, https_compatible=True)
        try:
            await tls.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return tls


async def open_tcp(port: int, local: str = "127.0.0.1") -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", port, local_address=local)


async def read_to_end(read: Callable[[], Awaitable[bytes | bytearray]]) -> bytes:
    """What still comes; the end may be a broken connection."""
    data = b""
    with suppress(*BROKEN):
        while piece := await read():
            data += piece
    return data


@asynccontextmanager
async def open_intruder(index: int, target: Node) -> AsyncGenerator[Intruder]:
    async with open_host(identity(index), (), seed=index) as host:
        assert await connect(host, target.address) == target.peer
        yield Intruder(host, target)


async def front_of(nursery: trio.Nursery, target: Node | Villain) -> tuple[Front, Address]:
    front = Front(target.host, target.on_tls if isinstance(target, Villain) else None)
    address: Address = await nursery.start(partial(front.run))
    return front, address
