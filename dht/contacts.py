"""Whom one can ask and where; and which address range a peer counts for, so that no range can be everywhere.

Ids cost nothing, addresses do: whoever rents one block of addresses must not fill a bucket, a key or an answer. A peer
counts for two ranges of the address at which it was met: a narrow one (what one customer rents: IPv4 /24, IPv6 /48) and
a wide one (what one provider has: IPv4 /16, IPv6 /32). A relayed peer counts for its relay's, since that is the address
one talks to. Private and loopback addresses are exempt: there everybody is a neighbour.

What a malicious peer may do: claim any address. So count by the address of the connection where there is one.
"""

import ipaddress
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from shoal.transport.addresses import parse_endpoint
from shoal.transport.port import Address, PeerId
from shoal.transport.wire import Malformed

CONTACT_ADDRESSES_MAX: Final = 8  # kept of one peer; more: bigger answers, longer tries of dead ones
RANGES_REMEMBERED: Final = 4096
_NARROW_BITS: Final = {4: 24, 6: 48}
_WIDE_BITS: Final = {4: 16, 6: 32}


@dataclass(frozen=True, slots=True)
class Contact:
    """A peer and where it may be reached; the addresses are claims until one of them has been dialed."""

    peer: PeerId
    addresses: tuple[Address, ...] = ()


@dataclass(frozen=True, slots=True)
class Ranges:
    """What an address counts for."""

    narrow: str
    wide: str


@lru_cache(maxsize=RANGES_REMEMBERED)
def ranges_of(address: Address | None) -> Ranges | None:
    """The ranges of an address; None if it is exempt or none is known. A DNS name is a range of its own."""
    if address is None:
        return None
    endpoint = parse_endpoint(address)
    if isinstance(endpoint, Malformed):
        return None
    if not endpoint.kind.startswith("ip"):
        return Ranges(endpoint.host.lower(), endpoint.host.lower())
    ip = ipaddress.ip_address(endpoint.host)
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if not ip.is_global:
        return None
    narrow, wide = (
        str(ipaddress.ip_network((ip, bits[ip.version]), strict=False)) for bits in (_NARROW_BITS, _WIDE_BITS)
    )
    return Ranges(narrow, wide)
