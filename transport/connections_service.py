"""The connections of a node: accepting, dialing, keeping, counting. Knows sockets and peer ids, but not libp2p."""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Final, Protocol

import trio

from .addresses import Endpoint, is_relayed, parse_endpoint
from .dialer import Dial, Dialer
from .limits import Limits
from .port import Address, Code, Connection, PeerConnected, PeerDisconnected, PeerEvent, PeerId, Refusal, Traffic
from .tcp_service import Counter, Socket, dial
from .wire import Malformed

HANDSHAKE_S: Final = 10.0  # what a peer may take to prove who it is
HANDSHAKES_MAX: Final = 64  # of others with us, under way at once; memory and CPU for strangers. Then the oldest goes
DIAL_S: Final = 10.0  # connecting and handshake of one address of a kept peer
EVENTS_MAX: Final = 4096  # not yet looked at by a listener

log = logging.getLogger(__name__)


class Established(Protocol):
    """A connection whose other side has proved who it is."""

    @property
    def peer(self) -> PeerId: ...
    @property
    def rtt_s(self) -> float | None: ...
    @property
    def ended(self) -> trio.Event: ...


# A stream through the relay of an endpoint to the peer behind it; the first hop is connected.
Pass = Callable[[PeerId, PeerId], Awaitable[Socket | Refusal]]

# Proves both sides' ids over a socket: as who dialed that peer, or (None) as who was dialed. Gives None if it failed.
Secure = Callable[[Socket, Endpoint, PeerId | None], Awaitable[Established | None]]


@dataclass(eq=False, slots=True)
class _Entry:
    established: Established
    socket: Socket
    address: Address
    is_outbound: bool


class Connections:
    """The books of who is connected, and the tasks that change them.

    Args:
        pass_on: opens a stream to a peer through a relay.
        forget: called when the last connection with a peer is gone.
        seed: of the jitter between dials.
    """

    def __init__(
        self,
        self_id: PeerId,
        limits: Limits,
        secure: Secure,
        pass_on: Pass,
        forget: Callable[[PeerId], None],
        seed: int,
    ) -> None:
        self._self_id = self_id
        self._limits = limits
        self._secure = secure
        self._pass_on = pass_on
        self._forget = forget
        self._dialer = Dialer(self_id, seed)
        self._wake = trio.Event()
        self._total = Counter()
        self._entries: dict[PeerId, list[_Entry]] = {}
        self._handshakes: dict[Socket, trio.CancelScope] = {}
        self._listeners: set[trio.MemorySendChannel[PeerEvent]] = set()
        self._nursery: trio.Nursery | None = None

    async def run(
        self,
        listeners: Sequence[trio.SocketListener],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept and dial until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            if listeners:
                await nursery.start(trio.serve_listeners, self._accept, listeners)
            task_status.started()
            await self._dial_kept()

    @property
    def peers(self) -> tuple[PeerId, ...]:
        """Who is connected."""
        return tuple(self._entries)

    def admits(self, peer: PeerId) -> bool:
        """Whether there is room for one more connection with `peer`."""
        return len(self._entries.get(peer, ())) < self._limits.connections_per_peer_max

    def direct_address(self, peer: PeerId) -> Address | None:
        """Of a connection that no relay carries."""
        entries = self._entries.get(peer, ())
        return next((entry.address for entry in entries if not is_relayed(entry.address)), None)

    def keep(self, peer: PeerId, addresses: tuple[Address, ...]) -> None:
        """As `Transport.keep`."""
        if not self._dialer.keep(peer, addresses, trio.current_time(), peer in self._entries):
            log.warning("too many peers to keep: no connection will be kept with %s", peer)
        self._wake.set()

    def keep_also(self, peer: PeerId, address: Address) -> None:
        """As `keep`, beside the addresses at which it is kept already."""
        self.keep(peer, (address, *self._dialer.addresses(peer)))

    def release(self, peer: PeerId) -> None:
        """As `Transport.release`."""
        self._dialer.release(peer)

    async def connect(self, address: Address, *, timeout_s: float) -> PeerId | Refusal:
        """As `Transport.connect`."""
        endpoint = parse_endpoint(address)
        if isinstance(endpoint, Malformed):
            return Refusal(Code.UNREACHABLE, endpoint.reason)
        peer = endpoint.peer
        if peer is None:
            return Refusal(Code.UNREACHABLE, f"{address} does not say who must answer there (/p2p/...)")
        if peer == self._self_id:
            return Refusal(Code.UNREACHABLE, "that address is this node's own")
        if peer in self._entries:
            return peer
        if self._count() >= self._limits.connections_max:
            return Refusal(Code.BUSY, f"{self._limits.connections_max} connections stand: that is the limit")
        with trio.move_on_after(timeout_s):
            return await self._dial(endpoint, peer)
        return Refusal(Code.UNREACHABLE, f"nobody answered at {address} within {timeout_s:g} s")

    def connections(self) -> tuple[Connection, ...]:
        """As `Transport.connections`."""
        return tuple(_summary(peer, entries) for peer, entries in sorted(self._entries.items()))

    def traffic(self) -> Traffic:
        """As `Transport.traffic`."""
        return Traffic(self._total.bytes_sent, self._total.bytes_received)

    @asynccontextmanager
    async def events(self) -> AsyncGenerator[trio.MemoryReceiveChannel[PeerEvent]]:
        """As `Transport.events`. The channel ends for who is EVENTS_MAX behind: to go on, ask for events again."""
        send, receive = trio.open_memory_channel[PeerEvent](EVENTS_MAX)
        for peer in sorted(self._entries):
            send.send_nowait(PeerConnected(peer))
        self._listeners.add(send)
        try:
            yield receive
        finally:
            self._listeners.discard(send)
            send.close()
            receive.close()

    async def _accept(self, stream: trio.SocketStream) -> None:
        socket = Socket(stream, self._total)
        if socket.remote is not None:
            await self.admit(socket, socket.remote)

    async def admit(self, socket: Socket, remote: Endpoint) -> None:
        """One inbound connection, from its first byte to its last. The caller closes the socket."""
        inbound_max = self._limits.connections_max * 3 // 4  # the rest is for whom we dial
        if self._count() >= inbound_max:
            return
        if len(self._handshakes) >= HANDSHAKES_MAX:
            next(iter(self._handshakes.values())).cancel()  # honest ones are quick; so silence cannot lock others out
        established = None
        with trio.move_on_after(HANDSHAKE_S) as self._handshakes[socket]:
            established = await self._secure(socket, remote, None)
        del self._handshakes[socket]
        # Asked again, for many may have shaken hands at once.
        if established is not None and self.admits(established.peer) and self._count() < inbound_max:
            await self._watch(self._enter(established, socket, remote, is_outbound=False))

    async def _dial(self, endpoint: Endpoint, peer: PeerId) -> PeerId | Refusal:
        assert self._nursery is not None
        socket = await self._open(endpoint, peer)
        if isinstance(socket, Refusal):
            return socket
        established = None
        try:
            established = await self._secure(socket, endpoint, peer)
        finally:
            if established is None:
                socket.abort()
        if established is None:
            return Refusal(Code.UNREACHABLE, f"who answers at {endpoint.address} does not prove to be {peer}")
        self._nursery.start_soon(self._watch, self._enter(established, socket, endpoint, is_outbound=True))
        return peer

    async def _open(self, endpoint: Endpoint, peer: PeerId) -> Socket | Refusal:
        if endpoint.relay is None:
            try:
                return Socket(await dial(endpoint), self._total)
            except OSError as error:
                return Refusal(Code.UNREACHABLE, f"no connection to {endpoint.address}: {error}")
        relay = await self.connect(endpoint.first_hop.address, timeout_s=DIAL_S)
        return relay if isinstance(relay, Refusal) else await self._pass_on(relay, peer)

    def _enter(self, established: Established, socket: Socket, remote: Endpoint, *, is_outbound: bool) -> _Entry:
        """A new connection into the books. No await may lie between this and `_watch`."""
        peer = established.peer
        entry = _Entry(established, socket, replace(remote, peer=peer).address, is_outbound)
        is_first = peer not in self._entries
        self._entries.setdefault(peer, []).append(entry)
        if is_first:
            self._dialer.connected(peer, trio.current_time())
            self._tell(PeerConnected(peer))
        return entry

    async def _watch(self, entry: _Entry) -> None:
        """Wait for the end of a connection, and strike it off the books."""
        peer = entry.established.peer
        try:
            await entry.established.ended.wait()
        finally:
            entry.socket.abort()
            entries = self._entries[peer]
            entries.remove(entry)
            if not entries:
                del self._entries[peer]
                self._forget(peer)
                self._dialer.disconnected(peer, trio.current_time())
                self._wake.set()
                self._tell(PeerDisconnected(peer))

    async def _dial_kept(self) -> None:
        assert self._nursery is not None
        while True:
            self._wake = trio.Event()
            for order in self._dialer.due(trio.current_time()):
                self._nursery.start_soon(self._dial_one, order)
            with trio.move_on_at(self._dialer.deadline):
                await self._wake.wait()

    async def _dial_one(self, order: Dial) -> None:
        answer = await self.connect(order.address, timeout_s=DIAL_S)
        if isinstance(answer, Refusal):
            log.debug("dialing a kept peer: %s", answer.message)
        self._dialer.ended(order, trio.current_time(), answer == order.peer)
        self._wake.set()

    def _count(self) -> int:
        return sum(map(len, self._entries.values()))

    def _tell(self, event: PeerEvent) -> None:
        for listener in list(self._listeners):
            try:
                listener.send_nowait(event)
            except (trio.WouldBlock, trio.BrokenResourceError):
                self._listeners.discard(listener)
                listener.close()


def _summary(peer: PeerId, entries: list[_Entry]) -> Connection:
    """What a person wants to know of the connections with one peer: of the oldest direct one, but for the bytes."""
    first = next((entry for entry in entries if not is_relayed(entry.address)), entries[0])
    return Connection(
        peer=peer,
        address=first.address,
        is_relayed=is_relayed(first.address),
        is_outbound=first.is_outbound,
        rtt_s=first.established.rtt_s,
        bytes_sent=sum(entry.socket.own.bytes_sent for entry in entries),
        bytes_received=sum(entry.socket.own.bytes_received for entry in entries),
    )
