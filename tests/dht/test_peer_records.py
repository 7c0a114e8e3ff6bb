"""Where the sender of a message listens: read by libp2p, believed of the sender alone."""

from libp2p.peer.envelope import consume_envelope

from shoal.dht.contacts import CONTACT_ADDRESSES_MAX
from shoal.dht.peer_records import RECORDS_REMEMBERED, addresses_in, seal_addresses
from shoal.transport.port import Address
from tests.dht.peers import contact, identity

ME = identity(1)
ADDRESSES = contact(1).addresses


def test_libp2p_accepts_the_record_and_reads_peer_sequence_and_addresses() -> None:
    _, record = consume_envelope(seal_addresses(ME, ADDRESSES, 7), "libp2p-peer-record")
    assert str(record.peer_id) == ME.peer_id
    assert record.seq == 7
    assert [f"{address}/p2p/{ME.peer_id}" for address in record.addrs] == list(ADDRESSES)


def test_the_addresses_come_back_and_only_so_many_of_them() -> None:
    many = [Address(f"/ip4/127.0.0.1/tcp/{port}/p2p/{ME.peer_id}") for port in range(1, 20)]
    assert addresses_in(seal_addresses(ME, many, 1), ME.peer_id) == tuple(many[:CONTACT_ADDRESSES_MAX])


def test_a_record_of_somebody_else_says_nothing_about_its_sender() -> None:
    assert addresses_in(seal_addresses(ME, ADDRESSES, 1), identity(2).peer_id) == ()
    assert addresses_in(b"", ME.peer_id) == ()
    assert addresses_in(b"\xff\xff", ME.peer_id) == ()


def test_only_so_many_records_are_remembered() -> None:
    for number in range(RECORDS_REMEMBERED + 50):
        addresses_in(number.to_bytes(2, "big"), ME.peer_id)
    assert addresses_in.cache_info().currsize == RECORDS_REMEMBERED
