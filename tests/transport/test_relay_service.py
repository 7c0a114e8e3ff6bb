"""What a relay copies from one stream to another, on a virtual clock."""

import trio
from trio.testing import MockClock

from shoal.transport.port import StreamBroken
from shoal.transport.relay_streams_service import Turns, splice
from shoal.transport.yamux_service import YamuxStream
from tests.transport.test_yamux_service import connected, read_all

HELD_BYTES_MAX = 2 * 2**20  # by the relay and the windows of four hops, for one direction of a circuit


async def relay(one: YamuxStream, other: YamuxStream, bytes_max: int) -> None:
    left = bytes_max

    def spend(count: int) -> bool:
        nonlocal left
        left -= count
        return left >= 0

    await splice(one, other, spend, Turns(), None)
    one.reset()
    other.reset()


async def test_a_circuit_passes_both_directions_and_their_ends(autojump_clock: MockClock) -> None:
    async with connected() as (caller, left), connected() as (target, right), trio.open_nursery() as nursery:
        ours, theirs = caller.connection.open_stream(), target.connection.open_stream()
        nursery.start_soon(relay, await left.accepted.receive(), await right.accepted.receive(), 10**9)
        await ours.send_all(bytes(10**5))
        await ours.finish()
        assert await read_all(theirs) == bytes(10**5)
        await theirs.send_all(b"and back")
        await theirs.finish()
        assert await read_all(ours) == b"and back"


async def test_a_slow_reader_slows_its_writer_and_fills_nothing(autojump_clock: MockClock) -> None:
    async with connected() as (caller, left), connected() as (target, right), trio.open_nursery() as nursery:
        ours, theirs = caller.connection.open_stream(), target.connection.open_stream()
        nursery.start_soon(relay, await left.accepted.receive(), await right.accepted.receive(), 10**9)
        sent = 0
        with trio.move_on_after(60):
            while True:
                await ours.send_all(bytes(64 * 1024))
                sent += 64 * 1024
        assert 0 < sent < HELD_BYTES_MAX
        received = 0
        while received < sent:
            received += len(await theirs.receive_some())
        nursery.cancel_scope.cancel()


async def test_a_circuit_that_has_carried_enough_is_cut_on_both_sides(autojump_clock: MockClock) -> None:
    async with connected() as (caller, left), connected() as (target, right), trio.open_nursery() as nursery:
        ours, theirs = caller.connection.open_stream(), target.connection.open_stream()
        nursery.start_soon(relay, await left.accepted.receive(), await right.accepted.receive(), 1000)
        await ours.send_all(bytes(600))
        assert len(await theirs.receive_some()) == 600
        await theirs.send_all(bytes(600))
        for stream in (ours, theirs):
            try:
                assert not await read_all(stream)
            except StreamBroken:
                continue
            raise AssertionError("the circuit was not cut")
