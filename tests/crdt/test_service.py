"""Nodes with stores on disk, over the simulated network: they become equal, whatever one of them does."""

import trio
from trio.testing import MockClock

from shoal.crdt.exchange_messages import Calls, Settle, Settled
from shoal.crdt.operation import Operation, Stretch
from shoal.transport.port import Code, Refusal
from shoal.transport.wire import Malformed

from .nodes import KEYS, SWARM, World, equal, large, write


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
        world.has_written(key, *(f"{key.peer_id[-4:]} {number}" for number in range(30)))
    async with world.node(KEYS[0]) as one, world.node(KEYS[1]) as two, world.node(KEYS[2]) as three:
        await equal(one, two, three)
        assert len(one.replica.keys("set")) == 90
        assert any(each.status().last_exchange is not None for each in (one, two, three))


async def test_what_the_rules_refuse_is_not_written_anywhere(world: World, autojump_clock: MockClock) -> None:
    async with world.node(KEYS[0]) as one, world.node(KEYS[1]):
        refused = await one.write(lambda _: [Operation("nowhere", ("a",), b"")])
        assert isinstance(refused, Malformed)
        await write(one, "a")
    async with world.node(KEYS[0]) as one:
        assert one.replica.keys("set") == [("a",)]


async def test_readers_hear_of_keys_that_changed_and_once_that_they_missed_some(
    world: World, autojump_clock: MockClock
) -> None:
    async with world.node(KEYS[0]) as one, world.node(KEYS[1]), one.changes() as changes:
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
    async with world.node(KEYS[0]) as one, world.node(KEYS[1]):
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
