"""What a node takes itself for in the DHT before anybody has said anything."""

import pytest

from shoal.node.discovery import is_open_to_all
from shoal.transport.port import Address


@pytest.mark.parametrize(
    ("announced", "address", "expected"),
    [
        ((), "/ip4/8.8.8.8/tcp/1", True),
        ((), "/ip4/192.168.1.2/tcp/1", False),
        ((), "/ip6/2a00::1/tcp/1", False),  # behind most home routers nobody reaches it
        (("/ip6/2a00::1/tcp/1",), "/ip6/2a00::1/tcp/1", True),
    ],
)
def test_only_a_public_ipv4_address_or_its_owners_word_makes_a_node_open_to_all(
    announced: tuple[str, ...], address: str, expected: bool
) -> None:
    assert is_open_to_all(announced, [Address(address)]) is expected
