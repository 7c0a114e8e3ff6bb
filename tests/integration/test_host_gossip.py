"""Gossip over real sockets."""

from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise

import pytest
import trio

from shoal.transport.gossip import AGAIN_S, TOPIC_CHARS_MAX, message_id, seal
from shoal.transport.gossip_service import (
    CALL_S,
    OFFER,
    PUSH,
    PUSHES_MAX,
    QUEUE_MAX,
    SUBSCRIBE,
    Handover,
    Ids,
    Nothing,
    Topics,
    Wants,
)
from shoal.transport.host import open_host
from shoal.transport.identity import Identity
from shoal.transport.port import GOSSIP_BYTES_MAX, Code, Gossip, PeerId, Refusal, Transport


def identity(index: int) -> Identity:
    return Identity.from_seed(bytes([index]) * 32)


def anything(_: PeerId, data: bytes) -> bool:
    del data
    return True


@asynccontextmanager
async def line(count: int) -> AsyncGenerator[list[Transport]]:
    """Nodes of which each is connected with the next."""
    async with AsyncExitStack() as stack:
        nodes = [
            await stack.enter_async_context(open_host(identity(index + 1), ["/ip4/127.0.0.1/tcp/0"], seed=index))
            for index in range(count)
        ]
        for one, other in pairwise(nodes):
            assert await one.connect(other.addresses()[-1], timeout_s=10) == other.peer_id
        yield nodes


Valid = Callable[[PeerId, bytes], bool]


@asynccontextmanager
async def subscribed(
    nodes: list[Transport], is_valid: Valid = anything
) -> AsyncGenerator[list[trio.MemoryReceiveChannel[Gossip]]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(node.subscribe("topic", is_valid)) for node in nodes]


async def test_a_message_reaches_everybody_through_others_and_nobody_twice() -> None:
    async with line(5) as nodes, subscribed(nodes) as channels:
        for index, node in enumerate(nodes):
            assert await node.publish("topic", b"from %d" % index) is None
        with trio.fail_after(10):
            for index, channel in enumerate(channels):
                got = {await channel.receive() for _ in range(len(nodes) - 1)}
                assert got == {
                    Gossip(node.peer_id, b"from %d" % other) for other, node in enumerate(nodes) if other != index
                }
        await trio.sleep(0.2)
        for channel in channels:
            with pytest.raises(trio.WouldBlock):
                channel.receive_nowait()


async def test_the_largest_message_arrives_and_a_larger_one_is_refused() -> None:
    async with line(3) as nodes, subscribed(nodes) as channels:
        assert await nodes[0].publish("topic", bytes(GOSSIP_BYTES_MAX)) is None
        with trio.fail_after(10):
            assert await channels[2].receive() == Gossip(nodes[0].peer_id, bytes(GOSSIP_BYTES_MAX))
        refusal = await nodes[0].publish("topic", bytes(GOSSIP_BYTES_MAX + 1))
        assert isinstance(refusal, Refusal)
        assert refusal.code == Code.TOO_LARGE


async def test_what_one_node_finds_invalid_goes_no_further() -> None:
    async with line(3) as nodes, AsyncExitStack() as stack:
        is_good: Valid = lambda _, data: data == b"good"  # noqa: E731
        middle = await stack.enter_async_context(nodes[1].subscribe("topic", is_good))
        last = await stack.enter_async_context(nodes[2].subscribe("topic", anything))
        for data in (b"bad", b"good"):
            await nodes[0].publish("topic", data)
        with trio.fail_after(10):
            assert await middle.receive() == Gossip(nodes[0].peer_id, b"good")
            assert await last.receive() == Gossip(nodes[0].peer_id, b"good")


async def test_who_connects_later_hears_what_was_said_before() -> None:
    async with line(1) as (one,), open_host(identity(9), []) as late, late.subscribe("topic", anything) as channel:
        await one.publish("topic", b"early")
        await late.connect(one.addresses()[-1], timeout_s=10)
        with trio.fail_after(10):
            assert await channel.receive() == Gossip(one.peer_id, b"early")


async def test_a_subscriber_that_does_not_read_keeps_the_oldest_and_holds_up_nobody() -> None:
    async with line(3) as nodes, subscribed(nodes) as channels:
        with trio.fail_after(30):
            for index in range(QUEUE_MAX + 20):
                await nodes[0].publish("topic", b"%d" % index)
                await channels[2].receive()
        assert channels[1].statistics().current_buffer_used == QUEUE_MAX


async def test_a_topic_too_long_is_refused() -> None:
    async with line(1) as (one,):
        assert isinstance(await one.publish("t" * (TOPIC_CHARS_MAX + 1), b""), Refusal)
        with pytest.raises(ValueError, match="at most"):
            async with one.subscribe("t" * (TOPIC_CHARS_MAX + 1), anything):
                pass


async def test_a_neighbour_that_lies_gets_refusals_and_the_gossip_goes_on() -> None:
    async with line(2) as (one, two), subscribed([one, two]) as (channel, _):
        for envelope in (b"", b"junk", b"\xc0" * 100, bytes(1000)):
            answer = await two.request(one.peer_id, PUSH, Handover(envelope), timeout_s=5)
            assert isinstance(answer, Refusal)
            assert answer.code == Code.MALFORMED
        for ids in ([], [bytes(16)] * 64, [bytes(17)], [bytes(16)] * 65):
            await two.request(one.peer_id, OFFER, Ids(ids), timeout_s=5)
        for topics in ([""], ["t" * 1000], ["t"] * 10_000):
            answer = await two.request(one.peer_id, SUBSCRIBE, Topics(topics), timeout_s=5)
            assert isinstance(answer, Refusal)
        await two.publish("topic", b"the truth")
        with trio.fail_after(10):
            assert await channel.receive() == Gossip(two.peer_id, b"the truth")


class Neighbour:
    """What a peer of the test's own does with gossip: it subscribes, wants all that it is offered, and keeps what
    comes. It answers the first pushes as it is told: never (None), or with a refusal."""

    def __init__(self, transport: Transport, first: list[Refusal | None]) -> None:
        self.transport = transport
        self.came: list[bytes] = []
        self.pushed_count = 0
        self.is_subscribed = trio.Event()
        self._first = first
        transport.serve(SUBSCRIBE, self._subscribe)
        transport.serve(OFFER, lambda _, request: Wants(request.ids, []))
        transport.serve(PUSH, self._push)

    def _subscribe(self, peer: PeerId, request: Topics) -> Nothing:
        if request.topics:
            self.is_subscribed.set()
        return Nothing()

    async def _push(self, peer: PeerId, request: Handover) -> Nothing | Refusal:
        self.pushed_count += 1
        answer = self._first.pop(0) if self._first else Nothing()
        if answer is None:
            await trio.sleep_forever()
        self.came += [request.envelope] if isinstance(answer, Nothing) else []
        return answer or Nothing()


@asynccontextmanager
async def neighbour(of: Transport, first: list[Refusal | None]) -> AsyncGenerator[Neighbour]:
    async with open_host(identity(8), [], seed=8) as transport:
        there = Neighbour(transport, first)
        assert await transport.connect(of.addresses()[-1], timeout_s=10) == of.peer_id
        with trio.fail_after(10):
            await there.is_subscribed.wait()
        assert await transport.request(of.peer_id, SUBSCRIBE, Topics(["topic"]), timeout_s=10) == Nothing()
        yield there


async def test_a_push_that_is_never_answered_delays_no_other_to_anybody() -> None:
    async with (
        line(2) as (one, two),
        subscribed([one, two]) as (_, channel),
        neighbour(one, [None] * (PUSHES_MAX - 1)) as there,
    ):
        with trio.fail_after(CALL_S / 2):
            for number in range(2 * PUSHES_MAX):
                await one.publish("topic", b"%d" % number)
                assert await channel.receive() == Gossip(one.peer_id, b"%d" % number)
            while len(there.came) < PUSHES_MAX + 1:  # noqa: ASYNC110
                await trio.sleep(0.01)


async def test_a_neighbour_that_answers_no_push_gets_so_many_at_once_and_no_more() -> None:
    async with (
        line(2) as (one, two),
        subscribed([one, two]) as (_, channel),
        neighbour(one, [None] * (2 * PUSHES_MAX)) as there,
    ):
        with trio.fail_after(CALL_S / 2):
            for number in range(2 * PUSHES_MAX):
                await one.publish("topic", b"%d" % number)
                assert await channel.receive() == Gossip(one.peer_id, b"%d" % number)
            while there.pushed_count < PUSHES_MAX:  # noqa: ASYNC110
                await trio.sleep(0.01)
            await trio.sleep(0.1)
        assert there.pushed_count == PUSHES_MAX


async def test_a_push_that_a_busy_neighbour_refused_is_made_again() -> None:
    async with (
        line(1) as (one,),
        subscribed([one]),
        neighbour(one, [Refusal(Code.BUSY, "later"), Refusal(Code.REFUSED, "never")]) as there,
    ):
        await one.publish("topic", b"refused for now")
        await one.publish("topic", b"refused for ever")
        with trio.fail_after(AGAIN_S + 5):
            while not there.came:  # noqa: ASYNC110
                await trio.sleep(0.02)
        await one.publish("topic", b"the end")
        with trio.fail_after(5):
            while len(there.came) < 2:  # noqa: ASYNC110
                await trio.sleep(0.02)
        assert [data in envelope for envelope, data in zip(there.came, (b"refused for now", b"the end"), strict=True)]


async def test_a_neighbour_that_offers_first_and_never_delivers_keeps_nothing_back() -> None:
    async with (
        line(2) as (relay, victim),
        subscribed([relay, victim]) as (heard, channel),
        open_host(identity(8), [], seed=8) as liar,
        open_host(identity(9), [], seed=9) as source,
    ):
        assert await liar.connect(victim.addresses()[-1], timeout_s=10) == victim.peer_id
        assert await source.connect(relay.addresses()[-1], timeout_s=10) == relay.peer_id
        data = seal(identity(9), "topic", 1, b"news")
        offer = Ids([message_id(data)])
        answer: Wants | Refusal = Wants([], [])
        with trio.fail_after(10):
            while answer != Wants(offer.ids, []):  # until they know each other as neighbours
                answer = await liar.request(victim.peer_id, OFFER, offer, timeout_s=5)
            while not heard.statistics().current_buffer_used:
                await source.request(relay.peer_id, PUSH, Handover(data), timeout_s=5)
            assert await channel.receive() == Gossip(source.peer_id, b"news")
