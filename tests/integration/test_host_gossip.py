"""Gossip over real sockets."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from itertools import pairwise

import pytest
import trio

from shoal.transport.gossip import AGAIN_S, TOPIC_CHARS_MAX, message_id
from shoal.transport.gossip_service import (
    CALL_S,
    OFFER,
    PUSH,
    PUSHES_MAX,
    SUBSCRIBE,
    Handover,
    Ids,
    Nothing,
    Topics,
    Wants,
)
from shoal.transport.host import open_host
from shoal.transport.identity import Identity
from shoal.transport.port import GOSSIP_BYTES_MAX, Code, PeerId, Refusal, Transport
from tests.transport.inbox import Inbox


def identity(index: int) -> Identity:
    return Identity.from_seed(bytes([index]) * 32)


@asynccontextmanager
async def line(count: int) -> AsyncGenerator[list[Transport]]:
    """Nodes of which each is connected with the next."""
    async with AsyncExitStack() as stack:
        nodes: list[Transport] = [
            await stack.enter_async_context(open_host(identity(index + 1), ["/ip4/127.0.0.1/tcp/0"], seed=index))
            for index in range(count)
        ]
        for one, other in pairwise(nodes):
            assert await one.connect(other.addresses()[-1], timeout_s=10) == other.peer_id
        yield nodes


@asynccontextmanager
async def subscribed(nodes: list[Transport]) -> AsyncGenerator[list[Inbox]]:
    with ExitStack() as stack:
        inboxes = [Inbox() for _ in nodes]
        for node, inbox in zip(nodes, inboxes, strict=True):
            stack.enter_context(node.subscribe("topic", inbox.hear))
        yield inboxes


async def test_a_message_reaches_everybody_through_others_and_nobody_twice() -> None:
    async with line(5) as nodes, subscribed(nodes) as inboxes:
        for index, node in enumerate(nodes):
            assert node.publish("topic", b"from %d" % index) is None
        with trio.fail_after(10):
            for index, inbox in enumerate(inboxes):
                got = {await inbox.next() for _ in range(len(nodes) - 1)}
                assert got == {  # the neighbour on the side of its source handed it over
                    (nodes[index + (1 if other > index else -1)].peer_id, b"from %d" % other)
                    for other in range(len(nodes))
                    if other != index
                }
        await trio.sleep(0.2)
        assert not any(inbox.count() for inbox in inboxes)


async def test_the_largest_message_arrives_and_a_larger_one_is_refused() -> None:
    async with line(3) as nodes, subscribed(nodes) as inboxes:
        assert nodes[0].publish("topic", bytes(GOSSIP_BYTES_MAX)) is None
        with trio.fail_after(10):
            assert await inboxes[2].next() == (nodes[1].peer_id, bytes(GOSSIP_BYTES_MAX))
        refusal = nodes[0].publish("topic", bytes(GOSSIP_BYTES_MAX + 1))
        assert isinstance(refusal, Refusal)
        assert refusal.code == Code.TOO_LARGE
        too_large = Handover("topic", bytes(GOSSIP_BYTES_MAX + 1))
        assert isinstance(await nodes[0].request(nodes[1].peer_id, PUSH, too_large, timeout_s=5), Refusal)


async def test_what_one_node_finds_invalid_goes_no_further() -> None:
    heard: list[bytes] = []

    def hear(_: PeerId, data: bytes) -> bool:
        heard.append(data)
        return True

    async with line(3) as nodes, subscribed(nodes[:2]) as (_, middle):
        with nodes[2].subscribe("topic", hear):
            for data in (b"bad", b"good"):
                nodes[0].publish("topic", data)
            with trio.fail_after(10):
                assert await middle.next() == (nodes[0].peer_id, b"good")
                while not heard:  # noqa: ASYNC110
                    await trio.sleep(0.01)
            await trio.sleep(0.1)
    assert heard == [b"good"]


async def test_who_connects_later_hears_what_was_said_before() -> None:
    async with line(1) as (one,), open_host(identity(9), []) as late, subscribed([late]) as (inbox,):
        one.publish("topic", b"early")
        await late.connect(one.addresses()[-1], timeout_s=10)
        with trio.fail_after(10):
            assert await inbox.next() == (one.peer_id, b"early")


async def test_a_topic_too_long_is_refused() -> None:
    async with line(1) as (one,):
        assert isinstance(one.publish("t" * (TOPIC_CHARS_MAX + 1), b""), Refusal)
        with pytest.raises(ValueError, match="at most"), one.subscribe("t" * (TOPIC_CHARS_MAX + 1), Inbox().hear):
            pass


async def test_a_neighbour_that_lies_gets_refusals_and_the_gossip_goes_on() -> None:
    async with line(2) as (one, two), subscribed([one, two]) as (inbox, _):
        for topic, data in (("", b""), ("t" * 1000, b""), ("topic", b"bad"), ("another", b"junk")):
            answer = await two.request(one.peer_id, PUSH, Handover(topic, data), timeout_s=5)
            assert isinstance(answer, Nothing) == (topic in ("topic", "another"))
        for ids in ([], [bytes(16)] * 64, [bytes(17)], [bytes(16)] * 65):
            await two.request(one.peer_id, OFFER, Ids(ids), timeout_s=5)
        for topics in ([""], ["t" * 1000], ["t"] * 10_000):
            answer = await two.request(one.peer_id, SUBSCRIBE, Topics(topics), timeout_s=5)
            assert isinstance(answer, Refusal)
        two.publish("topic", b"the truth")
        with trio.fail_after(10):
            assert await inbox.next() == (two.peer_id, b"the truth")


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
        self.came += [request.data] if isinstance(answer, Nothing) else []
        return answer or Nothing()


@asynccontextmanager
async def neighbour(of: Transport, first: list[Refusal | None]) -> AsyncGenerator[Neighbour]:
    async with open_host(identity(8), [], seed=8) as transport:
        there = Neighbour(transport, first)
        with transport.subscribe("topic", Inbox().hear):  # the host says so itself, and nothing else after it
            assert await transport.connect(of.addresses()[-1], timeout_s=10) == of.peer_id
            with trio.fail_after(10):
                await there.is_subscribed.wait()
            yield there


async def test_a_push_that_is_never_answered_delays_no_other_to_anybody() -> None:
    async with (
        line(2) as (one, two),
        subscribed([one, two]) as (_, inbox),
        neighbour(one, [None] * (PUSHES_MAX - 1)) as there,
    ):
        with trio.fail_after(CALL_S / 2):
            for number in range(2 * PUSHES_MAX):
                one.publish("topic", b"%d" % number)
                assert await inbox.next() == (one.peer_id, b"%d" % number)
            while len(there.came) < PUSHES_MAX + 1:  # noqa: ASYNC110
                await trio.sleep(0.01)


async def test_a_neighbour_that_answers_no_push_gets_so_many_at_once_and_no_more() -> None:
    async with (
        line(2) as (one, two),
        subscribed([one, two]) as (_, inbox),
        neighbour(one, [None] * (2 * PUSHES_MAX)) as there,
    ):
        with trio.fail_after(CALL_S / 2):
            for number in range(2 * PUSHES_MAX):
                one.publish("topic", b"%d" % number)
                assert await inbox.next() == (one.peer_id, b"%d" % number)
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
        one.publish("topic", b"refused for now")
        with trio.fail_after(5):
            while not there.pushed_count:  # noqa: ASYNC110
                await trio.sleep(0.01)
        one.publish("topic", b"refused for ever")
        with trio.fail_after(AGAIN_S + 5):
            while not there.came:  # noqa: ASYNC110
                await trio.sleep(0.02)
        one.publish("topic", b"the end")
        with trio.fail_after(5):
            while len(there.came) < 2:  # noqa: ASYNC110
                await trio.sleep(0.02)
        assert there.came == [b"refused for now", b"the end"]


async def test_a_neighbour_that_offers_first_and_never_delivers_keeps_nothing_back() -> None:
    async with (
        line(2) as (relay, victim),
        subscribed([relay, victim]) as (heard, inbox),
        open_host(identity(8), [], seed=8) as liar,
        open_host(identity(9), [], seed=9) as source,
    ):
        assert await liar.connect(victim.addresses()[-1], timeout_s=10) == victim.peer_id
        assert await source.connect(relay.addresses()[-1], timeout_s=10) == relay.peer_id
        offer = Ids([message_id("topic", b"news")])
        answer: Wants | Refusal = Wants([], [])
        with trio.fail_after(10):
            while answer != Wants(offer.ids, []):  # until they know each other as neighbours
                answer = await liar.request(victim.peer_id, OFFER, offer, timeout_s=5)
            while not heard.count():
                await source.request(relay.peer_id, PUSH, Handover("topic", b"news"), timeout_s=5)
            assert await inbox.next() == (relay.peer_id, b"news")
