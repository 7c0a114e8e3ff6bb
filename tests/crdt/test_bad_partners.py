"""A peer that keeps silent, answers garbage or dribbles costs a node little, and others are served as before."""

from collections.abc import Awaitable, Callable

import trio
from trio.testing import MockClock

from shoal.crdt.exchange import COMPARES_BURST, COMPARES_PER_S, ROUND_TRIPS_MAX
from shoal.crdt.exchange_messages import BATCHES_MAX, Calls, Compare, Compared, Mark, Settle, Settled, ShortHead, Want
from shoal.crdt.operation import Operation, Stretch
from shoal.crdt.partners import DOUBT_S
from shoal.crdt.replica import Replica
from shoal.crdt.service import COMPARE_S, StoreService
from shoal.transport.port import PeerId, Refusal, Transport

from .nodes import KEYS, RULES, SWARM, World, equal, write

LIAR = KEYS[3]
CALLS = Calls(SWARM)
WATCHED_S = 300.0

Comparing = Callable[[PeerId, Compare], Awaitable[Compared | Refusal]]
Settling = Callable[[PeerId, Settle], Awaitable[Settled | Refusal]]


class Liar:
    """A peer that answers as it likes, and counts how often it is asked."""

    def __init__(self, transport: Transport, compare: Comparing, settle: Settling) -> None:
        self.compared_at: list[float] = []
        self.settled_count = 0
        self._compare, self._settle = compare, settle
        transport.serve(CALLS.compare, self._on_compare)
        transport.serve(CALLS.settle, self._on_settle)

    async def _on_compare(self, peer: PeerId, request: Compare) -> Compared | Refusal:
        self.compared_at.append(trio.current_time())
        return await self._compare(peer, request)

    async def _on_settle(self, peer: PeerId, request: Settle) -> Settled | Refusal:
        self.settled_count += 1
        return await self._settle(peer, request)


async def never_compared(_: PeerId, __: Compare) -> Compared:
    await trio.sleep_forever()
    raise AssertionError


async def never_settled(_: PeerId, __: Settle) -> Settled:
    await trio.sleep_forever()
    raise AssertionError


async def claimed(_: PeerId, request: Compare) -> Compared:
    """More of a writer than there is."""
    own = ShortHead(LIAR.public_key, 10_000, bytes(16), is_forked=False)
    return Compared((LIAR.public_key[0] // 2,), (own,), None, is_whole=True)


async def garbled(_: PeerId, __: Settle) -> Settled:
    return Settled((b"garbage",) * BATCHES_MAX, (), ())


async def served_beside(world: World, compare: Comparing, settle: Settling) -> tuple[Liar, StoreService]:
    """Honest nodes write and become equal in time while a liar is connected, and afterwards."""
    transport = await world.network.open(LIAR.peer_id)
    liar = Liar(transport, compare, settle)
    async with world.node(KEYS[0]) as one, world.node(KEYS[1]) as two:
        for number in range(3):
            with trio.fail_after(30):
                await write(one, f"one {number}")
                await write(two, f"two {number}")
                await equal(one, two)
        await trio.sleep(WATCHED_S)
        with trio.fail_after(5):
            await write(one, "after")
            await equal(one, two)
    return liar, one


def assert_is_asked_less_and_less(liar: Liar, nodes: int = 2) -> None:
    """After 1, 2, 4 ... s: no more than so many times in WATCHED_S by each node."""
    asked = len(liar.compared_at)
    assert 2 <= asked <= nodes * 10
    assert 4 * asked / nodes < WATCHED_S / DOUBT_S


async def test_a_peer_that_never_answers_is_asked_less_and_less(world: World, autojump_clock: MockClock) -> None:
    liar, _ = await served_beside(world, never_compared, never_settled)
    assert_is_asked_less_and_less(liar)


async def test_a_peer_that_claims_much_and_then_keeps_silent_is_asked_less_and_less(
    world: World, autojump_clock: MockClock
) -> None:
    liar, _ = await served_beside(world, claimed, never_settled)
    assert_is_asked_less_and_less(liar)


async def test_a_peer_that_answers_garbage_is_asked_less_and_less(world: World, autojump_clock: MockClock) -> None:
    liar, one = await served_beside(world, claimed, garbled)
    assert_is_asked_less_and_less(liar)
    assert one.status().problems == ()


async def test_a_peer_that_dribbles_one_operation_an_answer_as_late_as_it_may_ends_the_exchange(
    world: World, autojump_clock: MockClock
) -> None:
    replica, batches = Replica(SWARM, RULES), list[bytes]()
    for number in range(3 * ROUND_TRIPS_MAX):
        stretch = replica.write(LIAR, [Operation("set", (str(number),), b"")])
        assert isinstance(stretch, Stretch)
        batches.append(stretch.data)

    async def dribbled(_: PeerId, request: Settle) -> Settled:
        await trio.sleep(15)
        if not request.wants:
            return Settled((), (), ())
        want = request.wants[0]
        at = want.marks[0].number
        stretch = batches[min(at, len(batches) - 1)]
        chain = replica.chain(one_writer)
        assert chain is not None
        rest = Want(want.writer, (Mark(at + 1, chain.hash_at(at + 1)[:16]),))
        return Settled((stretch,), (rest,), ())

    one_writer = next(iter(replica.heads()))
    transport = await world.network.open(LIAR.peer_id)
    liar = Liar(transport, claimed, dribbled)
    async with world.node(KEYS[0]) as one, world.node(KEYS[1]) as two:
        began = trio.current_time()
        for number in range(20):
            with trio.fail_after(30):
                await write(one, str(number))
                await equal(one, two)
            await trio.sleep(30)
        # One exchange at a time with each, each of which has one answer under way.
        assert liar.settled_count <= 2 * (1 + (trio.current_time() - began) / 15)
        assert one.replica.context()[one_writer] <= liar.settled_count


async def test_a_connected_peer_that_asks_without_end_is_told_to_wait_and_others_are_served(
    world: World, autojump_clock: MockClock
) -> None:
    transport = await world.network.open(LIAR.peer_id)
    answers: list[Compared | Refusal] = []

    async def ask() -> None:
        request = Compare(1, bytes(32), bytes(16), bytes(768), 0)
        while len(answers) < 500:
            answer = await transport.request(KEYS[0].peer_id, CALLS.compare, request, timeout_s=COMPARE_S)
            answers.append(answer)

    async with world.node(KEYS[0]) as one, world.node(KEYS[1]) as two:
        await write(two, "a")
        began_at = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await write(two, "b")
            await equal(one, two)
        allowed = COMPARES_BURST + COMPARES_PER_S * (trio.current_time() - began_at) + 1
        assert allowed < len(answers)
        assert sum(isinstance(answer, Compared) for answer in answers) <= allowed
