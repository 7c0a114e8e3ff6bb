"""Agreeing on a record among real engines over real sockets: from the last contribution to the record decided by all.

    python -m bench.agreement [--members 4 8 16 32 64] [--rounds 9]

Each member has a host of its own, its own files and the whole engine; every message between two of them goes through a
socket, encrypted. Four processes share the members: one each where there are four, sixteen each where there are 64. The
method is a number per member that travels inside of the contribution; all members contribute at the same moment, once
nothing is left to do of the round before. What is timed begins with the last contribution on its author's disk and ends
with the record on the last member's disk: everybody's contributions are brought to everybody, proposed, voted on twice.
The first rounds, in which the members are let in, are not counted. Of the others the median is taken.

Bytes and messages are those that a member sends of agreement alone, per round: ballots, and what it says it holds, with
the answers to both, as they are encoded; without contributions, frames and encryption. A message is a call. Last line:

    {"members": {"4": {"ms", "bytes", "messages", "cpu_s", "equal"}, ...}}
"""

import argparse
import json
import os
import statistics
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, cast

import msgspec
import trio
from blake3 import blake3

from shoal.node.app import settle
from shoal.training.events import Event, MembersChanged, Problem, RoundClosed
from shoal.training.method import Share, Turn, Work
from shoal.training.ports import BlobReader, Payload
from shoal.training.service import Ports, SwarmService
from shoal.training.spec import AdmissionRule, SignedSpec, Spec, sign_spec
from shoal.transport.blob_store import BlobStore
from shoal.transport.bulk import BlobService
from shoal.transport.host import open_host
from shoal.transport.identity import Identity
from shoal.transport.port import Address, PeerId, Refusal, Reply, Request, Transport, Unary
from shoal.transport.wire import encode

from .processes import BenchProcess, run_all, start, tell

PROCESSES: Final = 4
ROUND_S: Final = 120.0
STALL_S: Final = 240.0  # no round takes so long, nor does it until all are connected
QUIET_S: Final = 1.0  # between two rounds, for what is said after one
WARM_ROUNDS: Final = 3  # counted from the first that all members have votes in
STORE_BYTES: Final = 10**9
COUNTED: Final = ("ballots", "have")


class Recipe(msgspec.Struct, frozen=True):
    """What one process is told on its first line."""

    members: int
    mine: list[int]
    directory: str


class Numbers:
    """A method whose state is a number and the round; all members contribute when the bench says so."""

    def __init__(self, starter: "Starter") -> None:
        self._starter = starter

    def start(self, spec: Spec) -> tuple[tuple[int, int], None]:
        return (0, 0), None

    def contribute(self, state: tuple[int, int], local: None, turn: Turn) -> Work[None]:
        self._starter.wait()
        return Work((struct.pack("<q", turn.seed % 1000),), 1, None, {})

    def check(self, spec: Spec, turn_round: int, member: str, samples: int, payload: BlobReader) -> str | None:
        return None if payload.size == 8 else "not a number"

    def audit(self, state: tuple[int, int], local: None, share: Share) -> float | None:
        return None

    def apply(self, state: tuple[int, int], shares: Sequence[Share]) -> tuple[tuple[int, int], Mapping[str, float]]:
        round, total = state
        for share in shares:
            total = (total * 31 + struct.unpack("<q", share.payload.read(0, 8))[0]) % 2**61
        return (round + 1, total), {}

    def settle(self, local: None, state: tuple[int, int], taken: bool) -> None:
        return None

    def evaluate(self, state: tuple[int, int]) -> Mapping[str, float]:
        return {}

    def digest(self, state: tuple[int, int]) -> bytes | None:
        return blake3(struct.pack("<qq", *state)).digest()

    def save(self, state: tuple[int, int]) -> Iterable[Payload]:
        return [struct.pack("<qq", *state)]

    def load(self, saved: BlobReader) -> tuple[int, int]:
        round, total = struct.unpack("<qq", saved.read(0, 16))
        return round, total

    def save_local(self, local: None) -> Iterable[Payload]:
        return [b"none"]

    def load_local(self, saved: BlobReader) -> None:
        return None


class Starter:
    """Holds the members' turns in a process back until the bench says go."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._count = 0
        self._cpu_s = 0.0

    def wait(self) -> None:
        """From a worker's thread: until the next go."""
        with self._changed:
            count = self._count
            tell({"ready": True})
            self._changed.wait_for(lambda: self._count > count)

    def go(self) -> None:
        with self._changed:
            self._count += 1
            self._cpu_s = time.process_time()
            self._changed.notify_all()

    def cpu_s(self) -> float:
        """Of this process since the last go."""
        return time.process_time() - self._cpu_s


class Counted:
    """A transport that counts what this member says of agreement, and what it is answered."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.bytes = 0
        self.messages = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    async def request(
        self, peer: PeerId, method: Unary[Request, Reply], request: Request, *, timeout_s: float
    ) -> Reply | Refusal:
        reply = await self._transport.request(peer, method, request, timeout_s=timeout_s)
        if method.name.rpartition("/")[2] in COUNTED:
            self.messages += 1
            self.bytes += len(encode(request)) + len(encode(reply))
        return reply


class Member:
    """One member: tells the bench when it contributed and when its records were decided."""

    def __init__(self, index: int, starter: Starter, transport: Transport) -> None:
        self._index = index
        self._starter = starter
        self.transport = Counted(transport)
        self._contributed_at = 0.0
        self._votes = 0
        self._said = 0, 0

    def observe(self, event: Event) -> None:
        if isinstance(event, MembersChanged):
            self._votes = event.votes
        elif isinstance(event, Problem):
            print(event.message, file=sys.stderr)
        elif isinstance(event, RoundClosed) and event.contributors:
            self._tell_closed(event)

    def _tell_closed(self, event: RoundClosed) -> None:
        decided_at = time.monotonic() - event.phases["apply"]  # one clock for all processes of a machine
        before, self._said = self._said, (self.transport.messages, self.transport.bytes)
        tell(
            {
                "closed": event.round,
                "member": self._index,
                "contributed_at": decided_at - event.phases["exchange"],
                "decided_at": decided_at,
                "digest": event.state_digest,
                "attempt": event.attempt,
                "votes": self._votes,
                "messages": self._said[0] - before[0],
                "bytes": self._said[1] - before[1],
                "cpu_s": self._starter.cpu_s(),
            }
        )


def identity_of(index: int) -> Identity:
    return Identity.from_seed(blake3(f"bench/agreement/{index}".encode()).digest())


def spec_of(members: int) -> SignedSpec:
    spec = Spec(
        creator=identity_of(0).peer_id,
        nonce=bytes(16),
        model="numbers",
        members_start=members,
        members_min=members,
        round_s=ROUND_S,
        silence_s=60.0,  # no attempt is given up, and nothing said twice, because the machine is busy
        admission=AdmissionRule.LIST,
        allowed=tuple(sorted(identity_of(index).peer_id for index in range(members))),
    )
    return sign_spec(spec, identity_of(0))


async def take_part(recipe: Recipe) -> None:
    """One process: reads everybody's addresses, then lets its members take part until it is killed."""
    settle()  # as a node does
    spec, starter, transports = spec_of(recipe.members), Starter(), list[Transport]()
    async with AsyncExitStack() as stack:
        for index in recipe.mine:
            opened = open_host(identity_of(index), (Address("/ip4/127.0.0.1/tcp/0"),))
            transports.append(await stack.enter_async_context(opened))
        tell({"addresses": [transport.addresses()[-1] for transport in transports]})
        addresses: list[str] = json.loads(await trio.to_thread.run_sync(sys.stdin.readline))
        async with trio.open_nursery() as nursery:
            for index, transport in zip(recipe.mine, transports, strict=True):
                for address in addresses:
                    peer = PeerId(address.rpartition("/p2p/")[2])
                    if peer > transport.peer_id:  # one of two dials
                        transport.keep(peer, (Address(address),))
                await start_member(nursery, recipe, index, starter, transport, spec)
            while await trio.to_thread.run_sync(sys.stdin.readline):
                starter.go()
            nursery.cancel_scope.cancel()


async def start_member(
    nursery: trio.Nursery, recipe: Recipe, index: int, starter: Starter, transport: Transport, spec: SignedSpec
) -> None:
    directory = Path(recipe.directory) / str(index)
    blobs = BlobService(transport, await trio.to_thread.run_sync(BlobStore, directory / "blobs", STORE_BYTES))
    await nursery.start(blobs.run)
    member = Member(index, starter, transport)
    counted = cast(Transport, member.transport)
    identity = identity_of(index)
    ports = Ports(counted, blobs, identity)
    service = SwarmService(spec, Numbers(starter), ports, directory / "rounds", member.observe)
    await nursery.start(service.run)


async def measure(members: int, rounds: int) -> dict[str, Any]:
    """All rounds among so many members."""
    processes: list[BenchProcess] = []
    shares = [list(range(first, members, PROCESSES)) for first in range(PROCESSES)]
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as root:
        try:
            for mine in shares:
                processes.append(await start("bench.agreement"))
                await processes[-1].send(Recipe(members, mine, root))
            addresses = [address for each in processes for address in (await each.receive("addresses"))["addresses"]]
            for each in processes:
                await each.send(addresses)
            counted: list[dict[str, Any]] = []
            while len(counted) < WARM_ROUNDS + rounds:
                closed = await one_round(processes, shares)
                votes = min(line["votes"] for line in closed)
                figures = figures_of(closed)
                if counted or votes == members:
                    counted.append(figures)
                print(f"{members} members, {votes} with votes: {figures}", flush=True)
        finally:
            for each in processes:
                await each.kill()
    return summary(counted[WARM_ROUNDS:])


async def one_round(processes: list[BenchProcess], shares: list[list[int]]) -> list[dict[str, Any]]:
    """What the members told of it."""
    closed: list[dict[str, Any]] = []

    async def hear(process: BenchProcess, count: int) -> None:
        closed.extend([await process.receive("closed") for _ in range(count)])

    with trio.fail_after(STALL_S):
        for process, mine in zip(processes, shares, strict=True):
            for _ in mine:
                await process.receive("ready")
        await trio.sleep(QUIET_S)
        async with trio.open_nursery() as nursery:
            for process, mine in zip(processes, shares, strict=True):
                await process.send("go")
                nursery.start_soon(hear, process, len(mine))
    return closed


def figures_of(closed: list[dict[str, Any]]) -> dict[str, Any]:
    """One round's."""
    last_at = max(line["contributed_at"] for line in closed)
    cpu_s: dict[int, float] = {}
    for line in closed:
        process = line["member"] % PROCESSES
        cpu_s[process] = max(line["cpu_s"], cpu_s.get(process, 0.0))
    return {
        "ms": round((max(line["decided_at"] for line in closed) - last_at) * 1000, 1),
        "first_ms": round((min(line["decided_at"] for line in closed) - last_at) * 1000, 1),
        "bytes": round(statistics.mean(line["bytes"] for line in closed)),
        "messages": round(statistics.mean(line["messages"] for line in closed), 1),
        "cpu_s": round(sum(cpu_s.values()), 3),
        "attempt": max(line["attempt"] for line in closed),
        "equal": len({(line["closed"], line["digest"]) for line in closed}) == 1,
    }


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    medians = {
        name: statistics.median(figures[name] for figures in rounds) for name in ("ms", "bytes", "messages", "cpu_s")
    }
    return {**medians, "equal": all(figures["equal"] for figures in rounds)}


async def bench(arguments: argparse.Namespace) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for members in arguments.members:
        print(f"load {os.getloadavg()[0]:.1f}; {members} members in {PROCESSES} processes", flush=True)
        figures[str(members)] = await measure(members, arguments.rounds)
        print(f"{members} members, median: {figures[str(members)]}", flush=True)
    return {"members": figures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, nargs="+", default=[4, 8, 16, 32, 64])
    parser.add_argument("--rounds", type=int, default=9)
    run_all(parser, bench, take_part, Recipe)


if __name__ == "__main__":
    main()
