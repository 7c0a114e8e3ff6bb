"""Who gets through to whom: nodes in homes of every kind call each other through a relay, and punch.

    python -m bench.reach [--tries 10] [--at-once 4] [--pairs port_restricted/full_cone ...]

In network namespaces: two homes of each kind, 50 ms from home to home and back, and two relays, 48 ms from each home.
In each try two fresh nodes are reserved at the relays, and one calls the other through one of them; nothing but the
circuit is known to it, so no direct path can be in use: `relayed_s` is from the first packet to that first call's
answer, and the connection is seen to be relayed after it. From then on both do what nodes do. `direct_s` is from the
first packet, too, until a call is answered over a direct connection. A try counts as direct only if the other side's
address is one of its own home's and no relay carries it; a claim that is not so ends the benchmark. Medians; the last
line is JSON:

    {"pairs": {"public/public": {"relayed_s", "direct_s", "tries", "direct"}, ...}}
"""

import argparse
import itertools
import statistics
import sys
import time
from collections import Counter, defaultdict
from contextlib import AsyncExitStack
from typing import Any, Final, cast

import msgspec
import trio

from shoal.node.laboratory import Home, Line, obstacle, open_internet
from shoal.node.routers import Router
from shoal.transport.addresses import Endpoint, is_relayed, parse_endpoint
from shoal.transport.host import open_host
from shoal.transport.identity import Identity
from shoal.transport.port import Address, Connection, PeerId, Refusal, Transport, Unary, Verdict
from shoal.transport.relay import RelayLimits
from shoal.transport.wire import Message

from .processes import BenchProcess, run_all, start, tell

DELAYS_MS: Final = (12, 13)  # of the first and the second home of a kind
RELAY_DELAY_MS: Final = 12
PATIENCE_S: Final = 7.0  # for a direct connection
READY_S: Final = 20.0
LISTEN: Final = ["/ip4/0.0.0.0/tcp/0"]
KINDS: Final = tuple(Router)
PAIRS: Final = tuple(itertools.combinations_with_replacement(KINDS, 2))


class Word(Message, frozen=True):
    data: bytes


ECHO: Final = Unary("/bench/1/echo", Word, Word)


class Recipe(msgspec.Struct, frozen=True):
    """What a process is to be: a relay, or a home's computer, on which nodes come and go."""

    seed: int
    relays: tuple[Address, ...] = ()


class Order(msgspec.Struct, frozen=True):
    """Be a node, wait for a call or make one, and be gone.

    Attributes:
        number: of the try: its node's key, and what its answers are told by.
        call: the address to call; empty to be called.
        is_public: whether to wait until the node knows that it is.
    """

    number: int
    is_public: bool
    call: str = ""


async def play(recipe: Recipe) -> None:
    """What one process does, as `bench` says in lines."""
    if not recipe.relays:
        async with open_host(identity(recipe.seed), LISTEN, relay=RelayLimits(circuits_per_peer_max=32)) as host:
            tell({"addresses": host.addresses()})
            await trio.to_thread.run_sync(sys.stdin.readline)
        return
    tell({"ready": True})
    ends: dict[int, trio.Event] = {}
    async with trio.open_nursery() as nursery:
        while line := await trio.to_thread.run_sync(sys.stdin.readline):
            said = msgspec.json.decode(line)
            if "end" in said:
                ends.pop(said["end"]).set()
            else:
                order = msgspec.convert(said, Order)
                end = ends[order.number] = trio.Event()
                nursery.start_soon(live, recipe, order, end)


async def live(recipe: Recipe, order: Order, end: trio.Event) -> None:
    """One node's life."""
    me = identity(recipe.seed * 100_000 + order.number)
    async with open_host(me, LISTEN, relays=recipe.relays) as host:
        host.serve(ECHO, lambda _, word: word)
        with trio.fail_after(READY_S):
            while not is_ready(host, order, len(recipe.relays)):  # noqa: ASYNC110
                await trio.sleep(0.01)
        tell({f"ready {order.number}": host.addresses()})
        if order.call:
            tell({f"called {order.number}": await call(host, Address(order.call))})
        await end.wait()


def is_ready(host: Transport, order: Order, relays: int) -> bool:
    circuits = sum(is_relayed(each) for each in host.addresses())
    return circuits == len(host.connections()) == relays and (
        not order.is_public or host.reach().verdict is not Verdict.UNKNOWN
    )


async def call(host: Transport, address: Address) -> dict[str, Any]:
    """Through the relay first; then until there is a direct connection."""
    peer = PeerId(address.rpartition("/p2p/")[2])
    began = time.monotonic()
    connected = await host.connect(address, timeout_s=PATIENCE_S)
    assert not isinstance(connected, Refusal), connected
    await ask(host, peer)
    relayed_s = time.monotonic() - began
    was_relayed = path(host, peer).is_relayed
    while time.monotonic() - began < PATIENCE_S:
        found = path(host, peer)
        if not found.is_relayed:
            await ask(host, peer)
            took_s = time.monotonic() - began
            return {"relayed_s": relayed_s, "was_relayed": was_relayed, "direct_s": took_s, "address": found.address}
        await trio.sleep(0.005)
    return {"relayed_s": relayed_s, "was_relayed": was_relayed, "direct_s": None, "note": path(host, peer).note}


def path(host: Transport, peer: PeerId) -> Connection:
    (found,) = [each for each in host.connections() if each.peer == peer]
    return found


async def ask(host: Transport, peer: PeerId) -> None:
    answer = await host.request(peer, ECHO, Word(b"?"), timeout_s=PATIENCE_S)
    assert isinstance(answer, Word), answer


def identity(seed: int) -> Identity:
    return Identity.from_seed(seed.to_bytes(32, "big"))


class Place:
    """A home with a computer in it."""

    def __init__(self, home: Home, ip: str, process: BenchProcess) -> None:
        self.home, self.process = home, process
        self.ips = {home.outside, ip}


async def bench(options: argparse.Namespace) -> dict[str, Any]:
    """The figures of the last line."""
    if reason := await obstacle():
        raise SystemExit(f"NOT MEASURED: {reason}")
    wanted = [pair for pair in PAIRS if not options.pairs or name(pair) in options.pairs]
    async with open_internet() as internet, AsyncExitStack() as stack:
        relays: list[Address] = []
        for seed in (1, 2):
            host = await (await internet.add_home(Router.PUBLIC, Line(delay_ms=RELAY_DELAY_MS))).add_host()
            relay = await begin(stack, Recipe(seed), host.prefix)
            addresses = (await relay.receive("addresses"))["addresses"]
            relays += [Address(each) for each in addresses if f"/{host.address}/" in each]
        places: dict[tuple[Router, int], Place] = {}
        for number, (kind, side) in enumerate(itertools.product(KINDS, (0, 1)), start=3):
            if any(kind in pair for pair in wanted):
                home = await internet.add_home(kind, Line(delay_ms=DELAYS_MS[side]))
                host = await home.add_host()
                process = await begin(stack, Recipe(number, tuple(relays)), host.prefix)
                await process.receive("ready")
                places[kind, side] = Place(home, host.address, process)
        return {"pairs": await all_pairs(wanted, places, options)}


async def all_pairs(
    wanted: list[tuple[Router, Router]], places: dict[tuple[Router, int], Place], options: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """Several pairs at once, each pair's tries one after another."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    turns = trio.Semaphore(options.at_once)
    numbers = itertools.count(1)
    began = time.monotonic()

    async def one_pair(pair: tuple[Router, Router]) -> None:
        async with turns:
            for _ in range(options.tries):
                found[name(pair)].append(await one_try(places[pair[0], 0], places[pair[1], 1], next(numbers)))
            done = sum(len(each) for each in found.values())
            left_s = (time.monotonic() - began) * (len(wanted) * options.tries / done - 1)
            print(f"{row(name(pair), figures(found[name(pair)]))}   (about {left_s:.0f} s left)", flush=True)

    async with trio.open_nursery() as nursery:
        for pair in wanted:
            nursery.start_soon(one_pair, pair)
    table = {name(pair): figures(found[name(pair)]) for pair in wanted}
    print(f"\n{'pair':40} relayed s  direct s  direct")
    for pair_name, each in table.items():
        print(row(pair_name, each))
    for pair_name, tries in sorted(found.items()):
        for reason, count in Counter(each["note"] for each in tries if each["direct_s"] is None).items():
            print(f"{pair_name}, {count} of {len(tries)}: {reason}")
    return table


async def one_try(left: Place, right: Place, number: int) -> dict[str, Any]:
    caller, called = 2 * number, 2 * number + 1
    await right.process.send(Order(called, is_public(right)))
    addresses = (await right.process.receive(f"ready {called}"))[f"ready {called}"]
    circuits = [each for each in addresses if is_relayed(each)]
    await left.process.send(Order(caller, is_public(left), circuits[number % len(circuits)]))
    said = (await left.process.receive(f"called {caller}"))[f"called {caller}"]
    await left.process.send({"end": caller})
    await right.process.send({"end": called})
    assert said["was_relayed"], "a call through a relay went another way"
    if said["direct_s"] is not None:
        there = parse_endpoint(said["address"])
        assert isinstance(there, Endpoint)
        assert there.relay is None, there
        assert there.host in right.ips, f"{there.address} is not where the other side is"
    return cast(dict[str, Any], said)


def is_public(place: Place) -> bool:
    return place.home.kind is Router.PUBLIC


def figures(tries: list[dict[str, Any]]) -> dict[str, Any]:
    direct = [each["direct_s"] for each in tries if each["direct_s"] is not None]
    return {
        "relayed_s": round(statistics.median(each["relayed_s"] for each in tries), 3),
        "direct_s": round(statistics.median(direct), 3) if direct else None,
        "tries": len(tries),
        "direct": len(direct),
    }


def row(pair: str, each: dict[str, Any]) -> str:
    direct_s = "-" if each["direct_s"] is None else f"{each['direct_s']:.2f}"
    return f"{pair:40} {each['relayed_s']:9.2f} {direct_s:>9}  {each['direct']:>3} of {each['tries']}"


def name(pair: tuple[Router, Router]) -> str:
    return f"{pair[0].value}/{pair[1].value}"


async def begin(stack: AsyncExitStack, recipe: Recipe, prefix: tuple[str, ...]) -> BenchProcess:
    process = await start("bench.reach", prefix)
    stack.push_async_callback(process.kill)
    await process.send(recipe)
    return process


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=10, help="for each pair")
    parser.add_argument("--at-once", type=int, default=4, help="pairs")
    parser.add_argument("--pairs", nargs="*", default=[], choices=[name(pair) for pair in PAIRS], metavar="PAIR")
    run_all(parser, bench, play, Recipe)


if __name__ == "__main__":
    main()
