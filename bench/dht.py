"""A DHT of 30 nodes in 10 processes on loopback: joining, storing, getting, and getting when a third is dead or frozen.

    python -m bench.dht [--gets 200]

k is 8. Each record is got once, by a node that neither wrote nor holds it and that no earlier get can have given a
copy: it is not among the 16 closest. Then 30% of the nodes are killed (kill -9) and gets go to the others; in a second
network they are frozen instead (SIGSTOP). The records got after that have names such that the three closest nodes of
each are among those lost. Processes die and freeze as a whole: three nodes at a time. Last line:

    {"join_p50_ms", "store_p50_ms", "get_p50_ms", "get_p99_ms", "get_ok_killed", "get_ok_frozen", "get_p50_ms_frozen"}
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import trio

from shoal.dht.keys import RecordKey, note_key, position_of, position_of_peer
from shoal.dht.lookup import LookupSettings
from shoal.dht.routing import TableSettings
from shoal.dht.service import DhtService, DhtSettings, open_dht
from shoal.node.app import settle
from shoal.transport.host import open_host
from shoal.transport.identity import Identity
from shoal.transport.port import Address
from shoal.transport.wire import Malformed

PROCESSES: Final = 10
NODES_PER_PROCESS: Final = 3
NODES: Final = PROCESSES * NODES_PER_PROCESS
LOST: Final = range(1, 4)  # processes; not the first, through which all have joined
LOST_NODES: Final = frozenset(range(LOST.start * NODES_PER_PROCESS, LOST.stop * NODES_PER_PROCESS))
CLOSEST_LOST: Final = 3  # of a record's nodes
K: Final = 8
SETTINGS: Final = DhtSettings(LookupSettings(wanted=K), TableSettings(bucket_size=K))


def identity(number: int) -> Identity:
    return Identity.from_seed(b"bench.dht" + number.to_bytes(23, "big"))


@dataclass(frozen=True, slots=True)
class Note:
    """A record to store and to get once."""

    writer: int
    name: str
    getter: int

    @property
    def key(self) -> RecordKey:
        return key_of(self.writer, self.name)


def key_of(writer: int, name: str) -> RecordKey:
    key = note_key(name, identity(writer).peer_id)
    assert not isinstance(key, Malformed)
    return key


def closest(key: RecordKey) -> list[int]:
    """All nodes, the closest to a key first."""
    position = position_of(key.data)
    return sorted(range(NODES), key=lambda each: position_of_peer(identity(each).peer_id) ^ position)


def notes(count: int, lost: frozenset[int]) -> list[Note]:
    """Records whose closest nodes are among the lost, if some are; written by all nodes, got by those that are left."""
    chance = random.Random(len(lost))
    found: list[Note] = []
    trial = 0
    while len(found) < count:
        writer, name = len(found) % NODES, f"{len(lost)}-{trial}"
        trial += 1
        ranked = closest(key_of(writer, name))
        if not lost or lost.issuperset(ranked[:CLOSEST_LOST]):
            getters = [number for number in ranked[2 * K :] if number not in lost and number != writer]
            found.append(Note(writer, name, chance.choice(getters)))
    return found


# One of the ten processes: three nodes that do what is asked of them on standard input, a line of JSON each.


async def serve(first: int) -> None:
    settle()  # as a node does
    async with AsyncExitStack() as stack:
        nodes: dict[int, tuple[DhtService, Address]] = {}
        for number in range(first, first + NODES_PER_PROCESS):
            host = await stack.enter_async_context(open_host(identity(number), ["/ip4/127.0.0.1/tcp/0"]))
            dht = await stack.enter_async_context(open_dht(host, identity(number), SETTINGS, seed=number))
            nodes[number] = dht, host.addresses()[-1]
        print(json.dumps([address for _, address in nodes.values()]), flush=True)
        while line := await trio.to_thread.run_sync(sys.stdin.readline):
            order, number, argument, name = json.loads(line)
            dht, _ = nodes[number]
            began = time.perf_counter()
            is_ok = await obey(dht, order, number, argument, name)
            print(json.dumps([(time.perf_counter() - began) * 1000, is_ok]), flush=True)


async def obey(dht: DhtService, order: str, number: int, argument: Any, name: str) -> bool:
    match order:
        case "join":
            return await dht.join([Address(argument)])
        case "store":
            return await dht.put(key_of(number, name), name.encode()) >= K // 2
        case "get":
            found = await dht.get(key_of(argument, name))
            return found is not None and found.body == name.encode()
        case _:
            raise ValueError(f"no such order: {order}")


# The process that asks.


@dataclass(frozen=True, slots=True)
class Swarm:
    """The ten processes."""

    processes: list[subprocess.Popen[str]]
    addresses: list[Address]

    async def ask(self, order: str, number: int, argument: Any = None, name: str = "") -> tuple[float, bool]:
        """Milliseconds, and whether it was done."""
        process = self.processes[number // NODES_PER_PROCESS]
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps([order, number, argument, name]) + "\n")
        process.stdin.flush()
        took_ms, is_ok = json.loads(await trio.to_thread.run_sync(process.stdout.readline))
        return took_ms, is_ok

    def lose(self, how: signal.Signals) -> None:
        """Kill or freeze what is to be lost."""
        for place in LOST:
            os.kill(self.processes[place].pid, how)


def start(first: int) -> subprocess.Popen[str]:
    """The process of the nodes from this one on."""
    command = [sys.executable, "-m", "bench.dht", "--serve", str(first)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@asynccontextmanager
async def swarm() -> AsyncGenerator[Swarm]:
    processes = [start(first) for first in range(0, NODES, NODES_PER_PROCESS)]
    try:
        addresses: list[Address] = []
        for process in processes:
            assert process.stdout is not None
            addresses += json.loads(await trio.to_thread.run_sync(process.stdout.readline))
        yield Swarm(processes, addresses)
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def p(percent: int, spans: list[float]) -> float:
    """A percentile."""
    return round(sorted(spans)[min(len(spans) - 1, len(spans) * percent // 100)], 2)


async def joined(nodes: Swarm) -> list[float]:
    """All join through the first, one after another."""
    spans: list[float] = []
    for number in range(1, NODES):
        took_ms, is_ok = await nodes.ask("join", number, nodes.addresses[0])
        assert is_ok, f"node {number} did not join"
        spans.append(took_ms)
    return spans


async def stored(nodes: Swarm, records: list[Note]) -> list[float]:
    spans: list[float] = []
    for each in records:
        took_ms, is_ok = await nodes.ask("store", each.writer, name=each.name)
        assert is_ok, f"{each} was not stored"
        spans.append(took_ms)
    return spans


async def got(nodes: Swarm, records: list[Note]) -> tuple[list[float], float]:
    """Milliseconds of each get, and the fraction that found its record."""
    spans: list[float] = []
    found = 0
    for each in records:
        took_ms, is_ok = await nodes.ask("get", each.getter, each.writer, each.name)
        spans.append(took_ms)
        found += is_ok
    return spans, found / len(spans)


async def run(gets: int) -> None:
    figures: dict[str, float] = {}
    whole, bereft = notes(gets, frozenset()), notes(gets, LOST_NODES)
    for how, name in ((signal.SIGKILL, "killed"), (signal.SIGSTOP, "frozen")):
        async with swarm() as nodes:
            joins = await joined(nodes)
            stores = await stored(nodes, [*whole, *bereft])
            spans, ok = await got(nodes, whole)
            print(f"join {p(50, joins)} ms, store {p(50, stores)} ms")
            print(f"get {p(50, spans)} ms (p99 {p(99, spans)}), {ok:.0%} found")
            if not figures:
                figures = {"join_p50_ms": p(50, joins), "store_p50_ms": p(50, stores)}
                figures |= {"get_p50_ms": p(50, spans), "get_p99_ms": p(99, spans)}
            nodes.lose(how)
            spans, figures[f"get_ok_{name}"] = await got(nodes, bereft)
            print(f"{len(LOST_NODES)} nodes {name}: get {p(50, spans)} ms (p99 {p(99, spans)})")
            figures[f"get_p50_ms_{name}"] = p(50, spans)
    del figures["get_p50_ms_killed"]
    print(json.dumps(figures))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gets", type=int, default=200)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve is not None:
        trio.run(serve, arguments.serve)
    else:
        trio.run(run, arguments.gets)


if __name__ == "__main__":
    main()
