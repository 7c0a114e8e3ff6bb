"""Nodes with stores on disk, over the simulated network: they become equal, and write nothing that forks."""

import shutil
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from shoal.crdt.dots import Writer
from shoal.crdt.exchange_messages import Calls, Settle, Settled
from shoal.crdt.guard import Standing
from shoal.crdt.operation import Operation, Stretch
from shoal.crdt.replica import Replica
from shoal.crdt.rules import Kind, Rule, Rules
from shoal.crdt.service import StoreService
from shoal.crdt.store import Store
from shoal.transport.bulk import run_inline
from shoal.transport.identity import Identity
from shoal.transport.memory import Network
from shoal.transport.port import Code, Refusal
from shoal.transport.wire import Malformed

SWARM = b"s" * 32
KEYS = [Identity.from_seed(bytes([number]) * 32) for number in range(1, 5)]
RULES = Rules({"set": Rule(Kind.SET, is_own=False)}, creator=Writer(KEYS[0].public_key), entries_max=10**4)


@dataclass
class World:
    """A network and what runs on it."""

    network: Network
    nursery: trio.Nursery
    folder: Path

    @asynccontextmanager
    async def node(self, key: Identity, name: str = "", bytes_max: int = 2**30) -> AsyncGenerator[StoreService, None]:
        """A node that runs until the context ends; it is kept on disk under a name."""
        transport = await self.network.open(key.peer_id)
        store = Store(self.path(key, name), SWARM, bytes_max)
        service = StoreService(SWARM, RULES, transport, store, key, blocking=run_inline)
        async with trio.open_nursery() as nursery:
            await service.load()
            await nursery.start(service.run)
            yield service
            nursery.cancel_scope.cancel()
        self.network.close(key.peer_id)

    def path(self, key: Identity, name: str = "") -> Path:
        return self.folder / f"{name or key.peer_id}.db"


@pytest.fixture
async def world(tmp_path: Path, autojump_clock: MockClock) -> AsyncGenerator[World, None]:
    network = Network(0, is_full=True)
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        yield World(network, nursery, tmp_path)
        nursery.cancel_scope.cancel()


def adds(*values: str) -> Callable[[Replica], Sequence[Operation]]:
    return lambda _: [Operation("set", (value,), value.encode()) for value in values]


def large(key: str) -> Callable[[Replica], Sequence[Operation]]:
    return lambda _: [Operation("set", (key,), b"x" * 8000)]


async def write(service: StoreService, *values: str) -> Stretch:
    stretch = await service.write(adds(*values))
    assert isinstance(stretch, Stretch), stretch
    return stretch


async def equal(*services: StoreService) -> None:
    for _ in range(600):
        if len({service.replica.digest() for service in services}) == 1:
            return
        await trio.sleep(0.1)
    raise AssertionError([service.status() for service in services])


async def test_what_one_node_writes_all_have_soon_and_after_a_restart(world: World, autojump_clock: MockClock) -> None:
    async with world.node(KEYS[0]) as one, world.node(KEYS[1]) as two, world.node(KEYS[2]) as three:
        await write(one, "a")
        await write(two, "b")
        await equal(one, two, three)
        assert three.replica.keys("set") == [("a",), ("b",)]
        digest = three.replica.digest()
    async with world.node(KEYS[2]) as three:
        assert three.replica.digest() == digest


async def test_nodes_that_were_apart_become_equal_by_exchange(world: World, autojump_clock: MockClock) -> None:
    for key in KEYS[:3]:
        async with world.node(key) as alone:
            for number in range(30):
                await write(alone, f"{key.peer_id[-4:]} {number}")
    async with world.node(KEYS[0]) as one, world.node(KEYS[1]) as two, world.node(KEYS[2]) as three:
        await equal(one, two, three)
        assert len(one.replica.keys("set")) == 90
        assert any(each.status().last_exchange is not None for each in (one, two, three))


async def test_a_node_whose_disk_is_behind_its_peers_refuses_to_write_and_says_why(
    world: World, autojump_clock: MockClock
) -> None:
    async with world.node(KEYS[0]) as one, world.node(KEYS[1]) as two:
        await write(one, "a")
        await write(two, "b")
        await equal(one, two)
    shutil.copy(world.path(KEYS[0]), world.path(KEYS[0], "backup"))
    async with world.node(KEYS[0]) as one, world.node(KEYS[1]) as two:
        await write(one, "c")
        await equal(one, two)
    async with world.node(KEYS[0], "backup") as restored, world.node(KEYS[1]) as two:
        refusal = await restored.write(adds("d"))
        assert isinstance(refusal, Refusal)
        assert "new key" in refusal.message
        assert refusal.message in restored.status().problems
        assert two.status().forked == ()


async def test_a_node_that_knows_others_writes_nothing_before_one_of_them_has_answered(
    world: World, autojump_clock: MockClock
) -> None:
    async with world.node(KEYS[0]) as one, world.node(KEYS[1]) as two:
        await write(one, "a")
        await write(two, "b")
        await equal(one, two)
    async with world.node(KEYS[0]) as one:
        with trio.move_on_after(100) as scope:
            await one.write(adds("c"))
        assert scope.cancelled_caught
        assert one.status().standing is Standing.ASKING
        async with world.node(KEYS[1]) as two:
            with trio.fail_after(30):
                await write(one, "c")
            await equal(one, two)


async def test_what_the_rules_refuse_is_not_written_anywhere(world: World, autojump_clock: MockClock) -> None:
    async with world.node(KEYS[0]) as one:
        refused = await one.write(lambda _: [Operation("nowhere", ("a",), b"")])
        assert isinstance(refused, Malformed)
        await write(one, "a")
    async with world.node(KEYS[0]) as one:
        assert one.replica.keys("set") == [("a",)]


async def test_readers_hear_of_keys_that_changed_and_once_that_they_missed_some(
    world: World, autojump_clock: MockClock
) -> None:
    async with world.node(KEYS[0]) as one, one.changes() as changes:
        await write(one, "a", "b")
        changed = await anext(changes)
        assert changed.keys == {("set", ("a",)), ("set", ("b",))}
        for turn in range(17):
            await write(one, *(f"{turn} {number}" for number in range(250)))
        assert (await anext(changes)).has_missed
        await write(one, "c")
        assert not (await anext(changes)).has_missed


async def test_on_a_full_disk_a_node_refuses_its_own_writes_and_follows_the_others(
    world: World, autojump_clock: MockClock
) -> None:
    async with world.node(KEYS[0], bytes_max=64 * 4096) as full, world.node(KEYS[1]) as other:
        for number in range(60):
            stretch = await other.write(large(str(number)))
            assert isinstance(stretch, Stretch)
        await equal(full, other)
        await trio.sleep(1)
        refusal = await full.write(large("mine"))
        assert isinstance(refusal, Refusal)
        assert refusal.code is Code.REFUSED
        assert "full" in refusal.message
        assert full.status().problems


async def test_who_hands_over_garbage_is_not_dealt_with_for_a_while(world: World, autojump_clock: MockClock) -> None:
    async with world.node(KEYS[0]) as one:
        await write(one, "a")
        liar = await world.network.open(KEYS[3].peer_id)
        calls = Calls(SWARM)
        garbage = Settle((), (b"garbage",))
        first = await liar.request(KEYS[0].peer_id, calls.settle, garbage, timeout_s=5)
        assert isinstance(first, Settled)
        again = await liar.request(KEYS[0].peer_id, calls.settle, garbage, timeout_s=5)
        assert isinstance(again, Refusal)
        assert again.code is Code.BUSY
        assert one.replica.keys("set") == [("a",)]


async def test_a_node_whose_disk_was_damaged_gets_its_own_operations_back_and_writes_on(
    world: World, autojump_clock: MockClock
) -> None:
    async with world.node(KEYS[0]) as one, world.node(KEYS[1]) as two:
        await write(one, "a")
        await write(two, "b")
        await equal(one, two)
    world.path(KEYS[0]).write_bytes(b"damaged" * 1000)
    async with world.node(KEYS[0]) as one, world.node(KEYS[1]) as two:
        with trio.fail_after(60):
            stretch = await write(one, "c")
        assert stretch.first == 2
        await equal(one, two)
        assert two.status().forked == ()
    async with world.node(KEYS[0]) as one:
        assert one.replica.keys("set") == [("a",), ("b",), ("c",)]
