"""A node with few seats among many others, over real sockets."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

import trio

from shoal.transport.host import open_host
from shoal.transport.identity import Identity
from shoal.transport.limits import Limits
from shoal.transport.port import (
    ByteStream,
    PeerConnected,
    PeerDisconnected,
    PeerEvent,
    PeerId,
    Refusal,
    StreamBroken,
    Transport,
    Unary,
)
from shoal.transport.relay import RelayLimits
from shoal.transport.wire import Message

QUIET_S = 0.3
FEW = Limits(connections_max=8, connection_quiet_s=QUIET_S)
PLAIN = "/test/plain/1"
PATIENCE_S = 20.0


class Word(Message, frozen=True):
    text: str


ECHO = Unary("/test/1/echo", Word, Word)
SLOW = Unary("/test/1/slow", Word, Word)


def identity(index: int) -> Identity:
    return Identity.from_seed(bytes([index]) * 32)


async def slow(_: PeerId, request: Word) -> Word:
    await trio.sleep(4 * QUIET_S)
    return request


@asynccontextmanager
async def node(index: int, limits: Limits | None = None, relay: RelayLimits | None = None) -> AsyncGenerator[Transport]:
    async with open_host(identity(index), ["/ip4/127.0.0.1/tcp/0"], limits, relay=relay, seed=index) as transport:
        transport.serve(ECHO, lambda _, request: request)
        transport.serve(SLOW, slow)
        yield transport


@asynccontextmanager
async def one_and(count: int, relay: RelayLimits | None = None) -> AsyncGenerator[tuple[Transport, list[Transport]]]:
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(node(1, FEW, relay))
        yield one, [await stack.enter_async_context(node(10 + index)) for index in range(count)]


async def dial(one: Transport, other: Transport) -> PeerId | Refusal:
    return await one.connect(other.addresses()[-1], timeout_s=PATIENCE_S)


async def ask(one: Transport, other: Transport) -> Word | Refusal:
    return await one.request(other.peer_id, ECHO, Word("?"), timeout_s=PATIENCE_S)


async def follow(one: Transport, into: list[PeerEvent]) -> None:
    async with one.events() as events:
        while True:
            into.append(await events.receive())


def connected(one: Transport) -> set[PeerId]:
    return {each.peer for each in one.connections()}


async def until_connected(one: Transport, *others: Transport) -> None:
    with trio.fail_after(PATIENCE_S):
        while not {other.peer_id for other in others} <= connected(one):  # noqa: ASYNC110
            await trio.sleep(0.02)


async def test_a_node_that_dials_thirty_peers_goes_on_and_never_drops_what_matters() -> None:
    async with one_and(33) as (one, (first, second, busy, *others)), trio.open_nursery() as nursery:
        happened: list[PeerEvent] = []
        answers: list[Word | Refusal] = []
        done = trio.Event()

        async def wait_for_it(here: Transport, there: Transport) -> None:
            for _ in range(3):
                answer = await here.request(there.peer_id, SLOW, Word("!"), timeout_s=PATIENCE_S)
                answers.append(answer)
            done.set()

        nursery.start_soon(follow, one, happened)
        for kept in (first, second):
            one.keep(kept.peer_id, (kept.addresses()[-1],))
        await until_connected(one, first, second)
        await dial(one, busy)
        nursery.start_soon(wait_for_it, busy, one)
        for other in others:
            assert await dial(one, other) == other.peer_id
            assert await ask(one, other) == Word("?")
            assert len(one.connections()) <= FEW.connections_max
            await trio.sleep(QUIET_S / 4)
        for kept in (first, second):
            assert await ask(one, kept) == Word("?")
        gone = {event.peer for event in happened if isinstance(event, PeerDisconnected)}
        assert gone == {other.peer_id for other in others[:25]}
        with trio.fail_after(PATIENCE_S):
            await done.wait()
        assert answers == [Word("!")] * 3
        nursery.cancel_scope.cancel()


async def test_a_flood_of_strangers_leaves_room_and_the_idle_among_them_go_cleanly() -> None:
    async with one_and(16) as (one, (member, known, first, *strangers)), trio.open_nursery() as nursery:
        happened: list[PeerEvent] = []
        nursery.start_soon(follow, first, happened)
        await dial(first, one)
        await trio.sleep(QUIET_S)
        for stranger in strangers:
            await dial(stranger, one)
            await trio.sleep(QUIET_S / 4)
        assert len(one.connections()) == 6
        await trio.sleep(0.1)
        assert happened == [PeerConnected(one.peer_id), PeerDisconnected(one.peer_id)]
        assert await dial(one, known) == known.peer_id
        member.keep(one.peer_id, (one.addresses()[-1],))
        one.keep(member.peer_id, ())  # one that cannot be dialed, and comes itself
        await until_connected(one, member)
        assert await ask(one, member) == Word("?")
        assert await ask(one, known) == Word("?")
        assert len(one.connections()) <= FEW.connections_max
        nursery.cancel_scope.cancel()


async def test_a_plain_stream_that_is_open_and_unused_keeps_nobody_and_a_used_one_does() -> None:
    async with one_and(12) as (one, (idle, used, *others)), trio.open_nursery() as nursery:

        async def shout_back(_: PeerId, stream: ByteStream) -> None:
            while data := await stream.receive_some():
                await stream.send_all(data)

        async def chat(stream: ByteStream) -> None:
            while True:
                await stream.send_all(b"?")
                await stream.receive_some()
                await trio.sleep(QUIET_S / 4)

        streams: list[ByteStream] = []
        for other in (idle, used):
            other.serve_protocol(PLAIN, shout_back)
            await dial(one, other)
            stream = await one.open_protocol(other.peer_id, PLAIN, timeout_s=PATIENCE_S)
            assert not isinstance(stream, Refusal)
            streams.append(stream)
        nursery.start_soon(chat, streams[1])
        for other in others:
            await trio.sleep(QUIET_S / 2)
            assert await dial(one, other) == other.peer_id
        assert used.peer_id in connected(one)
        assert idle.peer_id not in connected(one)
        with trio.fail_after(PATIENCE_S):
            try:
                await streams[0].receive_some()
            except StreamBroken:
                nursery.cancel_scope.cancel()
            else:
                raise AssertionError("the stream stands, and its connection does not")


async def test_who_is_reached_through_this_node_stays_connected() -> None:
    async with (
        one_and(8, RelayLimits()) as (relay, others),
        open_host(identity(2), [], relays=[relay.addresses()[-1]], seed=2) as hidden,
    ):
        with trio.fail_after(PATIENCE_S):
            while await dial(others[0], hidden) != hidden.peer_id:  # noqa: ASYNC110 (until it has reserved)
                await trio.sleep(QUIET_S)
        for other in others[1:]:
            await trio.sleep(QUIET_S / 2)
            assert await dial(other, relay) == relay.peer_id  # and takes somebody's seat
        assert {hidden.peer_id, others[0].peer_id} <= connected(relay)
        assert await ask(hidden, others[0]) == Word("?")
