"""The text by which neighbours find each other."""

from hypothesis import given
from hypothesis import strategies as st

from shoal.dht.contacts import Contact
from shoal.dht.lan import LAN_ADDRESSES_MAX, lan_text, read_lan_text
from shoal.transport.port import Address
from tests.dht.peers import identity

PEER, OTHER = identity(1).peer_id, identity(2).peer_id
ADDRESSES = tuple(Address(f"/ip4/192.168.1.{number}/tcp/4001/p2p/{PEER}") for number in range(1, 20))


def test_what_is_announced_is_read_up_to_a_bound() -> None:
    assert read_lan_text(lan_text(ADDRESSES[:3])) == Contact(PEER, ADDRESSES[:3])
    assert read_lan_text(lan_text(ADDRESSES)) == Contact(PEER, ADDRESSES[:LAN_ADDRESSES_MAX])


def test_relayed_addresses_stay_off_the_lan() -> None:
    relayed = Address(f"/ip4/192.0.2.1/tcp/1/p2p/{OTHER}/p2p-circuit/p2p/{PEER}")
    assert lan_text([relayed]) == b""


def test_a_text_is_about_one_peer_and_other_entries_are_skipped() -> None:
    of_other = Address(f"/ip4/192.168.1.9/tcp/4001/p2p/{OTHER}")
    mixed = b"\x03a=b" + lan_text([ADDRESSES[0], of_other])
    assert read_lan_text(mixed) == Contact(PEER, ADDRESSES[:1])


@given(st.binary(max_size=600))
def test_any_bytes_are_a_peer_or_nothing(data: bytes) -> None:
    for text in (data, lan_text(ADDRESSES[:2]) + data, data + lan_text(ADDRESSES[:2])):
        contact = read_lan_text(text)
        assert contact is None or 0 < len(contact.addresses) <= LAN_ADDRESSES_MAX
