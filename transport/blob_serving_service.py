"""What a node answers about its blobs, and how fast it has sent."""

from functools import partial
from typing import Final

import trio

from .blob_holder import Lines
from .blob_store import BlobStore
from .blob_stream import ChunkServer
from .blobs import (
    CHUNKS,
    HAVE,
    MANIFEST,
    HaveReply,
    HaveRequest,
    ManifestReply,
    ManifestRequest,
    bitmap_from_mask,
    cid_text,
)
from .blocking_service import RunBlocking
from .port import Code, PeerId, Refusal, Transport
from .upload_service import Uploads

READS_AT_ONCE: Final = 4  # worker threads that read for others


class BlobServer:
    """Serves what a store holds, also while it is being fetched."""

    def __init__(
        self, transport: Transport, store: BlobStore, lines: Lines, uploads: Uploads, run_blocking: RunBlocking
    ) -> None:
        self._transport = transport
        self._store = store
        self._lines = lines
        self._blocking = run_blocking
        self._readers = trio.CapacityLimiter(READS_AT_ONCE)
        self._chunks = ChunkServer(self._read_chunk, uploads)

    def start(self) -> None:
        self._transport.serve(MANIFEST, self._serve_manifest)
        self._transport.serve(HAVE, self._serve_have)
        self._transport.serve_stream(CHUNKS, self._chunks.serve)

    def stop(self) -> None:
        for method in (MANIFEST, HAVE, CHUNKS):
            self._transport.stop_serving(method.name)

    async def _serve_manifest(self, peer: PeerId, request: ManifestRequest) -> ManifestReply | Refusal:
        held = await self._blocking(partial(self._store.held, request.digest), limiter=self._readers)
        if held is None:
            return Refusal(Code.NOT_FOUND, f"{cid_text(request.digest)} is not here")
        have = None if held.have is None else bitmap_from_mask(held.have, held.chunk_count)
        return ManifestReply(held.manifest_data, have, self._own_rate())

    async def _serve_have(self, peer: PeerId, request: HaveRequest) -> HaveReply:
        haves = await self._blocking(
            lambda: [self._store.have(each) for each in request.digests], limiter=self._readers
        )
        return HaveReply(haves, self._own_rate())

    def _own_rate(self) -> int:
        self._lines.sent(self._transport.traffic().bytes_sent, trio.current_time())
        return self._lines.own_rate

    async def _read_chunk(self, digest: bytes, index: int) -> bytes | None:
        return await self._blocking(partial(self._store.read_chunk, digest, index), limiter=self._readers)
