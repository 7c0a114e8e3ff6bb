"""What is dialed of an address that a stranger named: of a DNS name, those of its IP addresses that are public.

What a malicious peer may name: any name, whose server is its own and answers anything, slowly. What it cannot do: have
nodes dial what stands behind their owners' routers (`hearsay`), which a name could hide; or keep busy more than
NAMES_AT_ONCE_MAX threads, which no one else waits for. Names that the owner gives are dialed as they are.
"""

import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

import trio

from shoal.transport.addresses import Endpoint, parse_endpoint, ranges_of
from shoal.transport.port import Address

NAMES_AT_ONCE_MAX: Final = 4  # threads: a name server that keeps silent holds one for many seconds
PLACES_MAX: Final = 4  # of one name
_FAMILIES: Final = {"dns": socket.AF_UNSPEC, "dns4": socket.AF_INET, "dns6": socket.AF_INET6}


Look = Callable[[bytes, int, socket.AddressFamily, socket.SocketKind], Sequence[tuple[Any, ...]]]


class Names:
    """Looks names up, a few at a time.

    Args:
        look: as `socket.getaddrinfo`.
    """

    def __init__(self, look: Look = socket.getaddrinfo) -> None:
        self._look = look
        self._threads = trio.CapacityLimiter(NAMES_AT_ONCE_MAX)

    async def places(self, address: Address) -> tuple[Address, ...]:
        """What to dial, of an IP address or a name; nothing if the name has no public address."""
        endpoint = parse_endpoint(address)
        if not isinstance(endpoint, Endpoint):
            return ()
        # A peer's id is no name of the Internet's: so a simulated network calls its nodes.
        if endpoint.kind not in _FAMILIES or endpoint.host == endpoint.peer:
            return (address,)
        host, family = endpoint.host.encode("ascii"), _FAMILIES[endpoint.kind]
        look = partial(self._look, host, endpoint.port, family, socket.SOCK_STREAM)
        try:
            found = await trio.to_thread.run_sync(look, abandon_on_cancel=True, limiter=self._threads)
        except OSError:
            return ()
        ips = dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found)
        places = [replace(endpoint, kind="ip6" if ":" in ip else "ip4", host=ip).address for ip in ips]
        return tuple(place for place in places if ranges_of(place) is not None)[:PLACES_MAX]
