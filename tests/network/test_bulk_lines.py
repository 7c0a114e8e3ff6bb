"""Blobs over lines as people have them: slow, long, lossy, of different rates, and cut."""

from contextlib import AsyncExitStack
from typing import Any

import trio

from bench.lines import at, begin, host_on
from bench.processes import BenchProcess
from shoal.node.laboratory import Host, Line
from shoal.transport.blobs import CHUNK_BYTES

from .hands import World, open_world

# A machine with other work stretches times: bounds below are physics, those above leave room.
STRETCH = 5.0
DELAY_MS = 15  # of each line: 60 ms there and back
BLOB_BYTES = 8_000_000
OVERHEAD = 1.02  # of encryption, of asking, and of all else that two nodes tell each other
CUT_S = 7.0  # longer than a connection may keep silent


async def test_a_blob_comes_whole_over_a_long_line_that_loses_packets() -> None:
    async with open_world() as world, AsyncExitStack() as stack:
        line = Line(up_mbit=20, down_mbit=20, delay_ms=DELAY_MS, loss=0.01)
        _, fetcher, order = await stage(world, stack, [line], BLOB_BYTES)
        await fetcher.send(order)
        took_s = (await fetcher.receive("fetched_s"))["fetched_s"]
        assert 0.9 * (floor_s := BLOB_BYTES * 8 / 20e6) <= took_s <= floor_s * STRETCH


async def test_of_three_holders_each_sends_what_its_line_lets_it() -> None:
    rates = (5, 10, 20)
    async with open_world() as world, AsyncExitStack() as stack:
        lines = [Line(up_mbit=rate, down_mbit=20, delay_ms=DELAY_MS) for rate in rates]
        _, fetcher, order = await stage(world, stack, lines, 2 * BLOB_BYTES)
        await fetcher.send(order)
        fetched = await fetcher.receive("fetched_s")
        assert fetched["fetched_s"] >= 0.9 * 2 * BLOB_BYTES * 8 / (sum(rates) * 1e6)
        slow, _, fast = (fetched["from"][address.rpartition("/p2p/")[2]] for address in order["fetch"])
        assert CHUNK_BYTES <= slow < fast
        assert fetched["received"] <= OVERHEAD * 2 * BLOB_BYTES + len(rates) * 2 * CHUNK_BYTES  # asked of two


async def test_what_came_before_a_line_was_cut_is_not_fetched_again() -> None:
    async with open_world() as world, AsyncExitStack() as stack:
        line = Line(up_mbit=20, down_mbit=20, delay_ms=DELAY_MS)
        (host,), fetcher, order = await stage(world, stack, [line], BLOB_BYTES)
        await fetcher.send(order)
        while (await fetcher.receive("under_way"))["under_way"] < BLOB_BYTES / 2:
            pass
        await host.home.router.ip([f"link set host{host.number} down"])
        await trio.sleep(CUT_S)
        await host.home.router.ip([f"link set host{host.number} up"])
        fetched = await fetcher.receive("fetched_s")
        assert fetched["fetched_s"] >= 0.9 * (BLOB_BYTES * 8 / 20e6 + CUT_S)
        assert fetched["received"] <= OVERHEAD * BLOB_BYTES + 2 * CHUNK_BYTES  # what was on its way


async def stage(
    world: World, stack: AsyncExitStack, lines: list[Line], size: int
) -> tuple[list[Host], BenchProcess, dict[str, Any]]:
    """Computers on these lines that hold one blob, a node that lacks it, and what to send it for it to be fetched."""
    hosts = [await host_on(world.internet, line) for line in lines]
    addresses: list[str] = []
    blob: dict[str, Any] = {}
    for index, host in enumerate(hosts):
        holder = await begin(stack, host, index)
        addresses.append(at(await holder.receive("addresses"), host))
        await holder.send({"put": size, "seed": 1})
        blob = await holder.receive("digest")
    fetcher = await begin(stack, await host_on(world.internet, Line(delay_ms=DELAY_MS)), len(lines))
    await fetcher.receive("addresses")
    return hosts, fetcher, {"fetch": addresses, **blob}
