"""Nodes with few seats among many others, on a virtual clock."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio
from trio.testing import MockClock

from shoal.transport.limits import Limits
from shoal.transport.memory import Network
from shoal.transport.memory_node import MemoryTransport, address_of
from shoal.transport.port import Code, PeerConnected, PeerDisconnected, PeerEvent, PeerId, Refusal, Streaming, Unary
from shoal.transport.wire import Message

FEW = Limits(connections_max=8)  # 7 strangers, 6 of them inbound; with two kept: 6, and 5
PATIENCE_S = 10.0


class Word(Message, frozen=True):
    text: str


ECHO = Unary("/test/1/echo", Word, Word)
SLOW = Unary("/test/1/slow", Word, Word)
TALK = Streaming("/test/1/talk", Word, Word)


async def slow(_: PeerId, request: Word) -> Word:
    await trio.sleep(1000)
    return request


@asynccontextmanager
async def one_and(count: int) -> AsyncGenerator[tuple[Network, MemoryTransport, list[MemoryTransport]]]:
    """One node with few seats, and many with as many as they like."""
    network = Network()
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        one = await network.open(PeerId("one"), FEW)
        others = [await network.open(PeerId(f"other{index:03}")) for index in range(count)]
        for node in (one, *others):
            node.serve(ECHO, lambda _, request: request)
            node.serve(SLOW, slow)
        yield network, one, others
        nursery.cancel_scope.cancel()


async def ask(one: MemoryTransport, other: MemoryTransport) -> Word | Refusal:
    return await one.request(other.peer_id, ECHO, Word("?"), timeout_s=PATIENCE_S)


async def dial(one: MemoryTransport, other: MemoryTransport) -> PeerId | Refusal:
    return await one.connect(address_of(other.peer_id), timeout_s=PATIENCE_S)


def keep(one: MemoryTransport, other: MemoryTransport) -> None:
    one.keep(other.peer_id, (address_of(other.peer_id),))


async def arrivals(one: MemoryTransport, into: list[PeerEvent]) -> None:
    async with one.events() as events:
        while True:
            into.append(await events.receive())


async def test_a_node_that_dials_ever_more_peers_goes_on_and_never_drops_those_it_keeps(
    autojump_clock: MockClock,
) -> None:
    async with one_and(32) as (_, one, (first, second, *others)), trio.open_nursery() as nursery:
        happened: list[PeerEvent] = []
        nursery.start_soon(arrivals, one, happened)
        keep(one, first)
        keep(one, second)
        await trio.sleep(5)
        for other in others:
            assert await dial(one, other) == other.peer_id
            assert await ask(one, other) == Word("?")
            assert len(one.connections()) <= FEW.connections_max
            await trio.sleep(FEW.connection_quiet_s / 2)
        assert await ask(one, first) == Word("?")
        gone = {event.peer for event in happened if isinstance(event, PeerDisconnected)}
        assert len(gone) == 30 - 6
        assert not gone & {first.peer_id, second.peer_id}
        nursery.cancel_scope.cancel()


async def test_a_call_under_way_outlives_any_number_of_dials(autojump_clock: MockClock) -> None:
    async with one_and(31) as (_, one, (first, *others)), trio.open_nursery() as nursery:
        answers: list[Word | Refusal] = []

        async def wait_for_it(here: MemoryTransport, there: MemoryTransport) -> None:
            answer = await here.request(there.peer_id, SLOW, Word("!"), timeout_s=2000)
            answers.append(answer)

        await dial(one, first)
        nursery.start_soon(wait_for_it, one, first)
        nursery.start_soon(wait_for_it, first, one)
        for other in others:
            await trio.sleep(FEW.connection_quiet_s)
            assert await dial(one, other) == other.peer_id
        assert first.peer_id in {each.peer for each in one.connections()}
        await trio.sleep(1000)
        assert answers == [Word("!"), Word("!")]
        nursery.cancel_scope.cancel()


async def test_where_all_are_in_use_a_dial_is_told_so_but_a_members(autojump_clock: MockClock) -> None:
    async with one_and(9) as (_, one, (member, *others)):
        for other in others[:7]:
            assert await dial(one, other) == other.peer_id
        answer = await dial(one, others[7])
        assert isinstance(answer, Refusal)
        assert answer.code is Code.BUSY
        keep(one, member)
        await trio.sleep(1)
        assert await ask(one, member) == Word("?")


async def test_a_flood_of_strangers_leaves_room_for_members_and_for_whom_we_dial(autojump_clock: MockClock) -> None:
    async with one_and(18) as (_, one, (member, known, *strangers)), trio.open_nursery() as nursery:

        async def pester(stranger: MemoryTransport) -> None:
            while True:
                await dial(stranger, one)
                await ask(stranger, one)
                await trio.sleep(1)

        for stranger in strangers:
            nursery.start_soon(pester, stranger)
        await trio.sleep(30)
        assert len(one.connections()) == 6
        keep(one, member)
        assert await dial(one, known) == known.peer_id
        await trio.sleep(30)
        assert await ask(one, member) == Word("?")
        assert await ask(one, known) == Word("?")
        assert len(one.connections()) == FEW.connections_max
        nursery.cancel_scope.cancel()


async def test_the_unused_are_hung_up_on_cleanly(autojump_clock: MockClock) -> None:
    async with one_and(6) as (_, one, others), others[0].events() as events:
        for other in others:
            await dial(other, one)
        assert await events.receive() == PeerConnected(one.peer_id)
        with trio.fail_after(2 * FEW.connection_unused_s):
            assert await events.receive() == PeerDisconnected(one.peer_id)
        assert trio.current_time() >= FEW.connection_unused_s
        assert isinstance(await ask(others[0], one), Refusal)
        await trio.sleep(5 * FEW.connection_unused_s)
        assert len(one.connections()) == 4  # three quarters of six
        assert await dial(others[0], one) == one.peer_id


async def test_who_says_something_now_and_then_stays(autojump_clock: MockClock) -> None:
    async with one_and(6) as (_, one, others):
        for other in others:
            await dial(other, one)
        for _ in range(10):
            await trio.sleep(FEW.connection_unused_s / 2)
            assert isinstance(await ask(others[0], one), Word)


async def test_a_streaming_call_that_says_nothing_for_long_stands(autojump_clock: MockClock) -> None:
    async with one_and(20) as (_, one, (first, *others)):

        async def talk(_: PeerId, call: object) -> Refusal | None:
            await trio.sleep_forever()

        first.serve_stream(TALK, talk)
        await dial(one, first)
        async with one.stream(first.peer_id, TALK, timeout_s=10_000) as call:
            await call.send(Word("begin"))
            for other in others:
                await trio.sleep(2 * FEW.connection_unused_s)
                assert await dial(one, other) == other.peer_id
            assert await call.send(Word("still there")) is None


async def test_large_simulations_are_not_bounded_unless_they_ask_for_it(autojump_clock: MockClock) -> None:
    async with one_and(300) as (_, _, (first, *others)):
        for other in others:
            assert await dial(first, other) == other.peer_id
        await trio.sleep(10 * FEW.connection_unused_s)
        assert len(first.connections()) == 299
