"""The connections of a node: accepting, dialing, keeping, moving, closing. Knows sockets and peer ids, but not libp2p.

A peer may have several: one through a relay, and a direct one that was punched beside it. What is begun goes by the
best of them (`books_service`); what is under way ends where it began. A relayed one that nothing uses, beside a direct
one, is closed.
"""

import logging
import math
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, replace
from itertools import count
from typing import Final, Protocol, cast

import trio

from .addresses import Endpoint, ranges_of
from .books_service import Books, Entry, Established, How
from .bulk_messages import TLS_FIRST
from .dialer import Dial, Dialer
from .limits import Limits
from .opening_service import open_socket, timed_out, understand, undialed
from .paths import Way
from .peer_events_service import PeerEvents
from .port import (
    Address,
    Code,
    Connection,
    PeerConnected,
    PeerDisconnected,
    PeerEvent,
    PeerId,
    Refusal,
    Traffic,
    Undialed,
    Why,
)
from .pruning import Seat, Shares, make_room, shares_of, surplus
from .stun_service import STUN_FIRST, serve_stun
from .tcp_service import Counter, Socket
from .yamux_service import YamuxStream

HANDSHAKE_S: Final = 10.0  # what a peer may take to prove who it is
HANDSHAKES_MAX: Final = 64  # of others with us, under way at once; memory and CPU for strangers. Then the oldest goes
DIAL_S: Final = 10.0  # connecting and handshake of one address of a kept peer
SETTLED_S: Final = 5.0  # that a direct connection must have stood before the relayed one beside it is closed
REVIEW_S: Final = 5.0  # how often unused connections are looked for; more often: a scan of all for nothing
DOUBT_AGAIN_S: Final = 2.0  # between two times that everybody is asked for a sign of life; less: packets for nothing

log = logging.getLogger(__name__)

# A stream through the relay of an endpoint to the peer behind it; the first hop is connected.
Pass = Callable[[PeerId, PeerId], Awaitable[Socket | Refusal]]


class Upgrade(Protocol):
    """Proves both sides' ids over a socket: with that peer, or (None) with whoever it is. Gives None if it failed."""

    async def __call__(self, socket: Socket, peer: PeerId | None, *, is_initiator: bool) -> Established | None: ...


class Above(Protocol):
    """What uses the connections."""

    def is_busy(self, peer: PeerId) -> bool:
        """Whether something is under way with a peer, for which its connections must stand."""
        ...

    def moved(self, peer: PeerId) -> None:
        """There is a better connection with a peer: what is begun from now on goes by it."""
        ...

    def left(self, peer: PeerId) -> None:
        """The last connection with a peer is gone."""
        ...

    def changed(self, peer: PeerId, way: Way) -> None:
        """A connection with a peer has come or gone: that is its best way now."""
        ...

    def arrived(self, id: bytes) -> None:
        """Somebody has shown this id at a listening port."""
        ...

    async def admit_bulk(self, socket: Socket, remote: Endpoint) -> None:
        """Somebody begins TLS at a listening port. Raises ConnectionResetError."""
        ...


@dataclass(eq=False, slots=True)
class _Handshake:
    """Somebody wants in."""

    remote: Endpoint
    scope: trio.CancelScope


_ANYBODY: Final = Seat(-1, is_kept=True, is_outbound=False, is_busy=False, used_at=0.0, ranges=None)


class Connections:
    """The tasks that change who is connected.

    Args:
        pass_on: opens a stream to a peer through a relay.
    """

    def __init__(self, dialer: Dialer, limits: Limits, upgrade: Upgrade, pass_on: Pass, above: Above) -> None:
        self._limits = limits
        self._upgrade = upgrade
        self._pass_on = pass_on
        self._above = above
        self._dialer = dialer
        self._numbers = count()
        self._wake = trio.Event()
        self.total = self._total = Counter()
        self._doubted_at = -math.inf
        self.books = self._books = Books()
        self._handshakes: dict[Socket, _Handshake] = {}
        self._events = PeerEvents()
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
            nursery.start_soon(self._review)
            task_status.started()
            await self._dial_kept()

    @property
    def peers(self) -> tuple[PeerId, ...]:
        """Who is connected."""
        return self._books.peers

    def admits(self, peer: PeerId, socket: Socket) -> bool:
        """Whether there is room for one more connection, with `peer`, who has just proved its id on `socket`."""
        handshake = self._handshakes.get(socket)
        has_seat = handshake is None or self._room(self._newcomer(peer, handshake.remote)) is not None
        return has_seat and self._books.count(peer) < self._limits.connections_per_peer_max

    def direct_endpoint(self, peer: PeerId) -> Endpoint | None:
        """Where a peer is seen on a connection that no relay carries."""
        best = self._books.best(peer)
        return None if best is None or best.is_relayed else best.seen

    def dialed(self) -> list[Endpoint]:
        """Where peers were dialed, and not through relays; those with the shortest round trips first."""
        entries = [entry for entry in self._books if entry.how is How.DIALED and not entry.is_relayed]
        entries.sort(key=lambda entry: (entry.established.rtt_s or math.inf, entry.number))
        return [entry.seen for entry in entries]

    async def open_stream(self, peer: PeerId, protocol: str) -> YamuxStream | Refusal:
        """A stream to a connected peer, for a protocol, by the best connection that does not end meanwhile."""
        answer: YamuxStream | Refusal = Refusal(Code.UNREACHABLE, f"not connected to {peer}")
        tried = None
        while (best := self._books.best(peer)) is not None and best is not tried:
            tried, answer = best, await best.established.open_stream(protocol)
            if not isinstance(answer, Refusal):
                break
        return answer

    def keep(self, peer: PeerId, addresses: tuple[Address, ...]) -> None:
        """As `Transport.keep`."""
        if not self._dialer.keep(peer, addresses, trio.current_time(), peer in self._books):
            log.warning("too many peers to keep: no connection will be kept with %s", peer)
        self._wake.set()

    def keep_also(self, peer: PeerId, address: Address) -> None:
        """As `keep`, beside the addresses at which it is kept already."""
        self.keep(peer, (address, *self._dialer.addresses(peer)))

    def release(self, peer: PeerId) -> None:
        """As `Transport.release`."""
        self._dialer.release(peer)

    def network_changed(self, local_ips: Collection[str]) -> None:
        """This machine has these addresses now: what hangs on others is dead. Everybody who is missing is dialed."""
        for entry in self._books:
            local_ip = entry.socket.local_ip
            if local_ip is not None and local_ip not in local_ips:
                entry.is_closing = True
                entry.socket.abort()
        self._dialer.hurry(trio.current_time())
        self._wake.set()

    def doubt(self) -> None:
        """This machine may be somewhere else: let everybody show that they are there."""
        now = trio.current_time()
        if now >= self._doubted_at + DOUBT_AGAIN_S:
            self._doubted_at = now
            for entry in self._books:
                entry.established.doubt()

    async def connect(self, address: Address, *, timeout_s: float) -> PeerId | Refusal:
        """As `Transport.connect`."""
        endpoint = understand(address, self._dialer.self_id)
        if isinstance(endpoint, Undialed):
            return endpoint
        peer = cast(PeerId, endpoint.peer)
        if self._books.standing(peer):
            return peer
        if self._room(self._newcomer(peer, None)) is None:
            return undialed(address, Why.NO_SEAT, self._no_seat)
        with trio.move_on_after(timeout_s):
            return await self._dial(endpoint, peer)
        return timed_out(address, timeout_s)

    def connections(self) -> tuple[Connection, ...]:
        """As `Transport.connections`."""
        return self._books.summaries()

    def traffic(self) -> Traffic:
        """As `Transport.traffic`."""
        return Traffic(self._total.bytes_sent, self._total.bytes_received)

    def events(self) -> AbstractAsyncContextManager[trio.MemoryReceiveChannel[PeerEvent]]:
        """As `Transport.events`."""
        return self._events.listen(self._books.peers)

    async def _accept(self, stream: trio.SocketStream) -> None:
        socket = Socket(stream, self._total)
        if socket.remote is not None:
            await self.admit(socket, socket.remote)

    async def admit(self, socket: Socket, remote: Endpoint) -> None:
        """One inbound connection, from its first byte to its last. The caller closes the socket."""
        if len(self._handshakes) >= HANDSHAKES_MAX:
            self._handshakes.pop(next(iter(self._handshakes))).scope.cancel()  # honest ones are quick, silence is not
        established = None
        scope = trio.CancelScope(deadline=trio.current_time() + HANDSHAKE_S)
        self._handshakes[socket] = _Handshake(remote, scope)
        try:
            with scope:
                established = await self._greet(socket, remote)
            # Asked again, for many may have shaken hands at once.
            if established is None or socket not in self._handshakes or not self.admits(established.peer, socket):
                return
        finally:
            self._handshakes.pop(socket, None)
        entry = self._enter(established, socket, remote, How.ACCEPTED)
        if entry is not None:
            await self._watch(entry)

    async def _greet(self, socket: Socket, remote: Endpoint) -> Established | None:
        """A peer connects, or somebody asks by STUN as whom it is seen, or shows that it has got through."""
        with suppress(ConnectionResetError):
            first = b"" if remote.relay is not None else await socket.peek()
            if first == STUN_FIRST:
                await serve_stun(socket, remote, self._above.arrived)
            elif first == TLS_FIRST:  # a peer that has a seat, or nobody
                await self._above.admit_bulk(socket, remote)
            elif self._room(_ANYBODY) is not None:
                return await self._upgrade(socket, None, is_initiator=False)
        return None

    async def _dial(self, endpoint: Endpoint, peer: PeerId) -> PeerId | Refusal:
        socket = await self.open(endpoint)
        if isinstance(socket, Refusal):
            return socket
        return await self._take(socket, endpoint, peer, How.DIALED, is_initiator=True)

    async def adopt(self, stream: trio.SocketStream, peer: PeerId, how: How, *, is_initiator: bool) -> PeerId | Refusal:
        """Make a connection with `peer`, beside those that stand, of a fresh socket. It is closed if that fails."""
        socket = Socket(stream, self._total)
        remote = socket.remote
        if remote is None:
            socket.abort()
            return Refusal(Code.UNREACHABLE, "the connection broke at once")
        return await self._take(socket, replace(remote, peer=peer), peer, how, is_initiator=is_initiator)

    async def _take(
        self, socket: Socket, endpoint: Endpoint, peer: PeerId, how: How, *, is_initiator: bool
    ) -> PeerId | Refusal:
        assert self._nursery is not None
        established = None
        try:
            established = await self._upgrade(socket, peer, is_initiator=is_initiator)
        finally:
            if established is None:
                socket.abort()
        if established is None:
            return undialed(endpoint.address, Why.UNPROVEN, f"who answers there does not prove to be {peer}")
        entry = self._enter(established, socket, endpoint, how)
        if entry is None:
            socket.abort()
            return undialed(endpoint.address, Why.NO_SEAT, self._no_seat)
        self._nursery.start_soon(self._watch, entry)
        return peer

    async def open(self, endpoint: Endpoint) -> Socket | Undialed:
        """A socket at whose other end somebody is to prove that it is the endpoint's peer."""
        if endpoint.relay is None:
            return await open_socket(endpoint, self._total)
        relay = await self.connect(endpoint.first_hop.address, timeout_s=DIAL_S)
        if isinstance(relay, Refusal):
            return undialed(endpoint.address, Why.RELAY, f"the relay cannot be reached: {relay.message}")
        passed = await self._pass_on(relay, cast(PeerId, endpoint.peer))
        return undialed(endpoint.address, Why.RELAY, passed.message) if isinstance(passed, Refusal) else passed

    def _enter(self, established: Established, socket: Socket, remote: Endpoint, how: How) -> Entry | None:
        """A new connection into the books, if there is a seat. No await may lie between this and `_watch`."""
        peer = established.peer
        in_the_way = self._room(self._newcomer(peer, remote if how is How.ACCEPTED else None))
        if in_the_way is None:
            return None
        self._close(in_the_way)
        remote = replace(remote, peer=peer)
        now = trio.current_time()
        ranges = ranges_of(remote.address)
        entry = Entry(next(self._numbers), established, socket, remote, ranges, how, made_at=now, used_at=now)
        for older in self._books.standing(peer):
            older.established.doubt()
        if self._books.enter(entry):
            self._dialer.connected(peer, now)
            self._events.tell(PeerConnected(peer))
        elif self._books.best(peer) is entry:
            self._above.moved(peer)
        self._above.changed(peer, self._books.way(peer))
        return entry

    async def _watch(self, entry: Entry) -> None:
        """Wait for the end of a connection, and strike it off the books."""
        try:
            await entry.established.ended.wait()
        finally:
            entry.socket.abort()
            if entry.how is How.DIALED and not entry.is_closing:
                self.doubt()  # where one connection broke, all may be dead
            if self._books.strike(entry):
                self._above.left(entry.peer)
                self._dialer.disconnected(entry.peer, trio.current_time())
                self._wake.set()
                self._events.tell(PeerDisconnected(entry.peer))
            self._above.changed(entry.peer, self._books.way(entry.peer))

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
        if isinstance(answer, Undialed) and self._dialer.failed(order, answer):
            log.info("%s", answer.message)
        self._dialer.ended(order, trio.current_time(), answer == order.peer)
        self._wake.set()

    async def _review(self) -> None:
        while True:
            await trio.sleep(REVIEW_S)
            now = trio.current_time()
            self._close(self._books.outdone(now - SETTLED_S))
            seats = self._seats()
            unused = surplus(seats, self._shares, now - self._limits.connection_unused_s)
            self._close([seats[seat] for seat in unused])

    def _close(self, entries: list[Entry]) -> None:
        """Nothing is under way on them. `_watch` does the rest."""
        for entry in entries:
            log.debug("closing a connection with %s that nothing uses: %s", entry.peer, entry.address)
            entry.is_closing = True
            entry.socket.abort()

    def _room(self, newcomer: Seat) -> list[Entry] | None:
        """What to close for a newcomer; None: there is no seat for it."""
        seats = self._seats()
        quiet_since = trio.current_time() - self._limits.connection_quiet_s
        cleared = make_room(newcomer, seats, self._shares, quiet_since)
        return None if cleared is None else [seats[seat] for seat in cleared]

    @property
    def _shares(self) -> Shares:
        return shares_of(self._limits.connections_max, self._dialer.kept_count)

    @property
    def _no_seat(self) -> str:
        return f"of {self._limits.connections_max} connections none can be closed for another"

    def _newcomer(self, peer: PeerId, remote: Endpoint | None) -> Seat:
        """Who would like a connection: from `remote`, or, None, one that we dial."""
        ranges = None if remote is None else ranges_of(remote.address)
        is_kept = self._dialer.is_kept(peer) and not self._books.standing(peer)
        return Seat(-1, is_kept, is_outbound=remote is None, is_busy=False, used_at=0.0, ranges=ranges)

    def _seats(self) -> dict[Seat, Entry]:
        return self._books.seats(trio.current_time(), self._above.is_busy, self._dialer.is_kept)
