"""Opens the socket of a connection that this node makes, or says what is wrong with the address."""

import errno
import socket
from typing import Final, cast

from .addresses import Endpoint, parse_endpoint
from .port import Address, Code, PeerId, Undialed, Why
from .tcp_service import Counter, Socket, dial
from .wire import Malformed

_WHY: Final = {
    errno.ECONNREFUSED: Why.REFUSED,
    errno.ECONNRESET: Why.REFUSED,
    errno.ETIMEDOUT: Why.TIMED_OUT,
    errno.ENETUNREACH: Why.NO_ROUTE,
    errno.EHOSTUNREACH: Why.NO_ROUTE,
    errno.ENETDOWN: Why.NO_ROUTE,
    errno.EHOSTDOWN: Why.NO_ROUTE,
    errno.EADDRNOTAVAIL: Why.NO_ROUTE,
    errno.EACCES: Why.REFUSED,
    errno.EPERM: Why.REFUSED,  # by a firewall of this machine
}


def undialed(address: Address, why: Why, reason: str = "") -> Undialed:
    """In words for people."""
    code = Code.BUSY if why is Why.NO_SEAT else Code.UNREACHABLE
    return Undialed(code, f"no connection to {address}: {reason or why.value}", address, why)


def timed_out(address: Address, seconds: float) -> Undialed:
    return undialed(address, Why.TIMED_OUT, f"nobody answered within {seconds:g} s")


def understand(address: Address, self_id: PeerId) -> Endpoint | Undialed:
    """Where to dial, and whom."""
    endpoint = parse_endpoint(address)
    if isinstance(endpoint, Malformed):
        return undialed(address, Why.MALFORMED, endpoint.reason)
    if endpoint.peer is None:
        return undialed(address, Why.MALFORMED, "it does not say who must answer there (/p2p/...)")
    if endpoint.peer == self_id:
        return undialed(address, Why.MALFORMED, "that address is this node's own")
    return endpoint


async def open_socket(endpoint: Endpoint, total: Counter) -> Socket | Undialed:
    """A connection to an endpoint that no relay is in front of."""
    try:
        return Socket(await dial(endpoint), total)
    except socket.gaierror:
        return undialed(endpoint.address, Why.NO_NAME, f"the name {endpoint.host} cannot be looked up")
    except OSError as error:
        why = why_of(error)
        return undialed(endpoint.address, why)


def why_of(error: OSError) -> Why:
    """What the system says; of several tries, as with a name that stands for several addresses, the last."""
    cause = error.__cause__
    if isinstance(cause, BaseExceptionGroup):
        tries = cast(BaseExceptionGroup[BaseException], cause).exceptions
        inner = [each for each in tries if isinstance(each, OSError)]
        return why_of(inner[-1]) if inner else Why.NO_ROUTE
    return _WHY.get(error.errno or 0, Why.NO_ROUTE)
