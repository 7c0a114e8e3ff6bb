"""One node of a simulated network, as the layers above see it."""

import collections
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

import trio

from .conditions import Conditions, Draws, Gate, Path
from .dialer import Dial, Dialer
from .handling import handle_protocol
from .limits import Limits
from .memory_gossip import GossipMessage, GossipNode
from .memory_stream import MemoryStream
from .peer_events_service import PeerEvents
from .port import (
    GOSSIP_BYTES_MAX,
    Address,
    Call,
    Code,
    Connection,
    Hear,
    Missing,
    PeerConnected,
    PeerDisconnected,
    PeerEvent,
    PeerId,
    ProtocolHandler,
    Reach,
    Refusal,
    Reply,
    Request,
    StreamBroken,
    StreamHandler,
    Streaming,
    Traffic,
    Unary,
    UnaryHandler,
    Undialed,
    Verdict,
    Why,
)
from .pruning import Seat, Shares, make_room, shares_of, surplus
from .service import CallService

CONNECTIONS_MAX: Final = 10**6  # unless limits are given: large simulations connect everybody with all others
REVIEW_S: Final = 5.0  # how often unused connections are looked for
DIAL_S: Final = 10.0  # one address of a kept peer
ROUND_TRIPS_TO_CONNECT: Final = 4  # TCP, choice of protocols, Noise, muxer
GOSSIP_HEAD_BYTES: Final = 100  # what a message of gossip costs on top of its bytes: topic, ids, frames

AGREED: Final = b"+"  # by who serves the protocol of a stream, first of all

Action = Callable[[], bool]  # returns whether it may have woken a task


class Direction:
    """From one node to another over one connection."""

    def __init__(self, source: "MemoryTransport", target: "MemoryTransport", conditions: Conditions, draws: Draws):
        self.source, self.target = source, target
        self.key = (source.peer_id, target.peer_id)  # what orders things that happen at one instant
        self.path: Path[tuple[int, Action]] = Path(conditions, draws)
        self.bytes_sent = self.bytes_received = 0


class SimulatedLink:
    """A connection."""

    def __init__(self, there: Direction, back: Direction) -> None:
        self.directions = (there, back)  # `there`: from the side that dialled
        self.blocked_at: float | None = None  # by a partition, since then

    @property
    def carried_bytes(self) -> int:
        return self.directions[0].bytes_sent + self.directions[1].bytes_sent

    def from_(self, peer: PeerId) -> Direction:
        return self.directions[0] if self.directions[0].source.peer_id == peer else self.directions[1]


@dataclass(slots=True)
class _Use:
    """When a connection was last found to have carried anything."""

    number: int
    used_at: float
    carried_bytes: int = 0


class Ether(Protocol):
    """What a node needs of the network."""

    @property
    def seed(self) -> int: ...
    def transmit(self, direction: Direction, stream: MemoryStream) -> None: ...
    def gossip(self, direction: Direction, message: GossipMessage) -> None: ...
    def conditions(self, source: PeerId, target: PeerId) -> Conditions: ...
    def can_reach(self, a: PeerId, b: PeerId) -> bool: ...
    def is_open(self, peer: PeerId) -> bool: ...
    def dial(self, a: PeerId, b: PeerId) -> bool: ...
    def disconnect(self, a: PeerId, b: PeerId) -> None: ...


class MemoryTransport:
    """`port.Transport` on a simulated network. Obtained from `memory.Network.open`."""

    def __init__(self, ether: Ether, peer_id: PeerId, limits: Limits, upload: Gate, download: Gate) -> None:
        self._ether = ether
        self._peer_id = peer_id
        self._limits = limits
        self.upload, self.download = upload, download
        self.links: dict[PeerId, SimulatedLink] = {}
        self._uses: dict[PeerId, _Use] = {}
        self._link_count = 0
        self.bytes_sent = self.bytes_received = 0
        self.gossip = GossipNode(self._forward)
        self._streams: dict[PeerId, list[MemoryStream]] = {}
        self._stream_count = 0
        self._protocols: dict[str, ProtocolHandler] = {}
        self._inbound: collections.Counter[PeerId] = collections.Counter()  # plain streams
        self._events = PeerEvents()
        self._dialer = Dialer(peer_id, ether.seed)
        self._wake = trio.Event()  # the dialer has news
        self._scope = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self._calls = CallService(peer_id, limits, self._open_stream)

    async def run(self, *, task_status: "trio.TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """The node's own tasks, until `stop`."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                try:
                    await nursery.start(self._calls.run)
                    task_status.started()
                    if self._limits.connections_max < CONNECTIONS_MAX:
                        nursery.start_soon(self._review)
                    await self._dial_kept(nursery)
                finally:
                    self._nursery = None

    def stop(self) -> None:
        """All at once, as if killed."""
        self._nursery = None
        self._calls.refuse()
        for peer, link in list(self.links.items()):
            self.lose(peer, link, "this node has ended")
        self._scope.cancel()

    @property
    def peer_id(self) -> PeerId:
        return self._peer_id

    def addresses(self) -> tuple[Address, ...]:
        return (address_of(self._peer_id),)

    def reach(self) -> Reach:
        return Reach(Verdict.PUBLIC, "a simulated network has no routers", "no NAT", ())

    def serve(self, method: Unary[Request, Reply], handler: UnaryHandler[Request, Reply]) -> None:
        self._calls.serve(method, handler)

    def serve_stream(self, method: Streaming[Request, Reply], handler: StreamHandler[Reply, Request]) -> None:
        self._calls.serve_stream(method, handler)

    def stop_serving(self, name: str) -> None:
        self._calls.stop_serving(name)

    async def request(
        self, peer: PeerId, method: Unary[Request, Reply], request: Request, *, timeout_s: float
    ) -> Reply | Refusal:
        return await self._calls.request(peer, method, request, timeout_s=timeout_s)

    def stream(
        self, peer: PeerId, method: Streaming[Request, Reply], *, timeout_s: float
    ) -> AbstractAsyncContextManager[Call[Request, Reply]]:
        return self._calls.stream(peer, method, timeout_s=timeout_s)

    @property
    def bulk(self) -> None:
        """There is none."""

    def serve_protocol(self, protocol: str, handler: ProtocolHandler) -> None:
        self._protocols[protocol] = handler

    async def open_protocol(self, peer: PeerId, protocol: str, *, timeout_s: float) -> MemoryStream | Refusal:
        with trio.move_on_after(timeout_s):
            return await self._open_plain(peer, protocol)
        return Refusal(Code.DEADLINE_EXCEEDED, f"{peer} opens no stream for {protocol} in {timeout_s:g} s")

    def publish(self, topic: str, data: bytes) -> Refusal | None:
        if len(data) > GOSSIP_BYTES_MAX:
            return Refusal(Code.TOO_LARGE, f"gossip of {len(data)} bytes exceeds {GOSSIP_BYTES_MAX}")
        self.gossip.publish(topic, data)
        return None

    def heard(self, topic: str, data: bytes) -> None:
        self.gossip.heard(topic, data)

    def subscribe(self, topic: str, hear: Hear) -> AbstractContextManager[None]:
        return self.gossip.subscribe(topic, hear)

    def connections(self) -> tuple[Connection, ...]:
        return tuple(self._connection(peer, link) for peer, link in sorted(self.links.items()))

    def traffic(self) -> Traffic:
        return Traffic(self.bytes_sent, self.bytes_received)

    def events(self) -> AbstractAsyncContextManager[trio.MemoryReceiveChannel[PeerEvent]]:
        return self._events.listen(self.links)

    async def connect(self, address: Address, *, timeout_s: float) -> PeerId | Refusal:
        peer = PeerId(address.rpartition("/p2p/")[2])
        if peer == self._peer_id or address != address_of(peer):
            return Refusal(Code.UNREACHABLE, f"{address} is no other node of this network")
        with trio.move_on_after(timeout_s):
            round_trip_s = 2 * self._ether.conditions(self._peer_id, peer).latency_s
            if peer not in self.links:
                if self.room(peer, is_outbound=True) is None:
                    return Refusal(Code.BUSY, f"{self._limits.connections_max} connections stand, and are in use")
                await trio.sleep(round_trip_s)
                while not self._ether.can_reach(self._peer_id, peer):
                    if not self._ether.is_open(peer):
                        return Refusal(Code.UNREACHABLE, f"nobody listens at {address}")
                    await trio.sleep(round_trip_s + 1.0)  # TCP asks again
                await trio.sleep((ROUND_TRIPS_TO_CONNECT - 1) * round_trip_s)
            if self._nursery is not None and self._ether.can_reach(self._peer_id, peer):
                if self._ether.dial(self._peer_id, peer):
                    return peer
                return Refusal(Code.UNREACHABLE, f"there is no room for a connection with {address}")
            return Refusal(Code.UNREACHABLE, f"{address} has gone")
        return Refusal(Code.DEADLINE_EXCEEDED, f"{address} does not answer")

    def keep(self, peer: PeerId, addresses: tuple[Address, ...]) -> None:
        self._dialer.keep(peer, addresses, trio.current_time(), peer in self.links)
        self._wake.set()

    def release(self, peer: PeerId) -> None:
        self._dialer.release(peer)

    def missing(self) -> tuple[Missing, ...]:
        return self._dialer.missing()

    async def probe(self, address: Address, *, timeout_s: float) -> Undialed | None:
        answer = await self.connect(address, timeout_s=timeout_s)
        return Undialed(answer.code, answer.message, address, Why.TIMED_OUT) if isinstance(answer, Refusal) else None

    async def _dial_kept(self, nursery: trio.Nursery) -> None:
        while True:
            self._wake = trio.Event()
            for order in self._dialer.due(trio.current_time()):
                nursery.start_soon(self._dial, order)
            with trio.move_on_at(self._dialer.deadline):
                await self._wake.wait()

    async def _dial(self, order: Dial) -> None:
        answer = await self.connect(order.address, timeout_s=DIAL_S)
        if isinstance(answer, Refusal):
            self._dialer.failed(order, Undialed(answer.code, answer.message, order.address, Why.TIMED_OUT))
        self._dialer.ended(order, trio.current_time(), answer == order.peer)
        self._wake.set()

    # Seats.

    def room(self, peer: PeerId, *, is_outbound: bool) -> list[PeerId] | None:
        """Whom to disconnect so that `peer` may be connected; None: there is no room for it."""
        newcomer = Seat(0, self._dialer.is_kept(peer), is_outbound, is_busy=False, used_at=0.0, ranges=None)
        seats = self._seats()
        cleared = make_room(newcomer, seats, self._shares, trio.current_time() - self._limits.connection_quiet_s)
        return None if cleared is None else [seats[seat] for seat in cleared]

    async def _review(self) -> None:
        while True:
            await trio.sleep(REVIEW_S)
            seats = self._seats()
            unused_since = trio.current_time() - self._limits.connection_unused_s
            for seat in surplus(seats, self._shares, unused_since):
                self._ether.disconnect(self._peer_id, seats[seat])

    @property
    def _shares(self) -> Shares:
        return shares_of(self._limits.connections_max, self._dialer.kept_count)

    def _seats(self) -> dict[Seat, PeerId]:
        seats: dict[Seat, PeerId] = {}
        for peer, link in self.links.items():
            use, is_outbound = self._uses[peer], link.directions[0].source is self
            if link.carried_bytes != use.carried_bytes:
                use.carried_bytes, use.used_at = link.carried_bytes, trio.current_time()
            is_kept, is_busy = self._dialer.is_kept(peer), self._calls.is_busy(peer)
            seats[Seat(use.number, is_kept, is_outbound, is_busy, use.used_at, None)] = peer
        return seats

    # What the network tells the node.

    def gain(self, peer: PeerId, link: SimulatedLink) -> None:
        """A connection stands."""
        self.links[peer] = link
        self._link_count += 1
        self._uses[peer] = _Use(self._link_count, trio.current_time())
        self._dialer.connected(peer, trio.current_time())
        self._wake.set()
        self._events.tell(PeerConnected(peer))

    def lose(self, peer: PeerId, link: SimulatedLink, reason: str) -> bool:
        """A connection is gone. Returns whether it was there."""
        if self.links.get(peer) is not link:
            return False
        del self.links[peer], self._uses[peer]
        for stream in self._streams.pop(peer, ()):
            stream.break_off(reason)
        self._calls.drop(peer)
        self._dialer.disconnected(peer, trio.current_time())
        self._wake.set()
        self._events.tell(PeerDisconnected(peer))
        return True

    def receive(self, peer: PeerId, stream: MemoryStream, data: bytes, is_last: bool) -> bool:
        """Bytes arrive on a stream, which may be new."""
        if not stream.is_accepted and self._nursery is not None:
            stream.is_accepted = True
            self._add_stream(peer, stream)
            if stream.protocol is None:
                self._nursery.start_soon(self._calls.handle_stream, peer, stream)
            else:
                self._nursery.start_soon(self._serve_plain, stream.protocol, peer, stream)
        stream.arrive(data, is_last)
        return True

    async def _serve_plain(self, protocol: str, peer: PeerId, stream: MemoryStream) -> None:
        handler = self._protocols.get(protocol)
        self._inbound[peer] += 1
        try:
            if handler is not None and self._inbound[peer] <= self._limits.streams_per_peer_max:
                with suppress(StreamBroken):
                    await stream.send_all(AGREED)
                    await handle_protocol(protocol, peer, stream, handler)
        finally:
            self._inbound[peer] -= 1
            if not self._inbound[peer]:
                del self._inbound[peer]
            await stream.aclose()

    async def _open_plain(self, peer: PeerId, protocol: str) -> MemoryStream | Refusal:
        stream = await self._open_stream(peer, protocol)
        if isinstance(stream, Refusal):
            return stream
        is_open = False
        try:
            await stream.send_all(b"")
            is_open = await stream.receive_some(len(AGREED)) == AGREED
        except StreamBroken:
            pass
        finally:
            if not is_open:
                await stream.aclose()
        return stream if is_open else Refusal(Code.UNREACHABLE, f"{peer} opens no stream for {protocol}")

    async def _open_stream(self, peer: PeerId, protocol: str | None = None) -> MemoryStream | Refusal:
        await trio.lowlevel.checkpoint()
        link = self.links.get(peer)
        if link is None:
            return Refusal(Code.UNREACHABLE, f"not connected to {peer}")
        there = link.from_(self._peer_id)
        self._stream_count += 1
        key = (self._peer_id, self._stream_count)
        here_end = MemoryStream(key, protocol, partial(self._ether.transmit, there))
        there_end = MemoryStream(key, protocol, partial(self._ether.transmit, link.from_(peer)))
        here_end.other, there_end.other = there_end, here_end
        here_end.is_accepted = True
        self._add_stream(peer, here_end)
        return here_end

    def _add_stream(self, peer: PeerId, stream: MemoryStream) -> None:
        streams = self._streams.setdefault(peer, [])
        streams[:] = [each for each in streams if not each.is_closed]
        streams.append(stream)

    def _forward(self, message: GossipMessage, but: PeerId | None) -> None:
        for peer, link in sorted(self.links.items()):
            if peer != but:
                self._ether.gossip(link.from_(self._peer_id), message)

    def _connection(self, peer: PeerId, link: SimulatedLink) -> Connection:
        there, back = link.from_(self._peer_id), link.from_(peer)
        return Connection(
            peer,
            address_of(peer),
            is_relayed=False,
            is_outbound=link.directions[0] is there,
            rtt_s=2 * self._ether.conditions(*there.key).latency_s,
            bytes_sent=there.bytes_sent,
            bytes_received=back.bytes_received,
        )


def address_of(peer: PeerId) -> Address:
    return Address(f"/dns/{peer}/tcp/1/p2p/{peer}")  # with a true id it can travel in messages, as bytes
