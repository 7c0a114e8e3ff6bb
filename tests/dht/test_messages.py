"""The messages of Kademlia: what py-libp2p writes is read, what is written py-libp2p reads, nothing is unbounded."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from libp2p.kad_dht.pb.kademlia_pb2 import Message as Libp2pMessage
from multiaddr.multiaddr import Multiaddr

from shoal.dht.contacts import CONTACT_ADDRESSES_MAX, Contact
from shoal.dht.messages import (
    CONTACT_BYTES_MAX,
    CONTACTS_MAX,
    LENGTH_BYTES_MAX,
    MESSAGE_BYTES_MAX,
    PROVIDERS_MAX,
    SENDER_RECORD_BYTES_MAX,
    KadMessage,
    MessageKind,
    decode_length,
    decode_message,
    encode_message,
)
from shoal.transport.multiaddrs import peer_bytes
from shoal.transport.port import Address
from shoal.transport.protobuf import bytes_field, number_field, varint
from shoal.transport.wire import Malformed
from tests.dht.peers import contact, identity


def body(message: KadMessage) -> bytes:
    """The message without its length."""
    data = encode_message(message)
    length = decode_length(data)
    assert isinstance(length, tuple)
    assert length[0] == len(data) - length[1]
    return data[length[1] :]


contacts = st.lists(st.integers(0, 50), unique=True, max_size=CONTACTS_MAX).map(
    lambda numbers: tuple(contact(number) for number in numbers)
)
messages = st.builds(
    KadMessage,
    st.sampled_from(MessageKind),
    st.binary(max_size=128),
    st.none() | st.binary(max_size=300),
    contacts,
    contacts,
    st.binary(max_size=100),
)


@given(messages)
def test_a_message_comes_back_from_its_bytes(message: KadMessage) -> None:
    if message.value is not None and not message.key:
        message = replace(message, key=b"k")
    assert decode_message(body(message)) == message


@given(messages)
def test_libp2p_reads_the_same_from_it(message: KadMessage) -> None:
    read = Libp2pMessage()
    read.ParseFromString(body(message))
    assert read.type == int(message.kind)
    assert read.key == message.key
    assert [peer.id for peer in read.closerPeers] == [peer_bytes(each.peer) for each in message.closer]
    for peer, each in zip(read.closerPeers, message.closer, strict=True):
        assert [f"{Multiaddr(data)}/p2p/{each.peer}" for data in peer.addrs] == list(each.addresses)
    if message.value is not None:
        assert (read.record.key, read.record.value) == (message.key, message.value)


def test_what_libp2p_writes_is_read_and_what_nobody_here_needs_is_skipped() -> None:
    known = contact(1)
    sent = Libp2pMessage(type=Libp2pMessage.MessageType.GET_VALUE, key=b"key", clusterLevelRaw=3)
    sent.record.key, sent.record.value = b"key", b"value"
    sent.record.timeReceived, sent.record.author, sent.record.signature = "2026-11-21T00:00:00Z", b"a", b"s"
    good = sent.closerPeers.add()
    good.id, good.signedRecord = peer_bytes(known.peer), b"record"
    good.connection = Libp2pMessage.ConnectionType.CONNECTED
    quic, tcp = f"/ip4/127.0.0.1/udp/4001/quic-v1/p2p/{known.peer}", known.addresses[0]
    good.addrs.extend([Multiaddr(quic).to_bytes(), Multiaddr(tcp).to_bytes(), b"\xff\xff"])
    rsa = sent.closerPeers.add()
    rsa.id = b"\x12\x20" + bytes(32)
    assert decode_message(sent.SerializeToString()) == KadMessage(
        MessageKind.GET_VALUE, b"key", b"value", closer=(known,)
    )


def test_a_put_is_the_kind_that_is_not_written() -> None:
    sent = Libp2pMessage(type=Libp2pMessage.MessageType.PUT_VALUE, key=b"k")
    assert sent.SerializeToString() == b"\x12\x01k"
    assert decode_message(b"\x12\x01k") == KadMessage(MessageKind.PUT_VALUE, b"k")


def test_of_one_answer_a_bounded_number_of_peers_and_of_their_addresses_is_read_each_peer_once() -> None:
    many = tuple(contact(number) for number in range(PROVIDERS_MAX + 5))
    read = decode_message(body(KadMessage(MessageKind.FIND_NODE, b"k", closer=many, providers=many)))
    assert isinstance(read, KadMessage)
    assert (len(read.closer), len(read.providers)) == (CONTACTS_MAX, PROVIDERS_MAX)
    twice = decode_message(body(KadMessage(MessageKind.FIND_NODE, b"k", closer=(many[0], many[0]))))
    assert isinstance(twice, KadMessage)
    assert twice.closer == many[:1]
    peer = identity(1).peer_id
    data = bytes_field(1, peer_bytes(peer))
    for port in range(20):
        data += bytes_field(2, Multiaddr(f"/ip4/127.0.0.1/tcp/{port}").to_bytes())
    crowded = decode_message(number_field(1, 4) + bytes_field(8, data))
    assert isinstance(crowded, KadMessage)
    assert len(crowded.closer[0].addresses) == CONTACT_ADDRESSES_MAX


def test_a_peer_described_at_too_great_length_is_skipped_and_not_remembered() -> None:
    fitting, long = (
        bytes_field(1, peer_bytes(identity(1).peer_id)) + bytes_field(4, bytes(size))
        for size in (CONTACT_BYTES_MAX - 50, CONTACT_BYTES_MAX)
    )
    read = decode_message(number_field(1, 4) + bytes_field(8, long) + bytes_field(9, fitting))
    assert isinstance(read, KadMessage)
    assert (read.closer, read.providers) == ((), (Contact(identity(1).peer_id),))


def test_a_sender_that_describes_itself_at_too_great_length_says_nothing() -> None:
    for length, read in ((SENDER_RECORD_BYTES_MAX, SENDER_RECORD_BYTES_MAX), (SENDER_RECORD_BYTES_MAX + 1, 0)):
        message = decode_message(body(KadMessage(MessageKind.PING, sender_record=bytes(length))))
        assert isinstance(message, KadMessage)
        assert len(message.sender_record) == read


def test_a_peer_whose_address_leads_to_somebody_else_is_named_without_it() -> None:
    lie = Contact(identity(1).peer_id, (Address(f"/ip4/127.0.0.1/tcp/1/p2p/{identity(2).peer_id}"),))
    data = bytes_field(1, peer_bytes(lie.peer)) + bytes_field(2, Multiaddr(lie.addresses[0]).to_bytes())
    read = decode_message(number_field(1, 4) + bytes_field(8, data))
    assert isinstance(read, KadMessage)
    assert read.closer == (Contact(lie.peer),)


def test_a_message_too_long_of_an_unknown_kind_with_a_long_key_or_another_records_key_is_refused() -> None:
    refused = [
        bytes(MESSAGE_BYTES_MAX + 1),
        number_field(1, 6),
        number_field(1, 2**63),
        bytes_field(1, b"text"),
        bytes_field(2, bytes(129)),
        number_field(2, 1),
        bytes_field(2, b"k") + bytes_field(3, bytes_field(1, b"other") + bytes_field(2, b"v")),
        bytes_field(3, b"\xff"),
        number_field(1, 4) * 300,
        b"\xff",
    ]
    for data in refused:
        assert isinstance(decode_message(data), Malformed), data[:20]


def test_a_length_is_read_as_soon_as_it_is_there_and_refused_as_soon_as_it_is_too_great() -> None:
    assert decode_length(b"") is None
    assert decode_length(b"\x80\x80") is None
    assert decode_length(varint(300) + b"rest") == (300, 2)
    assert decode_length(varint(MESSAGE_BYTES_MAX)) == (MESSAGE_BYTES_MAX, LENGTH_BYTES_MAX)
    assert isinstance(decode_length(varint(MESSAGE_BYTES_MAX + 1)), Malformed)
    assert isinstance(decode_length(b"\x80" * LENGTH_BYTES_MAX), Malformed)
