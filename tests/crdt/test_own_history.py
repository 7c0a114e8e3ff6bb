"""A node writes nothing that would be a second history of its own, whatever became of its data directory."""

import shutil

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from shoal.crdt.guard import Standing
from shoal.crdt.service import WRITES_MAX, StoreService
from shoal.transport.port import Code, Refusal

from .nodes import KEYS, World, adds, equal, write


async def refused(service: StoreService) -> str:
    """Why it may not write, which it tells people, too."""
    with trio.fail_after(60):
        refusal = await service.write(adds("refused"))
    assert isinstance(refusal, Refusal)
    assert refusal.code is Code.REFUSED
    assert refusal.message in service.status().problems
    assert "identity.key" in refusal.message  # what to do
    return refusal.message


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
            await write(one, "c")
            await equal(one, two)


async def test_a_node_whose_disk_was_damaged_gets_its_own_operations_back_and_writes_on(
    world: World, autojump_clock: MockClock
) -> None:
    async with world.node(KEYS[0]) as one, world.node(KEYS[1]) as two:
        await write(one, "a")
        await write(two, "b")
        await equal(one, two)
    world.path(KEYS[0]).write_bytes(b"damaged" * 1000)
    async with world.node(KEYS[0]) as one, world.node(KEYS[1]) as two:
        stretch = await write(one, "c")
        assert stretch.first == 2
        await equal(one, two)
        assert two.status().forked == ()
    async with world.node(KEYS[0]) as one:
        assert one.replica.keys("set") == [("a",), ("b",), ("c",)]


async def test_a_node_whose_store_was_deleted_refuses_to_write_once_a_peer_knows_more_of_it(
    world: World, autojump_clock: MockClock
) -> None:
    async with world.node(KEYS[0]) as one, world.node(KEYS[1]) as two:
        await write(one, "a")
        await equal(one, two)
    world.path(KEYS[0]).unlink()
    async with world.node(KEYS[0]) as emptied:
        with trio.move_on_after(1000) as scope:  # nobody can tell it
            await emptied.write(adds("b"))
        assert scope.cancelled_caught
        assert emptied.replica.heads() == {}
        async with world.node(KEYS[1]) as two:
            assert "deleted" in await refused(emptied)
            await equal(emptied, two)
            assert two.status().forked == ()
    async with world.node(KEYS[2]) as three, world.node(KEYS[1]) as two:
        await write(three, "c")  # who never wrote may, once a peer has said that it knows nothing of it
        await equal(two, three)


async def test_a_node_restored_to_when_it_was_alone_waits_for_its_peers_too(
    world: World, autojump_clock: MockClock
) -> None:
    world.has_written(KEYS[0], "a")
    shutil.copy(world.path(KEYS[0]), world.path(KEYS[0], "backup"))
    async with world.node(KEYS[0]) as one, world.node(KEYS[1]) as two:
        await write(one, "b")
        await equal(one, two)
    async with world.node(KEYS[0], "backup") as restored:
        await trio.sleep(1000)
        assert restored.status().standing is Standing.ASKING
        async with world.node(KEYS[1]) as two:
            await refused(restored)
            assert two.status().forked == ()


async def test_of_two_running_copies_of_a_directory_the_one_that_hears_of_the_other_stops(
    world: World, autojump_clock: MockClock
) -> None:
    async with world.node(KEYS[0]) as one, world.node(KEYS[1]) as two:
        await write(one, "a")
        await equal(one, two)
    shutil.copy(world.path(KEYS[0]), world.path(KEYS[0], "copy"))
    async with (
        world.node(KEYS[0]) as one,
        world.node(KEYS[0], "copy", host=KEYS[2]) as copy,
        world.node(KEYS[1]) as two,
    ):
        await write(one, "b")
        await equal(one, copy, two)
        await refused(copy)
        await write(one, "c")
        await equal(one, copy, two)
        assert two.status().forked == ()


async def test_two_copies_that_write_apart_end_their_history_for_good_and_say_so(
    world: World, autojump_clock: MockClock
) -> None:
    async with world.node(KEYS[0]) as one, world.node(KEYS[1]) as two, world.node(KEYS[2]) as three:
        await write(one, "a")
        await equal(one, two, three)
    shutil.copy(world.path(KEYS[0]), world.path(KEYS[0], "copy"))
    async with world.node(KEYS[0]) as one, world.node(KEYS[1]) as two:
        await write(one, "b")
        await equal(one, two)
    async with world.node(KEYS[0], "copy") as copy, world.node(KEYS[2]) as three:
        await write(copy, "c")
        await equal(copy, three)
    async with world.node(KEYS[0]) as one, world.node(KEYS[1]) as two, world.node(KEYS[2]) as three:
        await equal(one, two, three)
        await refused(one)
        assert two.status().forked == (KEYS[0].peer_id,)
        assert two.replica.keys("set") == [("a",)]
    async with world.node(KEYS[0]) as one:
        await refused(one)  # nobody has to say so again


async def test_writes_that_wait_for_the_peers_are_bounded(world: World, autojump_clock: MockClock) -> None:
    async with world.node(KEYS[0]) as one, trio.open_nursery() as nursery:
        for number in range(WRITES_MAX):
            nursery.start_soon(one.write, adds(str(number)))
        await wait_all_tasks_blocked()
        refusal = await one.write(adds("more"))
        assert isinstance(refusal, Refusal)
        assert refusal.code is Code.BUSY
        nursery.cancel_scope.cancel()
