"""A DHT of 30 nodes in 10 processes on loopback: joining, storing, getting, and getting when a third is dead or frozen.

    python -m bench.dht [--records 40] [--gets 200]

k is 8. Getters neither wrote, hold nor have cached the record; each key is got once by a getter. Then 30% of the nodes,
the closest holders of a record among them, are killed (kill -9) and gets go to the others; in a second network they are
frozen instead (SIGSTOP). Processes die and freeze as a whole: three nodes at a time. Last line:

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
from shoal.transport.host import open_host
from shoal.transport.identity import Identity
from shoal.transport.port import Address
from shoal.transport.wire import Malformed

PROCESSES: Final = 10
NODES_PER_PROCESS: Final = 3
NODES: Final = PROCESSES * NODES_PER_PROCESS
LOST: Final = 3  # processes, of which one holds the closest node of the first record
K: Final = 8
SETTINGS: Final = DhtSettings(LookupSettings(wanted=K), TableSettings(bucket_size=K))


def identity(number: int) -> Identity:
    return Identity.from_seed(b"bench.dht" + number.to_bytes(23, "big"))


def key_of(writer: int, number: int) -> RecordKey:
    key = note_key(f"record-{number}", identity(writer).peer_id)
    assert not isinstance(key, Malformed)
    return key


def closest(key: RecordKey) -> list[int]:
    """All nodes, the closest to a key first."""
    position = position_of(key.data)
    return sorted(range(NODES), key=lambda each: position_of_peer(identity(each).peer_id) ^ position)


# One of the ten processes: three nodes that do what is asked of them on standard input, a line of JSON each.


async def serve(first: int) -> None:
    async with AsyncExitStack() as stack:
        nodes: dict[int, tuple[DhtService, Address]] = {}
        for number in range(first, first + NODES_PER_PROCESS):
            host = await stack.enter_async_context(open_host(identity(number), ["/ip4/127.0.0.1/tcp/0"]))
            dht = await stack.enter_async_context(open_dht(host, identity(number), SETTINGS, seed=number))
            nodes[number] = dht, host.addresses()[-1]
        print(json.dumps([address for _, address in nodes.values()]), flush=True)
        while line := await trio.to_thread.run_sync(sys.stdin.readline):
            order, number, argument, record = json.loads(line)
            dht, _ = nodes[number]
            began = time.perf_counter()
            is_ok = await obey(dht, order, number, argument, record)
            print(json.dumps([(time.perf_counter() - began) * 1000, is_ok]), flush=True)


async def obey(dht: DhtService, order: str, number: int, argument: Any, record: int) -> bool:
    match order:
        case "join":
            return await dht.join([Address(argument)])
        case "store":
            return await dht.put(key_of(number, record), f"body {record}".encode()) >= K // 2
        case "get":
            found = await dht.get(key_of(argument, record))
            return found is not None and found.body == f"body {record}".encode()
        case _:
            raise ValueError(f"no such order: {order}")


# The process that asks.


@dataclass(frozen=True, slots=True)
class Swarm:
    """The ten processes."""

    processes: list[subprocess.Popen[str]]
    addresses: list[Address]

    async def ask(self, order: str, number: int, argument: Any = None, record: int = 0) -> tuple[float, bool]:
        """Milliseconds, and whether it was done."""
        process = self.processes[number // NODES_PER_PROCESS]
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps([order, number, argument, record]) + "\n")
        process.stdin.flush()
        took_ms, is_ok = json.loads(await trio.to_thread.run_sync(process.stdout.readline))
        return took_ms, is_ok

    def lose(self, key: RecordKey, how: signal.Signals) -> set[int]:
        """Kill or freeze the processes with the closest holders of a key. Which nodes are left."""
        order = list(dict.fromkeys(number // NODES_PER_PROCESS for number in closest(key) if number))
        lost = [place for place in order if place][:LOST]  # but for the one that everybody joined through
        for place in lost:
            os.kill(self.processes[place].pid, how)
        return {number for number in range(NODES) if number // NODES_PER_PROCESS not in lost}


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


async def stored(nodes: Swarm, records: int) -> list[float]:
    """Record n is written by node n modulo NODES."""
    spans: list[float] = []
    for record in range(records):
        took_ms, is_ok = await nodes.ask("store", record % NODES, record=record)
        assert is_ok, f"record {record} was not stored"
        spans.append(took_ms)
    return spans


async def got(nodes: Swarm, records: int, left: set[int], gets: int) -> tuple[list[float], float]:
    """Milliseconds of each get, and the fraction that found its record. No record twice by one node."""
    chance = random.Random(1)
    pairs = [
        (number, record)
        for record in range(records)
        for number in closest(key_of(record % NODES, record))[K + 1 :]
        if number in left and number != record % NODES
    ]
    spans: list[float] = []
    found = 0
    for number, record in chance.sample(pairs, min(gets, len(pairs))):
        took_ms, is_ok = await nodes.ask("get", number, record % NODES, record)
        spans.append(took_ms)
        found += is_ok
    return spans, found / len(spans)


async def run(records: int, gets: int) -> None:
    figures: dict[str, float] = {}
    for how, name in ((signal.SIGKILL, "killed"), (signal.SIGSTOP, "frozen")):
        async with swarm() as nodes:
            joins = await joined(nodes)
            stores = await stored(nodes, records)
            spans, ok = await got(nodes, records, set(range(NODES)), gets)
            print(f"join {p(50, joins)} ms, store {p(50, stores)} ms")
            print(f"get {p(50, spans)} ms (p99 {p(99, spans)}), {ok:.0%} found")
            if not figures:
                figures = {"join_p50_ms": p(50, joins), "store_p50_ms": p(50, stores)}
                figures |= {"get_p50_ms": p(50, spans), "get_p99_ms": p(99, spans)}
            left = nodes.lose(key_of(0, 0), how)
            spans, figures[f"get_ok_{name}"] = await got(nodes, records, left, gets)
            print(f"{NODES - len(left)} nodes {name}: get {p(50, spans)} ms (p99 {p(99, spans)})")
            figures[f"get_p50_ms_{name}"] = p(50, spans)
    del figures["get_p50_ms_killed"]
    print(json.dumps(figures))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=40)
    parser.add_argument("--gets", type=int, default=200)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve is not None:
        trio.run(serve, arguments.serve)
    else:
        trio.run(run, arguments.records, arguments.gets)


if __name__ == "__main__":
    main()
