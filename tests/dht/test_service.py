"""Nodes of the DHT over the simulated network: found, lost, hostile and restarted."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import trio
import trio.testing
from trio.testing import MockClock

from shoal.dht.asking_service import (
    ASK_S_MAX,
    DIAL_S_MAX,
    DIALS_AT_ONCE_MAX,
    DIALS_BURST,
    DIALS_PER_S,
    STREAMS_PER_PEER_MAX,
    Asking,
    Messages,
)
from shoal.dht.contacts import Contact
from shoal.dht.keys import RecordKey, blob_providers_key, note_key, position_of, position_of_peer
from shoal.dht.lookup import LookupSettings
from shoal.dht.messages import MESSAGE_BYTES_MAX, PROTOCOL, KadMessage, MessageKind
from shoal.dht.peer_records import seal_addresses
from shoal.dht.renewal import DUE_AT_ONCE_MAX
from shoal.dht.routing import TableSettings
from shoal.dht.service import TELL_S_MAX, DhtService, DhtSettings, open_dht
from shoal.dht.serving_service import SILENT_S_MAX, STREAMS_SERVED_MAX
from shoal.transport.memory import MemoryTransport, Network
from shoal.transport.port import Address, ByteStream, Code, PeerId, Refusal, StreamBroken
from shoal.transport.protobuf import varint
from shoal.transport.wire import Malformed
from tests.dht.peers import identity

SETTINGS = DhtSettings(LookupSettings(wanted=8), TableSettings(bucket_size=8))
DIGEST = bytes(range(32))


def note(number: int, name: str = "note") -> RecordKey:
    key = note_key(name, identity(number).peer_id)
    assert not isinstance(key, Malformed)
    return key


class Nodes:
    """Nodes of a DHT, each of which joins through the first."""

    def __init__(self, network: Network, stack: AsyncExitStack) -> None:
        self.network, self._stack = network, stack
        self.services: dict[int, DhtService] = {}
        self.transports: dict[int, MemoryTransport] = {}

    async def add(self, number: int, settings: DhtSettings = SETTINGS, *, joins: bool = True) -> DhtService:
        transport = await self.network.open(identity(number).peer_id)
        dht = await self._stack.enter_async_context(open_dht(transport, identity(number), settings, seed=number))
        if self.services and joins:
            assert await dht.join(next(iter(self.transports.values())).addresses())
        self.services[number], self.transports[number] = dht, transport
        return dht

    def closest(self, key: bytes) -> list[int]:
        return sorted(self.services, key=lambda each: position_of_peer(identity(each).peer_id) ^ position_of(key))


@asynccontextmanager
async def nodes(count: int) -> AsyncGenerator[Nodes]:
    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
        network = Network(1)
        await nursery.start(network.run)
        made = Nodes(network, stack)
        for number in range(count):
            await made.add(number)
        yield made
        await stack.aclose()
        nursery.cancel_scope.cancel()


async def test_what_one_puts_another_gets_and_the_newest_wins(autojump_clock: MockClock) -> None:
    async with nodes(15) as made:
        assert await made.services[3].put(note(3), b"first") == 8
        record = await made.services[11].get(note(3))
        assert record is not None
        assert record.body == b"first"
        await made.services[3].put(note(3), b"second")
        record = await made.services[7].get(note(3))
        assert record is not None
        assert record.body == b"second"
        assert await made.services[7].get(note(3, "another")) is None


async def test_who_waits_for_what_is_replaced_or_withdrawn_does_not_wait_for_ever(autojump_clock: MockClock) -> None:
    async with nodes(15) as made:
        node, told = made.services[3], dict[str, int]()

        async def put(body: str) -> None:
            told[body] = await node.put(note(3), body.encode())

        async def provide(number: int) -> None:
            told[f"{number}"] = await node.provide(bytes([number]))

        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                for body in ("first", "second", "third"):
                    nursery.start_soon(put, body)
                    await trio.testing.wait_all_tasks_blocked()
                for number in range(2 * DUE_AT_ONCE_MAX):
                    nursery.start_soon(provide, number)
                await trio.testing.wait_all_tasks_blocked()
                for number in range(2 * DUE_AT_ONCE_MAX):
                    node.withdraw(bytes([number]))
        assert (told["first"], told["second"], told["third"]) == (0, 0, 8)
        assert len(told) == 3 + 2 * DUE_AT_ONCE_MAX
        record = await made.services[11].get(note(3))
        assert record is not None
        assert record.body == b"third"


async def test_who_provides_a_blob_is_found_and_connected(autojump_clock: MockClock) -> None:
    async with nodes(15) as made:
        assert await made.services[4].provide(blob_providers_key(DIGEST)) >= 7
        (holder,) = await made.services[9].providers(blob_providers_key(DIGEST))
        assert holder.peer == identity(4).peer_id
        assert await made.services[9].reach(holder)
        assert identity(4).peer_id in {each.peer for each in made.transports[9].connections()}
        assert await made.services[9].providers(blob_providers_key(bytes(32))) == ()


async def test_a_record_outlives_its_closest_holders(autojump_clock: MockClock) -> None:
    async with nodes(20) as made:
        await made.services[0].put(note(0), b"kept")
        gone = [each for each in made.closest(note(0).data) if each][:6]
        for place, number in enumerate(gone):
            made.network.close(identity(number).peer_id, silently=place % 2 == 0)
        getter = next(each for each in reversed(made.closest(note(0).data)) if each and each not in gone)
        record = await made.services[getter].get(note(0))
        assert record is not None
        assert record.body == b"kept"


async def test_a_record_is_found_past_frozen_nodes_all_closer_than_its_holders(autojump_clock: MockClock) -> None:
    def distance(number: int) -> int:
        return position_of_peer(identity(number).peer_id) ^ position_of(note(0).data)

    async with nodes(15) as made:
        await made.services[0].put(note(0), b"kept")
        closer = sorted(range(100, 2000), key=distance)[:8]
        _ = [await made.add(number) for number in closer]
        getter = await made.add(50, joins=False)
        assert await getter.join(address for number in closer for address in made.transports[number].addresses())
        for number in closer:
            made.network.close(identity(number).peer_id, silently=True)
        record = await getter.get(note(0))
        assert record is not None
        assert record.body == b"kept"


async def test_a_client_asks_and_publishes_and_stands_in_no_table(autojump_clock: MockClock) -> None:
    async with nodes(10) as made:
        client = await made.add(30, DhtSettings(SETTINGS.lookups, SETTINGS.table, is_server=False))
        assert await client.put(note(30), b"from a client") == 8
        record = await made.services[5].get(note(30))
        assert record is not None
        await trio.sleep(60)
        assert not any(identity(30).peer_id in _peers(dht) for dht in made.services.values())


async def test_a_client_that_turns_out_to_be_reachable_becomes_known_and_holds_records(
    autojump_clock: MockClock,
) -> None:
    async with nodes(6) as made:
        late = await made.add(30, DhtSettings(SETTINGS.lookups, SETTINGS.table, is_server=False))
        await trio.sleep(60)
        pong = await Asking(made.transports[0], lambda _: Address("/dns/it-dialed-us/tcp/1")).ask(
            Contact(identity(30).peer_id), KadMessage(MessageKind.PING)
        )
        assert pong == KadMessage(MessageKind.PING)  # it answers, and does not say where it listens
        late.serve(is_reached=True)
        late.serve(is_reached=True)
        await trio.sleep(10)
        known_by = [each for each, dht in made.services.items() if identity(30).peer_id in _peers(dht)]
        assert known_by == [0, 1, 2, 3, 4, 5]
        assert await made.services[2].put(note(2), b"held by all") == 6
        for number in range(6):
            made.network.close(identity(number).peer_id)
        record = await late.get(note(2))
        assert record is not None


async def test_a_server_that_turns_out_to_be_out_of_reach_says_no_more_where_it_listens(
    autojump_clock: MockClock,
) -> None:
    async with nodes(6) as made:
        ask = Asking(made.transports[0], lambda _: Address("/dns/it-dialed-us/tcp/1")).ask
        before = await ask(Contact(identity(5).peer_id), KadMessage(MessageKind.PING))
        assert isinstance(before, KadMessage)
        assert before.sender_record
        made.services[5].serve(is_reached=False)
        assert await ask(Contact(identity(5).peer_id), KadMessage(MessageKind.PING)) == KadMessage(MessageKind.PING)
        made.services[5].serve(is_reached=True)
        after = await ask(Contact(identity(5).peer_id), KadMessage(MessageKind.PING))
        assert isinstance(after, KadMessage)
        assert after.sender_record


def _peers(dht: DhtService) -> set[PeerId]:
    return {each.peer for each in dht.contacts()}


async def test_a_node_comes_back_without_any_address_while_a_peer_it_knew_is_alive(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    settings = DhtSettings(SETTINGS.lookups, SETTINGS.table, saved_at=tmp_path / "peers")
    async with nodes(10) as made:
        transport = await made.network.open(identity(30).peer_id)
        autojump_clock.autojump_threshold = 0.2  # the clock does not wait for the thread that reads the file
        async with open_dht(transport, identity(30), settings) as dht:
            autojump_clock.autojump_threshold = 0
            assert await dht.join(made.transports[0].addresses())
            known = len(dht.contacts())
        made.network.close(transport.peer_id)
        for number in range(5):
            made.network.close(identity(number).peer_id)
        autojump_clock.autojump_threshold = 0.2
        again = await made.add(30, settings, joins=False)
        autojump_clock.autojump_threshold = 0
        with trio.fail_after(30):
            while len(again.contacts()) < 5:  # noqa: ASYNC110
                await trio.sleep(0.1)
        assert known >= 8
        assert await again.put(note(30), b"back") == 5


async def test_a_file_of_peers_that_is_damaged_or_missing_is_no_obstacle(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    path = tmp_path / "peers"
    for data in (b"", b"garbage", bytes(5 * 2**20)):
        path.write_bytes(data)
        async with nodes(2) as made:
            dht = await made.add(30, DhtSettings(saved_at=path))
            assert len(dht.contacts()) == 2


async def test_one_dead_address_of_a_peer_does_not_hide_a_good_one(autojump_clock: MockClock) -> None:
    async with nodes(1) as made:
        late, peer = await made.add(1, joins=False), identity(0).peer_id
        dead = Address(f"/dns/{identity(9).peer_id}/tcp/1/p2p/{peer}")
        assert await late.join([dead, *made.transports[0].addresses()])


async def test_nobody_to_ask_is_an_answer(autojump_clock: MockClock) -> None:
    async with nodes(1) as made:
        alone = made.services[0]
        assert await alone.get(note(1)) is None
        assert await alone.providers(b"key") == ()
        stranger = identity(9).peer_id
        assert not await alone.join([Address(f"/dns/{stranger}/tcp/1/p2p/{stranger}")])
        assert await alone.put(note(0), b"kept for later") == 0
        late = await made.add(1)
        await trio.sleep(60)  # it is tried again until somebody is there
        assert await late.get(note(0)) is not None


async def test_a_peer_is_served_on_so_many_streams_only_and_garbage_ends_its_stream(autojump_clock: MockClock) -> None:
    async with nodes(1) as made:
        attacker = await made.network.open(identity(50).peer_id)
        made.network.connect(attacker.peer_id, identity(0).peer_id)
        streams = [await attacker.open_protocol(identity(0).peer_id, PROTOCOL, timeout_s=9) for _ in range(12)]
        closed = 0
        for stream in streams:
            assert not isinstance(stream, Refusal)
            with trio.move_on_after(1):
                closed += await is_over(stream)
        assert closed == len(streams) - STREAMS_SERVED_MAX
        for garbage in (b"\xff" * 4, varint(MESSAGE_BYTES_MAX + 1), varint(2) + b"\xff\xff", varint(2) + b"\x08\x63"):
            stream = streams.pop(0)
            assert not isinstance(stream, Refusal)
            await stream.send_all(garbage)
            assert await is_over(stream)


async def test_a_stream_on_which_nobody_asks_is_closed_after_a_while(autojump_clock: MockClock) -> None:
    async with nodes(1) as made:
        idle = await made.network.open(identity(50).peer_id)
        made.network.connect(idle.peer_id, identity(0).peer_id)
        stream = await idle.open_protocol(identity(0).peer_id, PROTOCOL, timeout_s=9)
        assert not isinstance(stream, Refusal)
        began = trio.current_time()
        assert await is_over(stream)
        assert abs(trio.current_time() - began - SILENT_S_MAX) < 1


async def test_a_holder_that_keeps_silent_holds_up_a_publication_for_a_moment_only(autojump_clock: MockClock) -> None:
    async with nodes(4) as made:
        mute = await made.network.open(identity(50).peer_id)

        async def serve(peer: PeerId, stream: ByteStream) -> None:
            messages = Messages(stream)
            while isinstance(question := await messages.receive(), KadMessage):
                if question.kind is MessageKind.PUT_VALUE:
                    await trio.sleep_forever()
                await messages.send(KadMessage(question.kind, question.key))

        mute.serve_protocol(PROTOCOL, serve)
        sealed = seal_addresses(identity(50), mute.addresses(), 1)
        ask = Asking(mute, lambda _: None).ask
        for number, transport in made.transports.items():
            await ask(
                Contact(transport.peer_id, transport.addresses()),
                KadMessage(MessageKind.PING, b"", None, (), (), sealed),
            )
            with trio.fail_after(9):
                while mute.peer_id not in _peers(made.services[number]):  # noqa: ASYNC110
                    await trio.sleep(0.1)
        began = trio.current_time()
        assert await made.services[1].put(note(1), b"held by the others") == 3
        assert TELL_S_MAX <= trio.current_time() - began < TELL_S_MAX + 1


async def is_over(stream: ByteStream) -> bool:
    try:
        return not await stream.receive_some()
    except StreamBroken:
        return True


@asynccontextmanager
async def asked(answer: bytes | None) -> AsyncGenerator[tuple[Asking, Contact, list[PeerId]]]:
    """Somebody who asks a peer that answers each question with these bytes, or not at all."""
    async with trio.open_nursery() as nursery:
        network = Network(1)
        await nursery.start(network.run)
        here, there = await network.open(identity(0).peer_id), await network.open(identity(1).peer_id)
        opened: list[PeerId] = []

        async def serve(peer: PeerId, stream: ByteStream) -> None:
            opened.append(peer)
            while await stream.receive_some():
                if answer is None:
                    await trio.sleep_forever()
                await stream.send_all(answer or b"")

        there.serve_protocol(PROTOCOL, serve)

        def met_at(peer: PeerId) -> Address | None:
            return next((each.address for each in here.connections() if each.peer == peer), None)

        yield Asking(here, met_at), Contact(there.peer_id, there.addresses()), opened
        nursery.cancel_scope.cancel()


async def test_questions_one_after_another_share_a_stream(autojump_clock: MockClock) -> None:
    async with asked(b"\x02\x08\x05") as (asking, contact, opened):
        for _ in range(20):
            assert await asking.ask(contact, KadMessage(MessageKind.PING)) == KadMessage(MessageKind.PING)
        assert len(opened) == 1


async def test_questions_at_once_take_a_few_streams_and_wait_for_one_another(autojump_clock: MockClock) -> None:
    async with asked(b"\x02\x08\x05") as (asking, contact, opened), trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(asking.ask, contact, KadMessage(MessageKind.PING))
    assert len(opened) == STREAMS_PER_PEER_MAX


async def test_who_does_not_answer_costs_a_bounded_time_and_who_answers_garbage_nothing(
    autojump_clock: MockClock,
) -> None:
    for answer, code in ((None, Code.DEADLINE_EXCEEDED), (b"\x02\xff\xff", Code.MALFORMED)):
        async with asked(answer) as (asking, contact, _):
            began = trio.current_time()
            refusal = await asking.ask(contact, KadMessage(MessageKind.PING))
            assert isinstance(refusal, Refusal)
            assert refusal.code is code
            assert trio.current_time() - began <= ASK_S_MAX


async def test_there_are_only_so_many_dials_whatever_peers_name(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        network = Network(1)
        await nursery.start(network.run)
        here = await network.open(identity(0).peer_id)
        asking = Asking(here, lambda _: None)
        others = [await network.open(identity(number).peer_id) for number in range(1, 2 * DIALS_BURST)]
        with trio.fail_after(60):
            async with trio.open_nursery() as asks:
                for other in others:
                    contact = Contact(other.peer_id, other.addresses())
                    asks.start_soon(asking.ask, contact, KadMessage(MessageKind.PING))
        assert DIALS_BURST <= len(here.connections()) < DIALS_BURST + ASK_S_MAX * DIALS_PER_S
        nursery.cancel_scope.cancel()


async def test_addresses_where_nobody_is_are_tried_a_few_at_a_time_and_not_for_long(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        network = Network(1)
        await nursery.start(network.run)
        here = await network.open(identity(0).peer_id)
        gone = [await network.open(identity(number).peer_id) for number in range(1, 1 + 2 * DIALS_AT_ONCE_MAX)]
        network.partition([here.peer_id], [each.peer_id for each in gone])
        asking = Asking(here, lambda _: None)
        ended_at: list[float] = []
        began = trio.current_time()

        async def ask(contact: Contact) -> None:
            assert isinstance(await asking.ask(contact, KadMessage(MessageKind.PING)), Refusal)
            ended_at.append(trio.current_time() - began)

        async with trio.open_nursery() as asks:
            for each in gone:
                asks.start_soon(ask, Contact(each.peer_id, each.addresses()))
        first, last = ended_at[:DIALS_AT_ONCE_MAX], ended_at[DIALS_AT_ONCE_MAX:]
        assert all(abs(after_s - DIAL_S_MAX) < 0.1 for after_s in first)
        assert all(abs(after_s - 2 * DIAL_S_MAX) < 0.1 for after_s in last)
        nursery.cancel_scope.cancel()
