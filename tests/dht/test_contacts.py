"""Which range of addresses a peer counts for."""

import pytest

from shoal.dht.contacts import Ranges, ranges_of
from shoal.transport.port import Address
from tests.dht.peers import identity

PEER, RELAY = identity(0).peer_id, identity(1).peer_id


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("/ip4/8.8.4.4/tcp/1", Ranges("8.8.4.0/24", "8.8.0.0/16")),
        ("/ip6/2a00:1450:4001:81b::200e/tcp/1", Ranges("2a00:1450:4001::/48", "2a00:1450::/32")),
        ("/ip6/::ffff:8.8.4.4/tcp/1", Ranges("8.8.4.0/24", "8.8.0.0/16")),
        (f"/ip4/8.8.4.4/tcp/1/p2p/{RELAY}/p2p-circuit", Ranges("8.8.4.0/24", "8.8.0.0/16")),
        ("/dns/Example.org/tcp/1", Ranges("example.org", "example.org")),
        ("/ip4/127.0.0.1/tcp/1", None),
        ("/ip4/192.168.1.1/tcp/1", None),
        ("/ip4/100.64.0.1/tcp/1", None),
        ("/ip6/fd00::1/tcp/1", None),
    ],
)
def test_a_peer_counts_for_the_block_it_rents_a_relayed_one_for_its_relays_and_a_neighbour_for_none(
    place: str, expected: Ranges | None
) -> None:
    assert ranges_of(Address(f"{place}/p2p/{PEER}")) == expected


def test_what_is_no_address_counts_for_no_range() -> None:
    assert ranges_of(None) is None
    assert ranges_of(Address("/unix/x")) is None
