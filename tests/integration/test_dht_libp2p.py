"""We and py-libp2p's KadDHT on one wire: each asks the other everything, over real sockets."""

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import info_from_p2p_addr
from multiaddr.multiaddr import Multiaddr

from shoal.dht.answering import Answering
from shoal.dht.contacts import Contact
from shoal.dht.held import HeldRecords
from shoal.dht.keys import blob_providers_key, note_key, position_of_peer
from shoal.dht.messages import PROTOCOL, KadMessage, MessageKind, decode_length, decode_message, encode_message
from shoal.dht.peer_records import seal_addresses
from shoal.dht.providers import Providers
from shoal.dht.records import Record, open_record, sign_record
from shoal.dht.routing import Check, RoutingTable, TableSettings
from shoal.dht.search import announce, is_taken, put
from shoal.dht.service import DhtService, open_dht
from shoal.transport.host import open_host
from shoal.transport.identity import Identity
from shoal.transport.multiaddrs import peer_bytes
from shoal.transport.port import Address, ByteStream, PeerId, Refusal, Transport
from shoal.transport.wire import Malformed, encode
from tests.dht.peers import EPOCH_S, identity

PATIENCE_S: Final = 20.0
KEY: Final = blob_providers_key(bytes(32))


def record(writer: Identity) -> Record:
    key = note_key("note", writer.peer_id)
    assert not isinstance(key, Malformed)
    return sign_record(writer, key, 1, EPOCH_S, b"body")


class Messages:
    """The messages of a stream."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream, self._data = stream, b""

    async def receive(self) -> KadMessage | None:
        """The next one; None at the end."""
        while True:
            length = decode_length(self._data)
            assert not isinstance(length, Malformed)
            if length is not None and len(self._data) >= sum(length):
                data, self._data = self._data[length[1] : sum(length)], self._data[sum(length) :]
                message = decode_message(data)
                assert isinstance(message, KadMessage)
                return message
            more = await self._stream.receive_some()
            if not more:
                return None
            self._data += more


class Ours:
    """Our cores on our host."""

    def __init__(self, host: Transport, number: int) -> None:
        self.host, self.identity = host, identity(number)
        peer = host.peer_id
        self.contact = Contact(peer, host.addresses())
        self.sender_record = seal_addresses(self.identity, self.contact.addresses, 1)
        self.table = RoutingTable(peer, TableSettings(), 1)
        self.held, self.providers = HeldRecords(position_of_peer(peer), 1), Providers(1)
        self.answering = Answering(peer, self.table, self.held, self.providers)
        host.serve_protocol(PROTOCOL, self.serve)

    async def serve(self, sender: PeerId, stream: ByteStream) -> None:
        messages = Messages(stream)
        while (question := await messages.receive()) is not None:
            met_at = next((each.address for each in self.host.connections() if each.peer == sender), None)
            answer = self.answering.answer(sender, met_at, question, 0.0, EPOCH_S)
            if isinstance(answer, Malformed):
                return
            await stream.send_all(encode_message(answer))

    async def ask(self, peer: PeerId, *questions: KadMessage) -> list[KadMessage]:
        """On one stream, one after another."""
        stream = await self.host.open_protocol(peer, PROTOCOL, timeout_s=PATIENCE_S)
        assert not isinstance(stream, Refusal)
        messages = Messages(stream)
        answers: list[KadMessage] = []
        for question in questions:
            await stream.send_all(encode_message(question))
            answer = await messages.receive()
            assert answer is not None
            answers.append(answer)
        await stream.aclose()
        return answers


@asynccontextmanager
async def libp2p_host(number: int) -> AsyncGenerator[Any]:
    host = new_host(key_pair=create_new_key_pair(identity(number).seed))
    async with host.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        yield host
        await host.close()  # else it leaves its sockets open


def loopback(host: Any, peer: PeerId) -> tuple[Address, ...]:
    """Where a host of libp2p's listens."""
    places = [str(address).partition("/p2p/")[0] for address in host.get_addrs()]
    return tuple(Address(f"{place}/p2p/{peer}") for place in places if "127.0.0.1" in place)


@asynccontextmanager
async def both() -> AsyncGenerator[tuple[Ours, KadDHT]]:
    """Connected, and in each other's routing table."""
    async with open_host(identity(1), ["/ip4/127.0.0.1/tcp/0"]) as host, libp2p_host(2) as theirs_host:
        ours, theirs = Ours(host, 1), KadDHT(theirs_host, DHTMode.SERVER)
        with trio.fail_after(PATIENCE_S):
            us = info_from_p2p_addr(Multiaddr(ours.contact.addresses[0]))
            await theirs_host.connect(us)
            await theirs.add_peer(us.peer_id, skip_server_mode_check=True)
            yield ours, theirs


async def test_libp2p_answers_all_our_questions_on_one_stream() -> None:
    async with both() as (ours, theirs):
        peer = PeerId(str(theirs.host.get_id()))
        item = record(ours.identity)
        [store] = put([Contact(peer)], item, ours.sender_record)
        [provide] = announce([Contact(peer)], KEY, ours.contact, ours.sender_record)
        questions = [
            KadMessage(MessageKind.PING),
            KadMessage(MessageKind.FIND_NODE, peer_bytes(peer), sender_record=ours.sender_record),
            store.message,
            KadMessage(MessageKind.GET_VALUE, item.key),
            provide.message,
            KadMessage(MessageKind.GET_PROVIDERS, KEY),
        ]
        pong, found, stored, value, provided, providers = await ours.ask(peer, *questions)
        assert pong.kind is MessageKind.PING
        assert [contact.peer for contact in found.closer] == [peer]
        assert is_taken(store, stored)
        assert value.value is not None
        assert open_record(item.key, value.value, EPOCH_S) == item
        assert is_taken(provide, provided)
        assert providers.providers == (ours.contact,)


async def test_we_answer_all_that_libp2p_asks() -> None:
    async with both() as (ours, theirs):
        us = ID.from_base58(ours.host.peer_id)
        item = record(identity(3))
        routing: Any = theirs.peer_routing
        values: Any = theirs.value_store
        providers: Any = theirs.provider_store
        third = Contact(identity(4).peer_id, (Address(f"/ip4/127.0.0.1/tcp/9/p2p/{identity(4).peer_id}"),))
        ours.table.answered(third, None, 0.0)
        found = await routing._query_peer_for_closest(us, b"some target")
        assert [str(each) for each in found] == [third.peer]
        assert await values._store_at_peer(us, item.key, encode(item))
        assert ours.held.get(item.key, 0.0, EPOCH_S) == item
        assert await values._get_from_peer(us, item.key) == encode(item)
        assert await providers._send_add_provider(us, KEY)
        [provider], _ = await providers._get_providers_from_peer_with_closers(us, KEY)
        assert str(provider.peer_id) == str(theirs.host.get_id())
        them = PeerId(str(theirs.host.get_id()))
        checks = [effect.contact for effect in ours.table.due(0.0) if isinstance(effect, Check)]
        assert checks == [Contact(them, loopback(theirs.host, them))]  # from the record that it sends of itself


async def test_a_whole_put_and_get_of_libp2ps_own_goes_through_us() -> None:
    async with both() as (ours, theirs):
        item = record(identity(3))
        await theirs.put_value(item.key.decode(), encode(item))
        assert ours.held.get(item.key, 0.0, EPOCH_S) == item
        theirs.value_store.remove(item.key)
        assert await theirs.get_value(item.key.decode()) == encode(item)


@asynccontextmanager
async def services() -> AsyncGenerator[tuple[DhtService, Identity, KadDHT]]:
    """As `both`, with our whole node, which has entered through theirs."""
    async with open_host(identity(1), ["/ip4/127.0.0.1/tcp/0"]) as host, libp2p_host(2) as theirs_host:
        theirs = KadDHT(theirs_host, DHTMode.SERVER)
        with trio.fail_after(PATIENCE_S):
            async with open_dht(host, identity(1)) as ours:
                assert await ours.join(loopback(theirs_host, PeerId(str(theirs_host.get_id()))))
                await theirs.add_peer(ID.from_base58(host.peer_id), skip_server_mode_check=True)
                yield ours, identity(1), theirs


async def test_what_our_node_puts_and_provides_libp2p_finds() -> None:
    async with services() as (ours, me, theirs):
        key = note_key("note", me.peer_id)
        assert not isinstance(key, Malformed)
        assert await ours.put(key, b"body") == 1
        value = await theirs.get_value(key.data.decode())
        assert value is not None
        found = open_record(key.data, value, time.time())
        assert isinstance(found, Record)
        assert found.body == b"body"
        assert await ours.provide(KEY) == 1
        providers = await theirs.find_providers(KEY.hex())
        assert me.peer_id in {str(provider.peer_id) for provider in providers}


async def test_what_libp2p_puts_and_provides_our_node_finds() -> None:
    async with services() as (ours, _, theirs):
        writer, them = identity(3), PeerId(str(theirs.host.get_id()))
        key = note_key("note", writer.peer_id)
        assert not isinstance(key, Malformed)
        item = sign_record(writer, key, 1, int(time.time()), b"body")
        await theirs.put_value(key.data.decode(), encode(item))
        assert await ours.get(key) == item
        theirs.value_store.remove(key.data)
        assert await ours.get(key) == item  # it is held here
        assert await theirs.provide(KEY.hex())
        assert [contact.peer for contact in await ours.providers(KEY)] == [them]
        assert await ours.reach((await ours.providers(KEY))[0])
        assert [contact.peer for contact in ours.contacts()] == [them]
