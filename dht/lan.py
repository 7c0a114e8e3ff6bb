"""What nodes tell each other on a LAN: the text of libp2p's mDNS (libp2p specs, discovery/mdns), `dnsaddr=<multiaddr>`.

What anybody on the LAN may send: any bytes. What it achieves: up to LAN_ADDRESSES_MAX addresses of one peer, which has
to prove its id when one of them is dialed.
"""

from collections.abc import Iterable
from typing import Final

from shoal.transport.addresses import parse_endpoint
from shoal.transport.port import Address, PeerId
from shoal.transport.wire import Malformed

from .contacts import Contact

SERVICE: Final = "_p2p._udp.local."
LAN_ADDRESSES_MAX: Final = 8
TEXT_BYTES_MAX: Final = 4096
_PREFIX: Final = b"dnsaddr="
_PART_BYTES_MAX: Final = 255


def lan_text(addresses: Iterable[Address]) -> bytes:
    """The TXT record of a node: its direct addresses, each behind its length."""
    parts = [_PREFIX + address.encode() for address in addresses if "/p2p-circuit" not in address]
    fitting = [part for part in parts if len(part) <= _PART_BYTES_MAX][:LAN_ADDRESSES_MAX]
    return b"".join(bytes([len(part)]) + part for part in fitting)


def read_lan_text(text: bytes) -> Contact | None:
    """The peer that a TXT record is about: the one its first readable address names; None if there is none."""
    peer: PeerId | None = None
    addresses: list[Address] = []
    at, end = 0, min(len(text), TEXT_BYTES_MAX)
    while at < end and len(addresses) < LAN_ADDRESSES_MAX:
        part = text[at + 1 : at + 1 + text[at]]
        at += 1 + text[at]
        if not part.startswith(_PREFIX) or not part.isascii():
            continue
        endpoint = parse_endpoint(part[len(_PREFIX) :].decode("ascii"))
        if isinstance(endpoint, Malformed) or endpoint.peer is None or endpoint.peer != (peer or endpoint.peer):
            continue
        peer = endpoint.peer
        addresses.append(endpoint.address)
    return None if peer is None else Contact(peer, tuple(dict.fromkeys(addresses)))
