"""The text by which neighbours find each other."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.dht.contacts import Contact
from shoal.dht.lan import LAN_ADDRESSES_MAX, TEXT_BYTES_MAX, lan_endpoints, lan_text, read_lan_text
from shoal.transport.port import Address
from tests.dht.peers import identity

PEER, OTHER = identity(1).peer_id, identity(2).peer_id
LAN = (ipaddress.ip_network("192.168.1.0/24"), ipaddress.ip_network("2001:db8::/64"))


def at(place: str) -> Address:
    return Address(f"{place}/tcp/4001/p2p/{PEER}")


ADDRESSES = tuple(at(f"/ip4/192.168.1.{number}") for number in range(1, 20))


def test_what_is_announced_is_read_up_to_a_bound() -> None:
    assert read_lan_text(lan_text(ADDRESSES[:3]), LAN) == Contact(PEER, ADDRESSES[:3])
    assert read_lan_text(lan_text(ADDRESSES), LAN) == Contact(PEER, ADDRESSES[:LAN_ADDRESSES_MAX])
    whole = b"".join(lan_text([address]) for address in ADDRESSES)  # as a peer may send it that keeps to no bound
    assert read_lan_text(whole, LAN) == Contact(PEER, ADDRESSES[:LAN_ADDRESSES_MAX])


def test_what_stands_behind_the_bound_of_a_text_is_not_read() -> None:
    padding = b"\xff" + bytes(255)
    assert read_lan_text(padding * 15 + lan_text(ADDRESSES[:1]), LAN) == Contact(PEER, ADDRESSES[:1])
    assert read_lan_text(padding * (TEXT_BYTES_MAX // 256) + lan_text(ADDRESSES[:1]), LAN) is None


@pytest.mark.parametrize(
    "elsewhere",
    [
        at("/ip4/8.8.8.8"),  # a victim
        at("/ip4/192.168.2.1"),  # the network behind another card
        at("/ip4/127.0.0.1"),
        at("/ip6/2001:db8:0:1::1"),
        at("/dns4/example.org"),
        at("/dns/192.168.1.1"),
        Address(f"/ip4/192.168.1.1/tcp/1/p2p/{OTHER}/p2p-circuit/p2p/{PEER}"),
        Address("/ip4/192.168.1.1/tcp/1"),
    ],
)
def test_only_what_is_on_a_network_of_this_machine_is_announced_or_dialed(elsewhere: Address) -> None:
    assert lan_endpoints([elsewhere], LAN) == ()
    assert read_lan_text(lan_text([elsewhere]), LAN) is None
    assert read_lan_text(lan_text([elsewhere, ADDRESSES[0]]), LAN) == Contact(PEER, ADDRESSES[:1])


def test_a_text_is_about_one_peer_and_other_entries_are_skipped() -> None:
    of_other = Address(f"/ip4/192.168.1.9/tcp/4001/p2p/{OTHER}")
    mixed = b"\x03a=b" + lan_text([ADDRESSES[0], of_other, at("/ip6/2001:db8::1")])
    assert read_lan_text(mixed, LAN) == Contact(PEER, (ADDRESSES[0], at("/ip6/2001:db8::1")))


@given(st.binary(max_size=600))
def test_any_bytes_are_a_peer_or_nothing(data: bytes) -> None:
    for text in (data, lan_text(ADDRESSES[:2]) + data, data + lan_text(ADDRESSES[:2])):
        contact = read_lan_text(text, LAN)
        assert contact is None or 0 < len(contact.addresses) <= LAN_ADDRESSES_MAX
