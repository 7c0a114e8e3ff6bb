"""Peers for the tests of discovery."""

from shoal.dht.contacts import Contact
from shoal.transport.identity import Identity
from shoal.transport.port import Address

EPOCH_S = 1_800_000_000


def identity(number: int) -> Identity:
    return Identity.from_seed(number.to_bytes(32, "big"))


def contact(number: int, host: str = "127.0.0.1") -> Contact:
    """A peer that listens at `host`."""
    peer = identity(number).peer_id
    return Contact(peer, (Address(f"/ip4/{host}/tcp/4001/p2p/{peer}"),))
