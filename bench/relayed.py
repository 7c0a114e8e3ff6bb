"""Two nodes behind home routers and a relay that both can reach: the first call, a blob, and what idle holders cost.

    python -m bench.relayed [--mb 10] [--runs 3] [--idle 100]

In network namespaces: one home has a port-restricted router, the other a symmetric one, between which no hole can be
punched; each line has 20 Mbit/s up, 100 down and 15 ms to the internet, so 60 ms from home to home and back. The relay
is on a line without limits. `link_share` is the blob's rate over that of the holder's line, headers and encryption
counted in; `idle_mb` what the relay's memory grows by for so many nodes that hold a reservation and do nothing, all in
one process. The median of the runs; the last line is JSON:

    {"first_call_s", "mbit_per_s", "link_share", "idle_mb"}
"""

import argparse
import random
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import msgspec
import psutil
import trio

from shoal.node.laboratory import Line, obstacle, open_internet
from shoal.node.routers import Router
from shoal.transport.blob_store import BlobStore
from shoal.transport.blobs import BlobRef
from shoal.transport.bulk import BlobService
from shoal.transport.host import open_host
from shoal.transport.identity import Identity
from shoal.transport.port import Address, PeerId, Refusal, Transport, Unary
from shoal.transport.relay import RelayLimits
from shoal.transport.wire import Message

from .processes import BenchProcess, run_all, start, tell

HOME: Final = Line(up_mbit=20, down_mbit=100, delay_ms=15)
PATIENCE_S: Final = 120.0
BUDGET_BYTES: Final = 10**9


class Word(Message, frozen=True):
    data: bytes


ECHO: Final = Unary("/bench/1/echo", Word, Word)


class Recipe(msgspec.Struct, frozen=True):
    """What a process is to be: the relay, or so many nodes behind `relay`."""

    index: int
    relay: Address | None = None
    count: int = 1


async def play(recipe: Recipe) -> None:
    """What one process does, as `bench` says in lines."""
    listen = ["/ip4/0.0.0.0/tcp/0"]
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shoal-bench-")))
        if recipe.relay is None:
            host = await stack.enter_async_context(open_host(identity(0), listen, relay=RelayLimits(), seed=0))
            tell({"addresses": host.addresses()})
            while await trio.to_thread.run_sync(sys.stdin.readline):
                tell({"rss": psutil.Process().memory_info().rss})
            return
        hosts: list[Transport] = []
        for each in range(recipe.index, recipe.index + recipe.count):
            hosts.append(
                await stack.enter_async_context(open_host(identity(each), listen, relays=[recipe.relay], seed=each))
            )
            await until_reserved(hosts[-1])
        member = hosts[-1]
        nursery = await stack.enter_async_context(trio.open_nursery())
        blobs = BlobService(member, BlobStore(directory, BUDGET_BYTES))
        await nursery.start(blobs.run)
        member.serve(ECHO, lambda _, word: word)
        tell({"addresses": member.addresses()})
        while line := await trio.to_thread.run_sync(sys.stdin.readline):
            tell(await obey(member, blobs, msgspec.json.decode(line)))
        nursery.cancel_scope.cancel()


async def obey(host: Transport, blobs: BlobService, order: dict[str, Any]) -> dict[str, object]:
    """Put a blob of random bytes, or call who is at an address and fetch one."""
    if "put" in order:
        ref = await blobs.put([random.Random(order["seed"]).randbytes(order["put"])], pin="bench")
        assert isinstance(ref, BlobRef), ref
        return {"digest": ref.digest.hex(), "size": ref.size}
    address = Address(order["address"])
    peer = PeerId(address.rpartition("/p2p/")[2])
    began = time.perf_counter()
    connected = await host.connect(address, timeout_s=PATIENCE_S)
    assert not isinstance(connected, Refusal), connected
    answer = await host.request(peer, ECHO, Word(b"?"), timeout_s=PATIENCE_S)
    assert isinstance(answer, Word), answer
    called_s = time.perf_counter() - began
    began = time.perf_counter()
    ref = BlobRef(bytes.fromhex(order["digest"]), order["size"])
    refusal = await blobs.fetch(ref, lambda: [peer], pin="bench", timeout_s=PATIENCE_S)
    assert refusal is None, refusal
    assert all(each.is_relayed for each in host.connections() if each.peer == peer)
    return {"called_s": called_s, "fetched_s": time.perf_counter() - began}


async def until_reserved(host: Transport) -> None:
    """Until it can be reached through its relay."""
    with trio.fail_after(PATIENCE_S):
        while not any("p2p-circuit" in address for address in host.addresses()):  # noqa: ASYNC110
            await trio.sleep(0.02)


def identity(index: int) -> Identity:
    return Identity.from_seed(index.to_bytes(32, "big"))


async def bench(options: argparse.Namespace) -> dict[str, float]:
    """The figures of the last line."""
    if reason := await obstacle():
        raise SystemExit(f"NOT MEASURED: {reason}")
    size = options.mb * 10**6
    called: list[float] = []
    rates: list[float] = []
    async with open_internet() as internet:
        middle = await (await internet.add_home(Router.PUBLIC)).add_host()
        homes = [await internet.add_home(kind, HOME) for kind in (Router.PORT_RESTRICTED, Router.SYMMETRIC)]
        hosts = [await home.add_host() for home in homes]
        async with AsyncExitStack() as stack:
            relay = await begin(stack, Recipe(0), middle.prefix)
            (at,) = [each for each in (await relay.receive("addresses"))["addresses"] if middle.address in each]
            holder = await begin(stack, Recipe(1, at), hosts[0].prefix)
            (through,) = [each for each in (await holder.receive("addresses"))["addresses"] if "p2p-circuit" in each]
            for run in range(options.runs):
                await holder.send({"put": size, "seed": run})
                blob = await holder.receive("digest")
                fetcher = await begin(stack, Recipe(2 + run, at), hosts[1].prefix)
                await fetcher.receive("addresses")
                await fetcher.send({"address": through, **blob})
                took = await fetcher.receive("fetched_s")
                called.append(took["called_s"])
                rates.append(size * 8 / 1e6 / took["fetched_s"])
                print(f"run {run + 1}: first call {called[-1]:.3f} s, {rates[-1]:.1f} Mbit/s")
                await fetcher.kill()
    rate = statistics.median(rates)
    return {
        "first_call_s": round(statistics.median(called), 3),
        "mbit_per_s": round(rate, 2),
        "link_share": round(rate / (HOME.up_mbit or rate), 3),
        "idle_mb": round(await idle_mb(options.idle), 1),
    }


async def idle_mb(count: int) -> float:
    """What the relay's memory grows by for so many reservations, on loopback."""
    async with AsyncExitStack() as stack:
        relay = await begin(stack, Recipe(0), ())
        (at,) = [each for each in (await relay.receive("addresses"))["addresses"] if "127.0.0.1" in each]
        await relay.send({})
        before = (await relay.receive("rss"))["rss"]
        many = await begin(stack, Recipe(1, at, count), ())
        await many.receive("addresses")
        await relay.send({})
        return float((await relay.receive("rss"))["rss"] - before) / 1e6


async def begin(stack: AsyncExitStack, recipe: Recipe, prefix: tuple[str, ...]) -> BenchProcess:
    process = await start("bench.relayed", prefix)
    stack.push_async_callback(process.kill)
    await process.send(recipe)
    return process


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, default=10, help="size of the blob in 10^6 bytes")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--idle", type=int, default=100, help="reservations")
    run_all(parser, bench, play, Recipe)


if __name__ == "__main__":
    main()
