"""A source of chunks whose bulk connections are gone, or never came: streams carry them, as often as need be."""

import random
from functools import partial
from pathlib import Path

import trio
from trio.testing import MockClock

from shoal.transport.blob_store import BlobStore
from shoal.transport.blob_stream import IDLE_S, rpc_stream
from shoal.transport.blobs import CHUNK_BYTES, BlobRef, Manifest, parse_manifest
from shoal.transport.blocking_service import run_inline
from shoal.transport.bulk import BlobService
from shoal.transport.bulk_fetching_service import BulkSource
from shoal.transport.bulk_pool_service import Job, Pool
from shoal.transport.memory import Network
from shoal.transport.port import PeerId

CONTENT = random.Random(1).randbytes(3 * CHUNK_BYTES - 9)


class Begun(BulkSource):
    """One of which a part of a chunk has come by a connection that broke."""

    def came_in_part(self, job: Job) -> None:
        self._jobs[job.index] = job
        self.fall_back(job)


def call_soon(function: object, *arguments: object) -> None:
    raise AssertionError("no thread runs here")


async def chunk_of(source: BulkSource) -> tuple[int, bytes]:
    with trio.fail_after(5):
        chunk = await source.receive()
    assert isinstance(chunk, tuple), chunk
    return chunk[0], b"".join(chunk[1])


async def test_streams_that_ended_for_want_of_requests_are_opened_anew_and_go_on_within_a_chunk(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    network = Network(is_full=True)
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        holder, fetcher = [await network.open(PeerId(name)) for name in ("holder", "fetcher")]
        blobs = BlobService(holder, BlobStore(tmp_path, 2**26, boot="boot"), run_blocking=run_inline)
        await nursery.start(blobs.run)
        ref = await blobs.put([CONTENT], pin="test")
        assert isinstance(ref, BlobRef)
        held = BlobStore(tmp_path, 2**26, boot="boot").held(ref.digest)
        assert held is not None
        manifest = parse_manifest(held.manifest_data, ref.digest)
        assert isinstance(manifest, Manifest)
        pool = Pool(lambda digest, index, pieces: True, call_soon)
        open_rpc = partial(rpc_stream, fetcher, holder.peer_id, ref.digest, manifest)
        async with trio.open_nursery() as inner:
            source = Begun(pool, open_rpc, ref.digest, manifest)
            inner.start_soon(source.stream)
            source.take(0, 1)
            assert await chunk_of(source) == (0, CONTENT[:CHUNK_BYTES])
            await trio.sleep(2 * IDLE_S)
            source.take(2, 1)
            assert await chunk_of(source) == (2, CONTENT[2 * CHUNK_BYTES :])
            begun = Job(source, ref.digest, 1, CHUNK_BYTES, filled=700_000)
            begun.buffer = memoryview(bytearray(CONTENT[CHUNK_BYTES : 2 * CHUNK_BYTES]))
            received = fetcher.traffic().bytes_received
            source.came_in_part(begun)
            assert await chunk_of(source) == (1, CONTENT[CHUNK_BYTES : 2 * CHUNK_BYTES])
            assert fetcher.traffic().bytes_received - received < CHUNK_BYTES - 700_000 + 10_000
            inner.cancel_scope.cancel()
        nursery.cancel_scope.cancel()
