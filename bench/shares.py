"""Two swarms at one relay on a slow line: what each gets of it when one has many busy circuits and the other has one.

    python -m bench.shares [--circuits 8] [--mbit 20] [--seconds 10] [--cap 0] [--runs 1]

In network namespaces: the relay has a line of so many Mbit/s up, five times as many down, and 15 ms; senders and
receivers are behind two symmetric routers on fast lines of 15 ms, so 60 ms from the relay to each and back. Every
circuit has two peers of its own, and carries as much as it can in one direction. `share` is what the lone circuit has
of all that comes through; `mbit_per_s` is all of it, headers and encryption not counted. The median of the runs; the
last line is JSON:

    {"share", "mbit_per_s"}
"""

import argparse
import statistics
import sys
from contextlib import AsyncExitStack, suppress
from typing import Final

import msgspec
import trio

from shoal.node.laboratory import Line, obstacle, open_internet
from shoal.node.routers import Router
from shoal.transport.host import Host, open_host
from shoal.transport.identity import Identity
from shoal.transport.port import Address, ByteStream, PeerId, Refusal, StreamBroken
from shoal.transport.relay import RelayLimits

from .processes import BenchProcess, run_all, start, tell

DELAY_MS: Final = 15
DOWN: Final = 5  # times as fast as up, as home lines are
SETTLE_S: Final = 5.0  # before it is measured
PATIENCE_S: Final = 60.0
POUR: Final = "/bench/pour/1"
PIECE: Final = bytes(64 * 1024)


class Recipe(msgspec.Struct, frozen=True):
    """What a process is to be: the relay (`relay` is empty), all receivers or all senders."""

    circuits: int  # of the first swarm; the second has one
    seconds: float
    relay: str = ""
    cap_mbit: float = 0.0
    sends: bool = False


def identity(index: int) -> Identity:
    return Identity.from_seed(index.to_bytes(32, "big"))


def swarms_of(circuits: int) -> dict[PeerId, frozenset[bytes]]:
    """Pair n has the identities 2n + 1 and 2n + 2; the last pair is the second swarm."""
    pairs = {index: b"many" if index < circuits else b"one" for index in range(circuits + 1)}
    return {identity(2 * pair + end).peer_id: frozenset({name}) for pair, name in pairs.items() for end in (1, 2)}


async def play(recipe: Recipe) -> None:
    """What one process does, as `measure` says in lines."""
    if recipe.relay:
        await (send if recipe.sends else receive)(recipe)
        return
    members = swarms_of(recipe.circuits)
    limits = RelayLimits(serves_strangers=False, mbit_max=recipe.cap_mbit)
    async with open_host(identity(0), ["/ip4/0.0.0.0/tcp/0"], relay=limits, seed=0) as host:
        host.relaying.know(lambda peer: members.get(peer, frozenset()))
        tell({"addresses": host.addresses()})
        await trio.to_thread.run_sync(sys.stdin.readline)


async def receive(recipe: Recipe) -> None:
    """All who are reached through the relay; says how many bytes came to each while it was measured."""
    came = [0] * (recipe.circuits + 1)
    async with AsyncExitStack() as stack:
        for pair in range(recipe.circuits + 1):
            host = await stack.enter_async_context(
                open_host(identity(2 * pair + 2), [], relays=[recipe.relay], seed=pair)
            )

            async def take(_: PeerId, stream: ByteStream, pair: int = pair) -> None:
                with suppress(StreamBroken):  # who sends says so
                    while data := await stream.receive_some():
                        came[pair] += len(data)

            host.serve_protocol(POUR, take)
            await until_reserved(host, PeerId(recipe.relay.rpartition("/p2p/")[2]))
        tell({"are_ready": True})
        await trio.to_thread.run_sync(sys.stdin.readline)
        await trio.sleep(SETTLE_S)
        before = list(came)
        await trio.sleep(recipe.seconds)
        tell({"came": [now - then for now, then in zip(came, before, strict=True)]})


async def send(recipe: Recipe) -> None:
    """All who send, without end."""
    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
        streams: list[ByteStream] = []
        for pair in range(recipe.circuits + 1):
            host = await stack.enter_async_context(open_host(identity(2 * pair + 1), [], seed=pair))
            target = identity(2 * pair + 2).peer_id
            address = Address(f"{recipe.relay}/p2p-circuit/p2p/{target}")
            connected = await host.connect(address, timeout_s=PATIENCE_S)
            assert not isinstance(connected, Refusal), connected
            stream = await host.open_protocol(target, POUR, timeout_s=PATIENCE_S)
            assert not isinstance(stream, Refusal), stream
            streams.append(stream)
        tell({"are_connected": True})

        async def pour(stream: ByteStream) -> None:
            try:
                while True:
                    await stream.send_all(PIECE)
            except StreamBroken as error:
                tell({"broken": str(error)})

        for each in streams:
            nursery.start_soon(pour, each)
        await trio.sleep_forever()


async def until_reserved(host: Host, relay: PeerId) -> None:
    with trio.fail_after(PATIENCE_S):
        while host.relaying.limit_bytes(relay) is None:  # noqa: ASYNC110
            await trio.sleep(0.02)


async def measure(circuits: int, mbit: float, seconds: float, cap_mbit: float = 0.0) -> tuple[float, float]:
    """The lone circuit's share, and the rate of all."""
    async with open_internet() as internet, AsyncExitStack() as stack:
        slow = Line(up_mbit=mbit, down_mbit=DOWN * mbit, delay_ms=DELAY_MS)
        middle = await (await internet.add_home(Router.PUBLIC, slow)).add_host()
        homes = [await internet.add_home(Router.SYMMETRIC, Line(delay_ms=DELAY_MS)) for _ in range(2)]
        places = [await home.add_host() for home in homes]
        relay = await begin(stack, Recipe(circuits, seconds, cap_mbit=cap_mbit), middle.prefix)
        (at,) = [each for each in (await relay.receive("addresses"))["addresses"] if middle.address in each]
        receivers = await begin(stack, Recipe(circuits, seconds, at), places[0].prefix)
        await receivers.receive("are_ready")
        senders = await begin(stack, Recipe(circuits, seconds, at, sends=True), places[1].prefix)
        await senders.receive("are_connected")
        await receivers.send({})
        came = (await receivers.receive("came"))["came"]
        return came[-1] / sum(came), sum(came) * 8 / 1e6 / seconds


async def begin(stack: AsyncExitStack, recipe: Recipe, prefix: tuple[str, ...]) -> BenchProcess:
    process = await start("bench.shares", prefix)
    stack.push_async_callback(process.kill)
    await process.send(recipe)
    return process


async def bench(options: argparse.Namespace) -> dict[str, float]:
    """The figures of the last line."""
    if reason := await obstacle():
        raise SystemExit(f"NOT MEASURED: {reason}")
    shares: list[float] = []
    rates: list[float] = []
    for run in range(options.runs):
        share, rate = await measure(options.circuits, options.mbit, options.seconds, options.cap)
        print(f"run {run + 1}: one circuit beside {options.circuits}: {share:.3f} of {rate:.1f} Mbit/s")
        shares.append(share)
        rates.append(rate)
    return {"share": round(statistics.median(shares), 3), "mbit_per_s": round(statistics.median(rates), 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--circuits", type=int, default=8, help="of the first swarm")
    parser.add_argument("--mbit", type=float, default=20.0, help="rate of the relay's line")
    parser.add_argument("--seconds", type=float, default=10.0, help="measured, after some to settle")
    parser.add_argument("--cap", type=float, default=0.0, help="relay_mbit_max; 0: none")
    parser.add_argument("--runs", type=int, default=1)
    run_all(parser, bench, play, Recipe)


if __name__ == "__main__":
    main()
