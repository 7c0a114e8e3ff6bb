"""Blobs between processes over libp2p: killed in the middle, bounded in memory, never in the event loop's way."""

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import trio

from shoal.transport.blob_store import BlobStore
from shoal.transport.blob_stream import ChunkSource, Received, rpc_sources
from shoal.transport.blobs import CHUNK_BYTES, BlobRef, Manifest
from shoal.transport.bulk import BlobService
from shoal.transport.host import open_host
from shoal.transport.identity import Identity
from shoal.transport.limits import Limits
from shoal.transport.port import Address, PeerId, Refusal, Transport

SOAK = bool(os.environ.get("SHOAL_SOAK"))
MIB = 2**20
LARGE_MIB = 1024 if SOAK else 128
EXTRA_BYTES_MAX = 64 * 10**6
LISTEN = (Address("/ip4/127.0.0.1/tcp/0"),)
BUDGET_BYTES = 4 * 10**9


def pieces(mib: int) -> Iterator[bytes]:
    generator = random.Random(mib)
    return (generator.randbytes(MIB) for _ in range(mib))


def tell(**value: object) -> None:
    print(json.dumps(value), flush=True)


def memory_bytes(name: str) -> int:
    """VmRSS: resident now; VmHWM: the most so far. (`ru_maxrss` counts what the parent had when it started us.)"""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[name].split()[0]) * 1024


# What runs in processes of its own


async def program_hold(directory: str, mib: str) -> None:
    """Store a blob, tell where it is, serve until the input ends, then tell the memory it took."""
    identity = Identity.from_seed(random.Random(directory).randbytes(32))
    async with open_host(identity, LISTEN, Limits()) as transport, trio.open_nursery() as nursery:
        blobs = BlobService(transport, BlobStore(Path(directory), BUDGET_BYTES))
        await nursery.start(blobs.run)
        before = memory_bytes("VmRSS")
        ref = await blobs.put(pieces(int(mib)), pin="test")
        assert isinstance(ref, BlobRef)
        tell(address=transport.addresses()[0], digest=ref.digest.hex(), size=ref.size)
        await trio.to_thread.run_sync(sys.stdin.readline)
        tell(extra=memory_bytes("VmHWM") - before)
        nursery.cancel_scope.cancel()


async def program_fetch(directory: str, digest: str, size: str, chunk_s: str, *addresses: str) -> None:
    """Fetch a blob, telling every chunk that arrives; take `chunk_s` for each."""
    identity = Identity.from_seed(random.Random(directory).randbytes(32))
    ref = BlobRef(bytes.fromhex(digest), int(size))
    async with open_host(identity, LISTEN, Limits()) as transport, trio.open_nursery() as nursery:

        @asynccontextmanager
        async def sources(peer: PeerId, digest: bytes, manifest: Manifest) -> AsyncGenerator[ChunkSource, None]:
            async with rpc_sources(transport)(peer, digest, manifest) as source:
                yield Telling(source, float(chunk_s))

        blobs = BlobService(
            transport, BlobStore(Path(directory), BUDGET_BYTES), open_source=sources if float(chunk_s) else None
        )
        await nursery.start(blobs.run)
        peers = [await transport.connect(Address(address), timeout_s=20) for address in addresses]
        holders = [peer for peer in peers if not isinstance(peer, Refusal)]
        before = memory_bytes("VmRSS")
        refusal = await blobs.fetch(ref, lambda: holders, pin="test", timeout_s=300)
        assert transport.bulk is not None
        by_tls = transport.bulk.traffic().bytes_received
        extra = memory_bytes("VmHWM") - before
        tell(done=refusal is None, reason=refusal and refusal.message, extra=extra, by_tls=by_tls)
        nursery.cancel_scope.cancel()


class Telling:
    """A chunk source that says what came, and takes its time."""

    def __init__(self, source: ChunkSource, chunk_s: float) -> None:
        self._source = source
        self._chunk_s = chunk_s

    def take(self, first: int, count: int) -> None:
        self._source.take(first, count)

    async def receive(self) -> Received:
        chunk = await self._source.receive()
        if isinstance(chunk, tuple):
            tell(chunk=chunk[0])
            await trio.sleep(self._chunk_s)
        return chunk


def program_put(directory: str) -> None:
    """Store one blob after the other, telling each."""
    store = BlobStore(Path(directory), BUDGET_BYTES)
    for number in range(10**6):
        ref = store.put([random.Random(number).randbytes(300_000 + 7 * number)], f"label {number}")
        assert isinstance(ref, BlobRef)
        tell(digest=ref.digest.hex(), size=ref.size)


# What looks at them from outside


@contextmanager
def process(name: str, *arguments: object) -> Generator[subprocess.Popen[str], None, None]:
    """One of the programs above; killed at the end, whatever happens."""
    command = [sys.executable, __file__, name, *[str(argument) for argument in arguments]]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as running:
        try:
            yield running
        finally:
            running.kill()


def said(running: subprocess.Popen[str]) -> dict[str, object]:
    assert running.stdout is not None
    line = running.stdout.readline()
    assert line, "it said no more"
    value: dict[str, object] = json.loads(line)
    return value


def lines(running: subprocess.Popen[str]) -> Iterator[dict[str, object]]:
    while True:
        yield said(running)


def test_a_fetcher_killed_in_the_middle_fetches_only_the_rest(tmp_path: Path) -> None:
    with process("hold", tmp_path / "a", 40) as holder:
        where = said(holder)
        arguments = (tmp_path / "b", where["digest"], where["size"], 0.02, where["address"])
        with process("fetch", *arguments) as fetcher:
            first = [line["chunk"] for line, _ in zip(lines(fetcher), range(20), strict=False)]
            fetcher.send_signal(signal.SIGKILL)
            fetcher.wait()
        with process("fetch", *arguments) as fetcher:
            second: list[object] = []
            for line in lines(fetcher):
                if "done" in line:
                    assert line["done"], line
                    break
                second.append(line["chunk"])
    assert len(first) == 20
    # Of those that had come, only what was not yet written when the kill struck comes once more.
    assert len(set(first) & set(second)) <= 3
    assert set(first) | set(second) == set(range(40))
    store = BlobStore(tmp_path / "b", BUDGET_BYTES)
    blob = store.open(BlobRef(bytes.fromhex(str(where["digest"])), 40 * MIB))
    assert blob is not None
    for index, piece in enumerate(pieces(40)):
        assert blob.read(index * MIB, MIB) == piece
    assert list(store.labels()) == ["test"]


def test_what_was_reported_as_stored_survives_kill_9_with_its_pin(tmp_path: Path) -> None:
    for seed in range(20 if SOAK else 3):
        directory = tmp_path / str(seed)
        with process("put", directory) as putter:
            stored = [said(putter) for _ in range(5)]
            time.sleep(random.Random(seed).random() * 0.05)  # anywhere within a put
            putter.send_signal(signal.SIGKILL)
            assert putter.stdout is not None
            stored += [json.loads(line) for line in putter.stdout if line.endswith("\n")]
        store = BlobStore(directory, BUDGET_BYTES)
        labels = store.labels()
        for number, line in enumerate(stored):
            ref = BlobRef(bytes.fromhex(str(line["digest"])), int(str(line["size"])))
            blob = store.open(ref)
            assert blob is not None
            assert blob.read(0, blob.size) == random.Random(number).randbytes(ref.size)
            assert labels[f"label {number}"] == {ref.digest}
        assert list((directory / "partial").iterdir()) == []


def test_a_large_blob_takes_little_memory_on_both_sides(tmp_path: Path) -> None:
    with process("hold", tmp_path / "a", LARGE_MIB) as holder:
        where = said(holder)
        with process("fetch", tmp_path / "b", where["digest"], where["size"], 0, where["address"]) as fetcher:
            result = said(fetcher)
        assert result["done"], result
        assert holder.stdin is not None
        print("", file=holder.stdin, flush=True)
        sent = said(holder)
    assert isinstance(result["by_tls"], int)
    assert result["by_tls"] > 0.9 * LARGE_MIB * MIB
    assert isinstance(result["extra"], int)
    assert result["extra"] < EXTRA_BYTES_MAX
    assert isinstance(sent["extra"], int)
    assert sent["extra"] < EXTRA_BYTES_MAX


def test_a_holder_killed_in_the_middle_is_replaced_by_another(tmp_path: Path) -> None:
    with process("hold", tmp_path / "a", 40) as first, process("hold", tmp_path / "b", 40) as second:
        where, other = said(first), said(second)
        arguments = (where["digest"], where["size"], 0.02, where["address"], other["address"])
        with process("fetch", tmp_path / "c", *arguments) as fetcher:
            for _ in range(10):
                assert "chunk" in said(fetcher)
            first.send_signal(signal.SIGKILL)
            assert next(line for line in lines(fetcher) if "done" in line)["done"]


class LongestStep(trio.abc.Instrument):
    """The longest time a task held the event loop, in CPU time: other programs on the machine do not count."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._began = math.inf  # it is added in the middle of a step

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._began = time.thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.seconds = max(self.seconds, time.thread_time() - self._began)


async def test_nothing_holds_the_event_loop_for_more_than_10_ms(tmp_path: Path) -> None:
    async with (
        open_host(Identity.from_seed(bytes(32)), LISTEN, Limits()) as one,
        open_host(Identity.from_seed(bytes(31) + b"2"), LISTEN, Limits()) as two,
        trio.open_nursery() as nursery,
    ):
        services: list[BlobService] = []
        transports: tuple[Transport, Transport] = (one, two)
        for name, transport in enumerate(transports):
            services.append(BlobService(transport, BlobStore(tmp_path / str(name), BUDGET_BYTES)))
            await nursery.start(services[-1].run)
        assert await two.connect(one.addresses()[0], timeout_s=20) == one.peer_id
        buffers = [memoryview(piece) for piece in pieces(32)]
        meter = LongestStep()
        trio.lowlevel.add_instrument(meter)
        ref = await services[0].put(buffers, pin="x")
        assert isinstance(ref, BlobRef)
        assert await services[1].fetch(ref, lambda: [one.peer_id], pin="x", timeout_s=60) is None
        services[1].unpin("x")
        trio.lowlevel.remove_instrument(meter)
        assert 0 < meter.seconds < 0.010
        assert ref.size == 32 * CHUNK_BYTES
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["put", where]:
            program_put(where)
        case ["hold", where, mib]:
            trio.run(program_hold, where, mib)
        case _:
            rest = sys.argv[2:]
            trio.run(partial(program_fetch, *rest))
