"""Several connections between the same two nodes, over real sockets: calls move to the best one and none is lost."""

import random
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio

from shoal.transport.addresses import Endpoint, parse_endpoint
from shoal.transport.books_service import How
from shoal.transport.host import Host, open_host
from shoal.transport.identity import Identity
from shoal.transport.limits import Limits
from shoal.transport.port import Address, Call, PeerId, Refusal, Streaming, Unary
from shoal.transport.relay import RelayLimits
from shoal.transport.tcp_service import dial
from shoal.transport.wire import Message

PATIENCE_S = 30.0
LOOPBACK = "/ip4/127.0.0.1/tcp/0"


class Word(Message, frozen=True):
    number: int
    data: bytes = b""


ECHO = Unary("/test/1/echo", Word, Word, 2**20, 2**20)
COUNT = Streaming("/test/1/count", Word, Word, 2**20, 2**20)
SMALL, GREAT = sorted((Identity.from_seed(bytes([index]) * 32) for index in (7, 8)), key=lambda each: each.peer_id)


@asynccontextmanager
async def node(identity: Identity, limits: Limits | None = None) -> AsyncGenerator[Host]:
    async with open_host(identity, [LOOPBACK], limits, seed=1) as host:
        yield host


def endpoint_of(host: Host) -> Endpoint:
    (address,) = host.addresses()
    endpoint = parse_endpoint(address)
    assert isinstance(endpoint, Endpoint)
    return endpoint


async def connect_beside(one: Host, endpoint: Endpoint, peer: PeerId) -> None:
    """One more direct connection."""
    stream = await dial(endpoint)
    answer = await one._connections.adopt(stream, peer, How.DIALED, is_initiator=True)  # pyright: ignore
    assert answer == peer


def streams_of(host: Host, peer: PeerId) -> list[int]:
    """How many streams each connection has, the oldest first."""
    entries = host._connections._books.standing(peer)  # pyright: ignore
    return [entry.established.stream_count for entry in entries]


async def until(is_so: object) -> None:
    assert callable(is_so)
    with trio.fail_after(PATIENCE_S):
        while not is_so():  # noqa: ASYNC110
            await trio.sleep(0.01)


async def test_requests_and_streaming_calls_under_load_outlast_moves_and_none_is_doubled() -> None:
    served: Counter[int] = Counter()

    async def echo(_: PeerId, word: Word) -> Word | Refusal:
        served[word.number] += 1
        await trio.sleep(random.Random(word.number).random() / 10)
        return word

    async def count(_: PeerId, call: Call[Word, Word]) -> Refusal | None:
        while isinstance(word := await call.receive(), Word):
            served[word.number] += 1
            await call.send(word)
        return word

    async with node(SMALL) as one, node(GREAT) as other:
        for host in (one, other):
            host.serve(ECHO, echo)
            host.serve_stream(COUNT, count)
        assert not isinstance(await one.connect(other.addresses()[0], timeout_s=5), Refusal)
        pairs = ((one, other.peer_id), (other, one.peer_id))
        await until(lambda: all(streams_of(host, peer) for host, peer in pairs))
        numbers = iter(range(1_000_000))
        is_over = False
        asked = 0

        async def ask(host: Host, peer: PeerId) -> None:
            nonlocal asked
            while not is_over:
                word = Word(next(numbers), b"x" * 20_000)
                assert await host.request(peer, ECHO, word, timeout_s=20) == word
                asked += 1

        async def converse(host: Host, peer: PeerId) -> None:
            nonlocal asked
            while not is_over:
                async with host.stream(peer, COUNT, timeout_s=20) as call:
                    words = [Word(next(numbers), b"y" * 5_000) for _ in range(200)]
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(send_all, call, words)
                        for word in words:
                            assert await call.receive() == word
                            asked += 1
                    assert await call.receive() is None

        async def send_all(call: Call[Word, Word], words: list[Word]) -> None:
            for word in words:
                assert await call.send(word) is None
                await trio.lowlevel.checkpoint()
            await call.finish()

        async with trio.open_nursery() as nursery:
            for host, peer in pairs:
                for _ in range(8):
                    nursery.start_soon(ask, host, peer)
                nursery.start_soon(converse, host, peer)
            for dialer, target in ((one, other), (other, one)):
                await trio.sleep(0.7)
                await connect_beside(dialer, endpoint_of(target), target.peer_id)
            await trio.sleep(1.5)
            is_over = True
        assert asked > 500
        assert len(served) == asked
        assert set(served.values()) == {1}
        # All that is begun now goes by the newest.
        for host, peer in pairs:
            assert await host.request(peer, ECHO, Word(next(numbers)), timeout_s=5)
        await until(lambda: all(streams_of(host, peer)[:-1] == [0, 0] for host, peer in pairs))


async def test_callers_that_leave_while_their_calls_move_do_no_harm() -> None:
    async def slow(_: PeerId, word: Word) -> Word | Refusal:
        await trio.sleep(0.2)
        return word

    async with node(SMALL) as one, node(GREAT) as other:
        other.serve(ECHO, slow)
        assert not isinstance(await one.connect(other.addresses()[0], timeout_s=5), Refusal)

        async def leave(after_s: float) -> None:
            with trio.move_on_after(after_s):
                await one.request(other.peer_id, ECHO, Word(1), timeout_s=20)

        async with trio.open_nursery() as nursery:
            for hundredth in range(60):
                nursery.start_soon(leave, hundredth / 100)
            await trio.sleep(0.1)
            await connect_beside(one, endpoint_of(other), other.peer_id)
        assert await one.request(other.peer_id, ECHO, Word(2), timeout_s=5) == Word(2)
        await until(lambda: streams_of(one, other.peer_id)[0] == 0)


async def test_a_relayed_connection_beside_a_direct_one_is_closed_and_its_circuit_freed() -> None:
    async with (
        open_host(Identity.from_seed(bytes([9]) * 32), [LOOPBACK], relay=RelayLimits(), seed=1) as relay,
        open_host(SMALL, [LOOPBACK], relays=[relay.addresses()[0]], seed=1) as small,
        open_host(GREAT, [LOOPBACK], relays=[relay.addresses()[0]], seed=1) as great,
    ):
        one, other = small, great
        for host in (one, other):
            host.serve(ECHO, lambda _, word: word)
        circuit = Address(f"{relay.addresses()[0]}/p2p-circuit/p2p/{other.peer_id}")
        with trio.fail_after(PATIENCE_S):
            while isinstance(await one.connect(circuit, timeout_s=5), Refusal):  # noqa: ASYNC110
                await trio.sleep(0.05)
        pairs = ((one, other.peer_id), (other, one.peer_id))
        for host, peer in pairs:
            assert await host.request(peer, ECHO, Word(1), timeout_s=5) == Word(1)
            (connection,) = [each for each in host.connections() if each.peer == peer]
            assert connection.is_relayed
        await connect_beside(one, endpoint_of_first(other), other.peer_id)
        await until(lambda: all(len(streams_of(host, peer)) == 1 for host, peer in pairs))
        for host, peer in pairs:
            assert await host.request(peer, ECHO, Word(2), timeout_s=5) == Word(2)
            (connection,) = [each for each in host.connections() if each.peer == peer]
            assert not connection.is_relayed
        books = relay._relay._relay  # pyright: ignore
        assert books is not None
        await until(lambda: books.circuit_count == 0)


def endpoint_of_first(host: Host) -> Endpoint:
    endpoints = [parse_endpoint(each) for each in host.addresses() if "p2p-circuit" not in each]
    assert isinstance(endpoints[0], Endpoint)
    return endpoints[0]


class Blackhole:
    """Passes bytes on between a caller and a node until it swallows them, and says nothing of it."""

    def __init__(self, target: Endpoint) -> None:
        self._target = target
        self.swallows = False

    async def run(self, *, task_status: trio.TaskStatus[Endpoint]) -> None:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener.socket.getsockname()[1]
        task_status.started(Endpoint("ip4", "127.0.0.1", port))
        await trio.serve_listeners(self._carry_both, [listener])

    async def _carry_both(self, stream: trio.SocketStream) -> None:
        async with await dial(self._target) as onward, trio.open_nursery() as nursery:
            nursery.start_soon(self._carry, stream, onward)
            nursery.start_soon(self._carry, onward, stream)

    async def _carry(self, source: trio.SocketStream, sink: trio.SocketStream) -> None:
        async for data in source:
            if not self.swallows:
                await sink.send_all(data)
        await trio.sleep_forever()


async def test_a_dead_connection_is_found_within_three_seconds_after_a_new_one_came() -> None:
    async with node(SMALL) as one, node(GREAT) as other, trio.open_nursery() as nursery:
        other.serve(ECHO, lambda _, word: word)
        way = Blackhole(endpoint_of(other))
        place = await nursery.start(way.run)
        assert not isinstance(await one.connect(Address(f"{place.address}/p2p/{other.peer_id}"), timeout_s=5), Refusal)
        assert await one.request(other.peer_id, ECHO, Word(1), timeout_s=5) == Word(1)
        way.swallows = True
        await connect_beside(one, endpoint_of(other), other.peer_id)
        began = trio.current_time()
        assert await one.request(other.peer_id, ECHO, Word(2), timeout_s=1) == Word(2)  # by the new one, at once
        await until(lambda: len(streams_of(one, other.peer_id)) == 1)
        await until(lambda: len(streams_of(other, one.peer_id)) == 1)
        assert trio.current_time() - began < 3.0
        assert await one.request(other.peer_id, ECHO, Word(3), timeout_s=1) == Word(3)
        nursery.cancel_scope.cancel()
