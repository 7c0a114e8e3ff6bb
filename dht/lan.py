"""What nodes tell each other on a LAN: the text of libp2p's mDNS (libp2p specs, discovery/mdns), `dnsaddr=<multiaddr>`.

What anybody on the LAN may send: any bytes. What it achieves: up to LAN_ADDRESSES_MAX addresses of one peer, all on a
network that this machine is on itself, so that nobody farther away is dialed because of it: no name that somebody's
server resolves, no relay, no victim on the internet. The peer has to prove its id when one of them is dialed.
"""

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Final

from shoal.transport.addresses import Endpoint, parse_endpoint
from shoal.transport.port import Address, PeerId

from .contacts import Contact

SERVICE: Final = "_p2p._udp.local."
LAN_ADDRESSES_MAX: Final = 8
TEXT_BYTES_MAX: Final = 4096
_PREFIX: Final = b"dnsaddr="
_PART_BYTES_MAX: Final = 255

IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


def lan_endpoints(addresses: Iterable[str], networks: Sequence[IpNetwork]) -> tuple[Endpoint, ...]:
    """Those of some addresses that are a peer's own and lie on one of these networks."""
    parsed = [parse_endpoint(address) for address in addresses]
    endpoints = [each for each in parsed if isinstance(each, Endpoint) and each.peer is not None]
    return tuple(dict.fromkeys(each for each in endpoints if _is_on_one(each, networks)))


def lan_text(addresses: Iterable[Address]) -> bytes:
    """The TXT record of a node: its addresses, each behind its length."""
    parts = [_PREFIX + address.encode() for address in addresses]
    fitting = [part for part in parts if len(part) <= _PART_BYTES_MAX][:LAN_ADDRESSES_MAX]
    return b"".join(bytes([len(part)]) + part for part in fitting)


def read_lan_text(text: bytes, networks: Sequence[IpNetwork]) -> Contact | None:
    """The peer that a TXT record is about: the one its first address on these networks names; None if there is none."""
    texts: list[str] = []
    at, end = 0, min(len(text), TEXT_BYTES_MAX)
    while at < end and len(texts) < LAN_ADDRESSES_MAX:
        part = text[at + 1 : at + 1 + text[at]]
        at += 1 + text[at]
        if part.startswith(_PREFIX) and part.isascii():
            texts.append(part[len(_PREFIX) :].decode("ascii"))
    endpoints = lan_endpoints(texts, networks)
    if not endpoints:
        return None
    peer = PeerId(str(endpoints[0].peer))
    return Contact(peer, tuple(endpoint.address for endpoint in endpoints if endpoint.peer == peer))


def _is_on_one(endpoint: Endpoint, networks: Sequence[IpNetwork]) -> bool:
    if not endpoint.kind.startswith("ip") or endpoint.relay is not None:
        return False
    return any(ipaddress.ip_address(endpoint.host) in network for network in networks)
