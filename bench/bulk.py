"""One blob of several holders: between processes on loopback, encrypted and verified.

    python -m bench.bulk [--mb 256] [--runs 5] [--holders 4]

Five ways, first those to disk in turn, then those to memory: from one holder, verified and stored on disk
(`mb_per_s`); from all of them at once (`holders_mb_per_s`); by streams over libp2p alone, as where peers are behind NAT
(`streams_mb_per_s`); from one holder into memory (`memory_mb_per_s`: received, verified, put in its place, no disk);
and from all of them into memory.
Medians, in MB of 10^6 bytes a second, from asking for the blob to having all of it. A blob of 256 MB means 256 MiB.
`extra_mb`: the most resident memory that any run of the first way took beside what the fetcher had before,
`holder_extra_mb` likewise at the holder. CPU seconds of both sides are printed for each. Last line, JSON:

    {"mb_per_s", "holders_mb_per_s", "streams_mb_per_s", "memory_mb_per_s", "holders_memory_mb_per_s", "extra_mb",
     "holder_extra_mb"}
"""

import argparse
import json
import os
import random
import resource
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import trio
from blake3 import blake3

from shoal.transport.blob_file import Buffer
from shoal.transport.blob_store import BlobStore
from shoal.transport.blob_stream import Alive, Landed, OpenSource
from shoal.transport.blobs import (
    CHUNK_BYTES,
    MANIFEST,
    BlobRef,
    Manifest,
    ManifestReply,
    ManifestRequest,
    parse_manifest,
)
from shoal.transport.bulk import BlobService
from shoal.transport.host import Host, open_host
from shoal.transport.identity import Identity
from shoal.transport.limits import Limits
from shoal.transport.port import Address, PeerId, Refusal
from shoal.transport.upload_service import Uploads

from .processes import BenchProcess, run_all, start, tell

BUDGET_BYTES: Final = 16 * 10**9
MIB: Final = 2**20
LISTEN: Final = (Address("/ip4/127.0.0.1/tcp/0"),)
WINDOW: Final = 16  # chunks asked of a holder ahead, where no plan does it
FETCH_S: Final = 600.0
# In turn within each of these. Not all of them: whatever comes after a process has given 256 MiB back may meet pages
# that the machine has given back to its host meanwhile, 9 us each, 0.6 s for such a blob.
WAYS: Final = (
    {"disk": "one holder, to disk", "holders": "all holders, to disk", "streams": "one holder, by streams"},
    {"memory": "one holder, to memory", "holders_memory": "all holders, to memory"},
)


class Recipe(msgspec.Struct, frozen=True):
    """What a process of the benchmark is told on its first line."""

    directory: str
    mib: int
    role: str  # "hold" or "fetch"


class MemoryFiles:
    """A blob's chunks in memory, verified as a store does it."""

    def __init__(self, manifest: Manifest, buffer: bytearray) -> None:
        self._manifest = manifest
        self._view = memoryview(buffer)

    def write_chunk(self, digest: bytes, index: int, pieces: Iterable[Buffer]) -> bool:
        (piece,) = pieces
        self._view[index * CHUNK_BYTES :][: len(piece)] = piece
        return blake3(piece).digest() == self._manifest.chunk_hash(index)

    def read_chunk_into(self, digest: bytes, index: int, buffer: memoryview) -> int | None:
        return None


def cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def memory_bytes(name: str) -> int:
    """VmRSS: resident now; VmHWM: the most since it was reset."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[name].split()[0]) * 1024


def reset_peak() -> int:
    """Resident memory now, from which VmHWM begins anew."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory_bytes("VmRSS")


def extra_mb(before: int) -> float:
    return round((memory_bytes("VmHWM") - before) / 1e6, 1)


def pieces(count: int) -> Iterator[bytes]:
    generator = random.Random(1)
    return (generator.randbytes(MIB) for _ in range(count))


async def hold(recipe: Recipe) -> None:
    """Says where it is and what it holds, and serves; tells its CPU seconds and its memory whenever it is asked."""
    store = await trio.to_thread.run_sync(BlobStore, Path(recipe.directory), BUDGET_BYTES)
    async with open_host(Identity.from_seed(os.urandom(32)), LISTEN, Limits()) as host, trio.open_nursery() as nursery:
        blobs = BlobService(host, store)
        await nursery.start(blobs.run)
        ref = await blobs.put(pieces(recipe.mib), pin="bench")
        assert isinstance(ref, BlobRef), ref
        before = reset_peak()
        tell({"address": host.addresses()[0], "digest": ref.digest.hex(), "size": ref.size})
        while line := await trio.to_thread.run_sync(input):
            del line
            tell({"cpu_s": cpu_s(), "extra_mb": extra_mb(before)})
        nursery.cancel_scope.cancel()


async def fetch(recipe: Recipe) -> None:
    """Fetches by the ways that it is told, one after the other."""
    holders = json.loads(await trio.to_thread.run_sync(input))
    ref = BlobRef(bytes.fromhex(holders[0]["digest"]), holders[0]["size"])
    while way := json.loads(await trio.to_thread.run_sync(input)):
        directory = Path(recipe.directory) / "store"
        used = holders if way.startswith("holders") else holders[:1]
        limits = Limits(bulk_connections_max=0) if way == "streams" else Limits()
        async with open_host(Identity.from_seed(os.urandom(32)), LISTEN, limits) as host:
            for holder in used:
                connected = await host.connect(Address(holder["address"]), timeout_s=10)
                assert not isinstance(connected, Refusal), connected
            peers = [PeerId(holder["address"].rpartition("/p2p/")[2]) for holder in used]
            tell(await (to_memory if way.endswith("memory") else to_disk)(host, ref, peers, directory))
        shutil.rmtree(directory, ignore_errors=True)  # or every run waits for fresh memory for its pages


async def to_disk(host: Host, ref: BlobRef, peers: list[PeerId], directory: Path) -> dict[str, float]:
    store = BlobStore(directory, BUDGET_BYTES)
    async with trio.open_nursery() as nursery:
        blobs = BlobService(host, store)
        await nursery.start(blobs.run)
        before, cpu, began = reset_peak(), cpu_s(), time.perf_counter()
        refusal = await blobs.fetch(ref, lambda: peers, pin="bench", timeout_s=FETCH_S)
        assert refusal is None, refusal
        took = {"s": time.perf_counter() - began, "fetch_cpu_s": cpu_s() - cpu, "extra_mb": extra_mb(before)}
        nursery.cancel_scope.cancel()
    return took


async def to_memory(host: Host, ref: BlobRef, peers: list[PeerId], directory: Path) -> dict[str, float]:
    """Chunks in order, WINDOW ahead from each holder; no plan, no store."""
    buffer = bytearray(ref.size)
    memoryview(buffer)[::4096] = bytes(len(range(0, ref.size, 4096)))  # its pages are there before the clock starts
    reply = await host.request(peers[0], MANIFEST, ManifestRequest(ref.digest), timeout_s=10)
    assert isinstance(reply, ManifestReply), reply
    manifest = parse_manifest(reply.manifest, ref.digest)
    assert isinstance(manifest, Manifest)
    assert host.bulk is not None
    sources = host.bulk.attach(MemoryFiles(manifest, buffer), Uploads())
    chunks = iter(range(manifest.chunk_count))
    cpu, began = cpu_s(), time.perf_counter()
    async with trio.open_nursery() as nursery:
        for peer in peers:
            nursery.start_soon(pull, sources, peer, ref, manifest, (chunks, buffer))
    return {"s": time.perf_counter() - began, "fetch_cpu_s": cpu_s() - cpu, "extra_mb": 0.0}


async def pull(
    sources: OpenSource, peer: PeerId, ref: BlobRef, manifest: Manifest, share: tuple[Iterator[int], bytearray]
) -> None:
    chunks, buffer = share
    files = MemoryFiles(manifest, buffer)
    async with sources(peer, ref.digest, manifest) as source:
        under_way = 0
        while True:
            while under_way < WINDOW and (index := next(chunks, None)) is not None:
                source.take(index, 1)
                under_way += 1
            if not under_way:
                return
            chunk = await source.receive()
            if isinstance(chunk, Alive):
                continue
            if isinstance(chunk, tuple):  # by a stream, until the faster way stands
                verdict = files.write_chunk(ref.digest, chunk[0], [b"".join(chunk[1])])
                chunk = Landed(chunk[0], verdict)
            assert isinstance(chunk, Landed), chunk
            assert chunk.verdict is True, chunk
            under_way -= 1


async def take_part(recipe: Recipe) -> None:
    await (hold if recipe.role == "hold" else fetch)(recipe)


async def bench(arguments: argparse.Namespace) -> dict[str, Any]:
    processes: list[BenchProcess] = []
    rates: dict[str, list[float]] = defaultdict(list)
    extra, holder_extra = 0.0, 0.0
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as root:
        try:
            for index in range(arguments.holders + 1):
                role = "hold" if index else "fetch"
                processes.append(await start("bench.bulk"))
                await processes[index].send(Recipe(f"{root}/{index}", arguments.mb, role))
            fetcher, *holders = processes
            await fetcher.send([await each.receive("address") for each in holders])
            for ways in WAYS:
                for run in range(arguments.runs + 1):
                    for way, words in ways.items():
                        took = await timed(fetcher, holders, way)
                        rate = arguments.mb * MIB / 1e6 / took["s"]
                        cpu = f"CPU {took['fetch_cpu_s']:.2f} s here, {took['held_s']:.2f} s there"
                        print(f"run {run}: {words}: {rate:.0f} MB/s; {took['s']:.2f} s, {cpu}", flush=True)
                        if run:  # the first meets memory that this machine never touched
                            rates[way].append(rate)
                        if way == "disk":
                            extra, holder_extra = (
                                max(extra, took["extra_mb"]),
                                max(holder_extra, took["holder_extra_mb"]),
                            )
        finally:
            for each in processes:
                await each.kill()
    named = {
        f"{way}_mb_per_s".removeprefix("disk_"): round(statistics.median(found), 1) for way, found in rates.items()
    }
    return {**named, "extra_mb": extra, "holder_extra_mb": holder_extra}


async def timed(fetcher: BenchProcess, holders: list[BenchProcess], way: str) -> dict[str, float]:
    """The blob fetched once: what the fetcher tells, and what it cost the holders."""
    before = [await ask(holder) for holder in holders]
    await fetcher.send(way)
    took: dict[str, float] = await fetcher.receive("s")
    after = [await ask(holder) for holder in holders]
    held_s = sum(each["cpu_s"] for each in after) - sum(each["cpu_s"] for each in before)
    return {**took, "held_s": held_s, "holder_extra_mb": after[0]["extra_mb"]}


async def ask(holder: BenchProcess) -> dict[str, Any]:
    await holder.send("how much")
    return await holder.receive("cpu_s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, default=256, help="size of the blob in MiB")
    parser.add_argument("--runs", type=int, default=5, help="that count; one more goes before")
    parser.add_argument("--holders", type=int, default=4)
    run_all(parser, bench, take_part, Recipe)


if __name__ == "__main__":
    main()
