"""Tries an address without making a connection: who answers there proves who it is, and that is all.

On the other side nothing comes of it but one handshake: what is connected, and what is under way, stays as it is.
"""

from collections.abc import Awaitable, Callable

import trio

from .connections_service import Connections
from .opening_service import timed_out, understand, undialed
from .port import Address, PeerId, Undialed, Why
from .tcp_service import Socket

Prove = Callable[[Socket], Awaitable[PeerId | None]]


async def probe(
    self_id: PeerId, connections: Connections, prove: Prove, address: Address, *, timeout_s: float
) -> Undialed | None:
    """As `Transport.probe`.

    Args:
        prove: who is at the other end of a fresh socket; None: nobody who speaks the protocol.
    """
    endpoint = understand(address, self_id)
    if isinstance(endpoint, Undialed):
        return endpoint
    is_open = False
    with trio.move_on_after(timeout_s):
        socket = await connections.open(endpoint)
        if isinstance(socket, Undialed):
            return socket
        is_open = True
        try:
            proved = await prove(socket)
        finally:
            socket.abort()
        if proved is None:
            return undialed(address, Why.UNPROVEN, "what answers there is no Shoal node")
        if proved != endpoint.peer:
            return undialed(address, Why.UNPROVEN, f"another peer answers there: {proved}")
        return None
    if is_open:
        return undialed(address, Why.MUTE)
    return timed_out(address, timeout_s)
