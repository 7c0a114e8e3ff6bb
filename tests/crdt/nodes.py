"""Nodes with stores on disk over the simulated network, for tests of what they do to one another."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from shoal.crdt.dots import Writer
from shoal.crdt.operation import Operation, Stretch
from shoal.crdt.replica import Replica
from shoal.crdt.rules import Kind, Rule, Rules
from shoal.crdt.service import StoreService
from shoal.crdt.store import Store
from shoal.transport.blocking_service import run_inline
from shoal.transport.identity import Identity
from shoal.transport.memory import Network

SWARM = b"s" * 32
KEYS = [Identity.from_seed(bytes([number]) * 32) for number in range(1, 5)]
RULES = Rules({"set": Rule(Kind.SET, is_own=False)}, creator=Writer(KEYS[0].public_key), entries_max=10**4)

Make = Callable[[Replica], Sequence[Operation]]


@dataclass
class World:
    """A network and what runs on it."""

    network: Network
    nursery: trio.Nursery
    folder: Path
    rules: Rules = RULES

    @asynccontextmanager
    async def node(
        self, key: Identity, name: str = "", bytes_max: int = 2**30, host: Identity | None = None
    ) -> AsyncGenerator[StoreService, None]:
        """A node that runs until the context ends; it is kept on disk under a name.

        Args:
            host: whose peer id it connects under, where several run with one key.
        """
        peer_id = (host or key).peer_id
        transport = await self.network.open(peer_id)
        store = Store(self.path(key, name), SWARM, bytes_max)
        service = StoreService(SWARM, self.rules, transport, store, key, blocking=run_inline)
        async with trio.open_nursery() as nursery:
            await service.load()
            await nursery.start(service.run)
            yield service
            nursery.cancel_scope.cancel()
        self.network.close(peer_id)

    def path(self, key: Identity, name: str = "") -> Path:
        return self.folder / f"{name or key.peer_id}.db"

    def has_written(self, key: Identity, *values: str) -> None:
        """What a node had on disk before it starts: a batch for each value."""
        replica = Replica(SWARM, RULES)
        with Store(self.path(key), SWARM) as store:
            for value in values:
                stretch = replica.write(key, adds(value)(replica))
                assert isinstance(stretch, Stretch)
                store.append([stretch])


def adds(*values: str) -> Make:
    return lambda _: [Operation("set", (value,), value.encode()) for value in values]


def large(key: str) -> Make:
    return lambda _: [Operation("set", (key,), b"x" * 8000)]


async def write(service: StoreService, *values: str) -> Stretch:
    with trio.fail_after(60):
        stretch = await service.write(adds(*values))
    assert isinstance(stretch, Stretch), stretch
    return stretch


async def equal(*services: StoreService) -> None:
    for _ in range(600):
        if len({service.replica.digest() for service in services}) == 1:
            return
        await trio.sleep(0.1)
    raise AssertionError([service.status() for service in services])
