"""How long two nodes that were apart take to become equal: two processes, over the host, each with a store on disk.

    python -m bench.reconcile [--operations 10000]

Each node has written so many operations while it was alone, a signed batch for each. The clock runs from the moment one
dials the other until both have all and the same digest; they look every 20 ms. Round trips are those of both nodes'
exchanges, bytes those of all connections, both ways. Last line:

    {"seconds", "round_trips", "bytes", "equal"}
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import trio

from shoal.crdt.dots import Writer
from shoal.crdt.operation import Operation, Stretch
from shoal.crdt.replica import Replica
from shoal.crdt.rules import Kind, Rule, Rules
from shoal.crdt.service import StoreService
from shoal.crdt.store import Store
from shoal.transport.host import open_host
from shoal.transport.identity import Identity
from shoal.transport.port import Address, Refusal, Transport

SWARM: Final = b"s" * 32
SEEDS: Final = (bytes(31) + b"\1", bytes(31) + b"\2")
RULES: Final = Rules(
    {"log": Rule(Kind.LOG)}, creator=Writer(Identity.from_seed(SEEDS[0]).public_key), entries_max=10**6
)
LOOK_S: Final = 0.02
TIMEOUT_S: Final = 120.0


def write_alone(key: Identity, path: Path, count: int) -> None:
    """What a node did while it was apart."""
    replica = Replica(SWARM, RULES)
    written: list[Stretch] = []
    for number in range(count):
        stretch = replica.write(key, [Operation("log", (key.peer_id,), b"value of %8d " % number * 5)])
        if not isinstance(stretch, Stretch):
            raise RuntimeError(stretch.reason)
        written.append(stretch)
    with Store(path, SWARM) as store:
        store.append(written)


@asynccontextmanager
async def node(seed: bytes, count: int) -> AsyncGenerator[tuple[Transport, StoreService], None]:
    key = Identity.from_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store.db"
        write_alone(key, path, count)
        async with open_host(key, ["/ip4/127.0.0.1/tcp/0"]) as host, trio.open_nursery() as nursery:
            service = StoreService(SWARM, RULES, host, Store(path, SWARM), key)
            await service.load()
            await nursery.start(service.run)
            yield host, service
            nursery.cancel_scope.cancel()


async def has_all(service: StoreService, count: int) -> None:
    with trio.fail_after(TIMEOUT_S):
        while sum(service.replica.context().values()) < 2 * count:  # noqa: ASYNC110 - looking is what is measured
            await trio.sleep(LOOK_S)


async def serve(count: int) -> None:
    """The other process: prints its address, then, once it has all, its digest and its round trips."""
    async with node(SEEDS[1], count) as (host, service):
        print(host.addresses()[-1], flush=True)
        await has_all(service, count)
        print(service.replica.digest().hex(), service.status().round_trips, flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)


async def measure(count: int) -> dict[str, float | int | bool]:
    command = [sys.executable, "-m", "bench.reconcile", "--serve", "--operations", str(count)]
    process = await trio.to_thread.run_sync(
        lambda: subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    )
    with process:
        assert process.stdout is not None
        assert process.stdin is not None
        async with node(SEEDS[0], count) as (host, service):
            address = (await trio.to_thread.run_sync(process.stdout.readline)).strip()
            start = trio.current_time()
            peer = await host.connect(Address(address), timeout_s=10)
            if isinstance(peer, Refusal):
                raise RuntimeError(peer.message)
            await has_all(service, count)
            digest, round_trips = (await trio.to_thread.run_sync(process.stdout.readline)).split()
            seconds = trio.current_time() - start
            traffic = host.traffic()
            figures: dict[str, float | int | bool] = {
                "seconds": round(seconds, 2),
                "round_trips": service.status().round_trips + int(round_trips),
                "bytes": traffic.bytes_sent + traffic.bytes_received,
                "equal": digest == service.replica.digest().hex(),
            }
        process.stdin.close()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--operations", type=int, default=10_000, help="of each node")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        trio.run(serve, arguments.operations)
    else:
        print(json.dumps(trio.run(measure, arguments.operations)))


if __name__ == "__main__":
    main()
