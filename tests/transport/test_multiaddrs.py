"""Peer ids and addresses as bytes: what libp2p's own library writes and reads."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multiaddr.multiaddr import Multiaddr

from shoal.transport.identity import Identity
from shoal.transport.multiaddrs import address_bytes, address_of_bytes, peer_bytes, peer_of_bytes
from shoal.transport.port import Address
from shoal.transport.protobuf import bytes_field, number_field, read_fields, read_varint, varint

PEER = Identity.from_seed(bytes(32)).peer_id
RELAY = Identity.from_seed(bytes([1]) * 32).peer_id
PLACES = [
    "/ip4/192.0.2.1/tcp/4001",
    "/ip6/2001:db8::1/tcp/65535",
    "/dns/example.org/tcp/1",
    "/dns4/example.org/tcp/443",
    "/dns6/example.org/tcp/443",
    f"/ip4/192.0.2.1/tcp/4001/p2p/{RELAY}/p2p-circuit",
]


@pytest.mark.parametrize("place", PLACES)
def test_an_address_has_the_bytes_that_libp2p_gives_it_and_comes_back_with_the_peer_beside_it(place: str) -> None:
    address = Address(f"{place}/p2p/{PEER}")
    data = Multiaddr(place).to_bytes()
    assert address_bytes(address) == data
    assert address_of_bytes(data, PEER) == address
    assert address_of_bytes(Multiaddr(address).to_bytes(), PEER) == address


@pytest.mark.parametrize(
    "text",
    [
        "/ip4/192.0.2.1/udp/4001/quic-v1",
        "/ip4/192.0.2.1/tcp/80/ws",
        f"/ip4/192.0.2.1/tcp/4001/p2p/{RELAY}",
        f"/ip4/192.0.2.1/tcp/4001/p2p/{PEER}/p2p-circuit",
        "/ip4/192.0.2.1",
    ],
)
def test_what_cannot_be_dialed_or_leads_elsewhere_is_no_address_of_the_peer(text: str) -> None:
    assert address_of_bytes(Multiaddr(text).to_bytes(), PEER) is None


def test_a_peer_id_has_38_bytes_and_ids_of_other_keys_are_not_read() -> None:
    assert len(peer_bytes(PEER)) == 38
    assert peer_of_bytes(peer_bytes(PEER)) == PEER
    assert peer_of_bytes(b"\x12\x20" + bytes(32)) is None


@given(st.binary(max_size=300))
def test_any_bytes_are_an_address_or_none(data: bytes) -> None:
    address = address_of_bytes(data, PEER)
    assert address is None or address_of_bytes(address_bytes(address) or b"", PEER) == address


@given(st.integers(0, 2**64 - 1), st.binary(max_size=40))
def test_a_number_and_bytes_come_back_from_their_fields(number: int, data: bytes) -> None:
    assert read_varint(varint(number), 0) == (number, len(varint(number)))
    assert read_fields(number_field(1, number) + bytes_field(300, data)) == [(1, number), (300, data)]


def test_more_fields_than_allowed_and_numbers_of_more_than_64_bits_are_refused() -> None:
    assert read_fields(number_field(1, 1) * 3, fields_max=3) is not None
    assert read_fields(number_field(1, 1) * 4, fields_max=3) is None
    assert read_varint(b"\xff" * 9 + b"\x02", 0) is None
    assert read_fields(b"\x0b") is None  # a group
