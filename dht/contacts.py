"""Whom one can ask and where; and which address range a peer counts for, so that no range can be everywhere.

Ids cost nothing, addresses do: whoever rents one block of addresses must not fill a bucket, a key or an answer. A peer
counts for two ranges of the address at which it was met: a narrow one (what one customer rents: IPv4 /24, IPv6 /48) and
a wide one (what one provider has: IPv4 /16, IPv6 /32). A relayed peer counts for its relay's, since that is the address
one talks to. Private and loopback addresses are exempt: there everybody is a neighbour.

What a malicious peer may do: claim any address. So count by the address of the connection where there is one.
"""

from dataclasses import dataclass
from typing import Final

from shoal.transport.addresses import Ranges, ranges_of
from shoal.transport.port import Address, PeerId

__all__ = ["CONTACT_ADDRESSES_MAX", "Contact", "Ranges", "ranges_of"]

CONTACT_ADDRESSES_MAX: Final = 8  # kept of one peer; more: bigger answers, longer tries of dead ones


@dataclass(frozen=True, slots=True)
class Contact:
    """A peer and where it may be reached; the addresses are claims until one of them has been dialed."""

    peer: PeerId
    addresses: tuple[Address, ...] = ()
