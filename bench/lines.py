"""A blob between two nodes on a shaped line, beside TCP through plain sockets on the same line.

    python -m bench.lines [--rates 20 100 1000] [--lossy 100] [--runs 3] [--congestion cubic]

In network namespaces: the holder's line has the rate, the round trip takes 60 ms; on lines of `--lossy` Mbit/s 1% of
packets are lost in each direction besides. A blob takes about SPAN_S at the rate of the line. It is fetched by a fresh
node, which is connected but has no bulk connections yet: the time is from asking for it until it is verified and
stored. In turn with it the same number of bytes comes by as many connections as the node came to have, the time being
from the first dial on. `congestion` is what the system uses if it is not told another.

A packet of 1,448 bytes of payload takes 1,514 of the line, so no more than 0.956 of its rate can be payload. `share`
is the blob's part of the rate, `tcp_share` that of plain TCP, `of_tcp` the ratio. Medians; the last line is JSON:

    {"congestion", "lines": {"20": {"share", "tcp_share", "of_tcp", "connections", "runs"}, ..., "100, 1% lost": ...}}
"""

import argparse
import os
import random
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, Final

import msgspec
import psutil
import trio

from shoal.node.laboratory import Host, Internet, Line, obstacle, open_internet
from shoal.node.routers import Router
from shoal.transport.blob_store import BlobStore
from shoal.transport.blobs import BlobRef
from shoal.transport.bulk import BlobService
from shoal.transport.host import open_host
from shoal.transport.identity import Identity
from shoal.transport.port import Address, PeerId, Refusal, Transport

from .processes import BenchProcess, run_all, start, tell

DELAY_MS: Final = 15  # each of two lines, both ways: 60 ms
LOSS: Final = 0.01
SPAN_S: Final = 10
BLOB_BYTES_MAX: Final = 1_250_000_000
PIECE_BYTES: Final = 2**20
PATIENCE_S: Final = 300.0
BUDGET_BYTES: Final = 8 * 10**9
SEGMENTS: Final = 16  # that a packet may hold on lines above WIDE_MBIT, where the machine cannot delay each by itself
WIDE_MBIT: Final = 200
LOOK_S: Final = 0.2
CONGESTION: Final = "/proc/sys/net/ipv4/tcp_congestion_control"


class Recipe(msgspec.Struct, frozen=True):
    """Which node a process is to be."""

    index: int


async def play(recipe: Recipe) -> None:
    """A node that puts blobs, fetches them, and sends and receives by plain sockets, as it is told in lines."""
    identity = Identity.from_seed(recipe.index.to_bytes(32, "big"))
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as directory:
        store = BlobStore(Path(directory), BUDGET_BYTES)
        async with open_host(identity, (Address("/ip4/0.0.0.0/tcp/0"),)) as host, trio.open_nursery() as nursery:
            blobs = BlobService(host, store)
            await nursery.start(blobs.run)
            tell({"addresses": host.addresses()})
            while line := await trio.to_thread.run_sync(sys.stdin.readline):
                tell(await obey(host, blobs, msgspec.json.decode(line)))
            nursery.cancel_scope.cancel()


async def obey(host: Transport, blobs: BlobService, order: dict[str, Any]) -> dict[str, object]:
    if "put" in order:
        blobs.unpin("bench")
        generator = random.Random(order["seed"])
        size = order["put"]
        pieces = (generator.randbytes(min(PIECE_BYTES, size - at)) for at in range(0, size, PIECE_BYTES))
        ref = await blobs.put(pieces, pin="bench")
        assert isinstance(ref, BlobRef), ref
        return {"digest": ref.digest.hex(), "size": ref.size}
    if "fetch" in order:
        return await fetch(host, blobs, order["fetch"], order["size"], order["digest"])
    if "pour" in order:
        return {"port": pour()}
    return {"drawn_s": await trio.to_thread.run_sync(draw, tuple(order["draw"]), order["size"], order["connections"])}


async def fetch(host: Transport, blobs: BlobService, holders: list[str], size: int, digest: str) -> dict[str, object]:
    """Fetch a blob from those at these addresses, and stay connected with them; says every LOOK_S what has come in."""
    peers = [PeerId(address.rpartition("/p2p/")[2]) for address in holders]
    for address in holders:
        connected = await host.connect(Address(address), timeout_s=PATIENCE_S)
        assert not isinstance(connected, Refusal), connected
        host.keep(connected, (Address(address),))
    connections = 1

    async def watch() -> None:
        nonlocal connections
        while True:
            await trio.sleep(LOOK_S)
            tell({"under_way": host.traffic().bytes_received - before})
            standing = [each for each in psutil.Process().net_connections("tcp") if each.status == "ESTABLISHED"]
            connections = max(connections, len(standing) - len(peers))  # without libp2p's

    before, began = host.traffic().bytes_received, time.monotonic()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        ref = BlobRef(bytes.fromhex(digest), size)
        refusal = await blobs.fetch(ref, lambda: peers, pin="bench", timeout_s=PATIENCE_S)
        assert refusal is None, refusal
        nursery.cancel_scope.cancel()
    took_s = time.monotonic() - began
    come_from = {each.peer: each.bytes_received for each in host.connections()}
    received = host.traffic().bytes_received - before
    return {"fetched_s": took_s, "connections": connections, "received": received, "from": come_from}


def pour() -> int:
    """Send without end to all who dial a port of ours: which."""
    listener = socket.create_server(("", 0))
    piece = bytes(PIECE_BYTES)

    def send(flow: socket.socket) -> None:
        with flow, suppress(OSError):  # the other side has enough
            while True:
                flow.sendall(piece)

    def accept() -> None:
        while True:
            threading.Thread(target=send, args=listener.accept()[:1], daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return int(listener.getsockname()[1])


def draw(place: tuple[str, int], size: int, connections: int) -> float:
    """How many seconds it takes to receive so much by plain sockets: a thread each, none waits for another."""
    left = size
    lock, is_done = threading.Lock(), threading.Event()
    began = time.monotonic()

    def receive() -> None:
        nonlocal left
        buffer = memoryview(bytearray(PIECE_BYTES))
        with socket.create_connection(place) as flow:
            while not is_done.is_set():
                count = flow.recv_into(buffer)
                with lock:
                    left -= count
                if left <= 0:
                    is_done.set()

    for _ in range(connections):
        threading.Thread(target=receive, daemon=True).start()
    is_done.wait(PATIENCE_S)
    return time.monotonic() - began


async def bench(options: argparse.Namespace) -> dict[str, object]:
    """The figures of the last line."""
    if reason := await obstacle():
        raise SystemExit(f"NOT MEASURED: {reason}")
    figures: dict[str, object] = {}
    congestion = options.congestion or await trio.Path(CONGESTION).read_text()
    for rate_mbit, loss in [*((rate, 0.0) for rate in options.rates), *((rate, LOSS) for rate in options.lossy)]:
        name = f"{rate_mbit:g}{', 1% lost' if loss else ''}"
        async with open_internet() as internet:
            line = Line(up_mbit=rate_mbit, down_mbit=rate_mbit, delay_ms=DELAY_MS, loss=loss)
            hosts = [await host_on(internet, each, congestion) for each in (line, Line(delay_ms=DELAY_MS))]
            figures[name] = await measure(name, rate_mbit, hosts, options.runs)
    return {"congestion": congestion.strip(), "lines": figures}


async def host_on(internet: Internet, line: Line, congestion: str = "") -> Host:
    """A computer with a public address on a line of its own."""
    host = await (await internet.add_home(Router.PUBLIC, line)).add_host()
    if congestion:
        await trio.run_process([*host.prefix, "sysctl", "-qw", f"net.ipv4.tcp_congestion_control={congestion}"])
    return host


async def measure(name: str, rate_mbit: float, hosts: Sequence[Host], runs: int) -> dict[str, object]:
    """One line's figures: a blob and plain TCP in turn."""
    if rate_mbit > WIDE_MBIT:
        for host in hosts:
            await trio.run_process([*host.prefix, "ip", "link", "set", "eth0", "gso_max_segs", str(SEGMENTS)])
    size = min(int(rate_mbit * 1e6 / 8 * SPAN_S), BLOB_BYTES_MAX)
    shares: list[tuple[float, float]] = []
    connections: list[int] = []
    async with AsyncExitStack() as stack:
        holder = await begin(stack, hosts[0], 0)
        address = at(await holder.receive("addresses"), hosts[0])
        await holder.send({"pour": True})
        place = (hosts[0].address, (await holder.receive("port"))["port"])
        for run in range(1, runs + 1):
            await holder.send({"put": size, "seed": run})
            blob = await holder.receive("digest")
            fetcher = await begin(stack, hosts[1], run)
            await fetcher.receive("addresses")
            await fetcher.send({"fetch": [address], **blob})
            fetched = await fetcher.receive("fetched_s")
            connections.append(fetched["connections"])
            await fetcher.send({"draw": place, "size": size, "connections": connections[-1]})
            spans_s = fetched["fetched_s"], (await fetcher.receive("drawn_s"))["drawn_s"]
            await fetcher.kill()
            own, tcp = (size * 8e-6 / span_s / rate_mbit for span_s in spans_s)
            shares.append((own, tcp))
            print(
                f"{name} Mbit/s, run {run}: blob {own:.3f} of the line, TCP {tcp:.3f}, {connections[-1]} connections; "
                f"load {os.getloadavg()[0]:.1f}",
                flush=True,
            )
    own, tcp = (statistics.median(column) for column in zip(*shares, strict=True))
    return {
        "share": round(own, 3),
        "tcp_share": round(tcp, 3),
        "of_tcp": round(statistics.median(one / other for one, other in shares), 3),
        "connections": statistics.median(connections),
        "runs": runs,
    }


async def begin(stack: AsyncExitStack, host: Host, index: int) -> BenchProcess:
    """A node on a computer."""
    process = await start("bench.lines", host.prefix)
    stack.push_async_callback(process.kill)
    await process.send(Recipe(index))
    return process


def at(said: dict[str, Any], host: Host) -> str:
    """Its address on that computer."""
    return str(next(each for each in said["addresses"] if f"/{host.address}/" in each))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=float, nargs="*", default=[20, 100, 1000], help="Mbit/s")
    parser.add_argument("--lossy", type=float, nargs="*", default=[100], help="Mbit/s of lines that lose 1%%")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--congestion", default="", help="control of TCP; not given: the system's")
    run_all(parser, bench, play, Recipe)


if __name__ == "__main__":
    main()
