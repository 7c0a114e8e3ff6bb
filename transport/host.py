"""A node's real network: libp2p over TCP, secured by Noise, multiplexed by yamux. The only module that imports libp2p.

What a peer may do: open connections and streams, send any bytes, stop reading, freeze, vanish, at any moment. What it
cannot: connect under a peer id whose key it does not hold (Noise is the only handshake offered), make anything raise
past `_contained`, hold more than its share of connections, streams and memory, or stay connected without answering.
"""

import collections
import logging
import math
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar, cast

import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.network.config import ConnectionConfig
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.exceptions import MuxedStreamEOF
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.stream_muxer.yamux.yamux import Yamux
from libp2p.tools.anyio_service import background_trio_service
from libp2p.transport.upgrader import TransportUpgrader
from multiaddr.multiaddr import Multiaddr
from multiaddr.utils import get_network_addrs

from .addresses import Endpoint, expanded, ordered, parse_endpoint
from .dialer import Dial, Dialer
from .gossip_service import GossipService
from .identity import Identity, public_key_of
from .limits import Limits
from .port import (
    Address,
    Call,
    Code,
    Connection,
    Gossip,
    PeerConnected,
    PeerDisconnected,
    PeerEvent,
    PeerId,
    Refusal,
    Reply,
    Request,
    StreamHandler,
    Streaming,
    Traffic,
    Unary,
    UnaryHandler,
)
from .service import ByteStream, CallService, StreamBroken
from .tcp_service import Counter, HostError, Socket, dial, listen, listening_endpoint
from .wire import Malformed

__all__ = ["Host", "HostError", "open_host"]

RPC_PROTOCOL: Final = TProtocol("/shoal/rpc/1")
WRITE_BYTES_MAX: Final = 65_000  # a yamux frame of so many bytes fits one Noise message
HANDSHAKE_S: Final = 10.0
DIAL_S: Final = 10.0  # connect and handshake of one address of a kept peer
HANDSHAKES_MAX: Final = 64  # of others with us, under way at once
EVENTS_MAX: Final = 1024  # connections made and lost that a listener of `events` has not yet looked at

log = logging.getLogger(__name__)


T = TypeVar("T")


async def _contained(what: str, call: Callable[[], Awaitable[T]]) -> T | None:
    """The result of libp2p code that works on a peer's bytes, or None if it failed.

    What it raises on hostile bytes is whatever its parsers raise (KeyError, DecodeError, InvalidTag and others), and
    what escapes a task of a Swarm ends the whole node. So this is the one place that catches everything.
    """
    try:
        return await call()
    except Exception as error:  # noqa: BLE001
        log.debug("%s failed: %s: %s", what, type(error).__name__, error)
        return None


class _Upgrader:
    """Turns a TCP connection into a secured and multiplexed one: Noise and yamux, and nothing else is on offer."""

    def __init__(self, key_pair: Any, admits: Callable[[PeerId], bool]) -> None:
        noise = NoiseTransport(key_pair, noise_privkey=create_noise_key_pair().private_key)
        self._libp2p = TransportUpgrader({TProtocol(NOISE): noise}, {TProtocol(YAMUX): Yamux})
        self._admits = admits

    async def upgrade_security(self, raw_conn: Any, is_initiator: bool, peer_id: ID | None = None) -> Any:
        secured = await self._libp2p.upgrade_security(raw_conn, is_initiator, peer_id)
        if not self._admits(PeerId(str(secured.get_remote_peer()))):
            await secured.close()
            raise ConnectionRefusedError(f"no further connection with {secured.get_remote_peer()}")
        raw_conn.stream.trust()
        return secured

    async def upgrade_connection(self, conn: Any, peer_id: ID) -> Any:
        return await self._libp2p.upgrade_connection(cast(Any, _WholeFrames(conn)), peer_id)


class _WholeFrames:
    """A secured connection whose writes cannot be cut in half by a cancellation.

    Noise counts messages: one that was encrypted and not fully sent makes the other side refuse all that follow.
    """

    def __init__(self, secured: Any) -> None:
        self._secured = secured

    async def write(self, data: bytes) -> None:
        with trio.CancelScope(shield=True):
            await self._secured.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._secured, name)


class _Stream:
    """A libp2p stream as calls want it."""

    def __init__(self, muxed: Any) -> None:
        self._muxed = muxed

    async def send_all(self, data: bytes) -> None:
        try:
            for start in range(0, len(data), WRITE_BYTES_MAX):
                await self._muxed.write(data[start : start + WRITE_BYTES_MAX])
        except Exception as error:
            raise StreamBroken(str(error)) from error

    async def receive_some(self) -> bytes:
        try:
            return bytes(await self._muxed.read())
        except MuxedStreamEOF:
            return b""
        except Exception as error:
            raise StreamBroken(str(error)) from error

    async def aclose(self) -> None:
        with trio.move_on_after(1.0):
            await _contained("closing a stream", self._muxed.close)


@dataclass(eq=False, slots=True)
class _Link:
    """One connection that stands."""

    peer: PeerId
    muxer: Any
    socket: Socket
    address: Address
    is_outbound: bool


class Host:
    """The Transport of a running node. Obtained from `open_host`."""

    def __init__(self, identity: Identity, limits: Limits, seed: int) -> None:
        key_pair = create_new_key_pair(identity.seed)
        self._id = ID.from_pubkey(key_pair.public_key)
        peers = PeerStore()
        peers.add_key_pair(self._id, key_pair)
        config = ConnectionConfig(
            max_connections=limits.connections_max,
            min_connections=0,  # libp2p's own dialing of whomever it knows
            low_watermark=0,
            high_watermark=limits.connections_max,
            max_connections_per_peer=limits.connections_per_peer_max,
        )
        self._swarm = Swarm(self._id, peers, cast(Any, _Upgrader(key_pair, self._admits)), [], None, config)
        self._basic = BasicHost(self._swarm, disable_identify_address_discovery=True)
        for notifee in list(self._swarm.notifees):
            self._swarm.remove_notifee(
                notifee
            )  # identify asks each peer for any number of addresses; nobody reads them
        self._negotiate = cast(Any, self._basic)._swarm_stream_handler  # agrees on a protocol and runs its handler
        self._swarm.set_stream_handler(self._accept_stream)
        self._basic.set_stream_handler(RPC_PROTOCOL, self._serve_rpc)
        self._peer_id = identity.peer_id
        self._limits = limits
        self._calls = CallService(self._peer_id, limits, self._open_stream)
        self._gossip = GossipService(self._calls, lambda: tuple(self._links))
        self._dialer = Dialer(self._peer_id, seed)
        self._wake = trio.Event()
        self._total = Counter()
        self._links: dict[PeerId, list[_Link]] = {}
        self._listening: list[Endpoint] = []
        self._handshakes = 0
        self._streams: collections.Counter[PeerId] = collections.Counter()
        self._listeners: set[trio.MemorySendChannel[PeerEvent]] = set()
        self._nursery: trio.Nursery | None = None

    # What the layers above see: port.Transport.

    @property
    def peer_id(self) -> PeerId:
        return self._peer_id

    def addresses(self) -> tuple[Address, ...]:
        """As `Transport.addresses`."""
        found: list[Endpoint] = []
        for endpoint in self._listening:
            ips = [*get_network_addrs(6), "::1"] if endpoint.kind == "ip6" else [*get_network_addrs(4), "127.0.0.1"]
            found += expanded(endpoint, ips)
        return tuple(replace(endpoint, peer=self._peer_id).address for endpoint in ordered(found))

    def serve(self, method: Unary[Request, Reply], handler: UnaryHandler[Request, Reply]) -> None:
        """As `Transport.serve`."""
        self._calls.serve(method, handler)

    def serve_stream(self, method: Streaming[Request, Reply], handler: StreamHandler[Reply, Request]) -> None:
        """As `Transport.serve_stream`."""
        self._calls.serve_stream(method, handler)

    def stop_serving(self, name: str) -> None:
        """As `Transport.stop_serving`."""
        self._calls.stop_serving(name)

    async def request(
        self, peer: PeerId, method: Unary[Request, Reply], request: Request, *, timeout_s: float
    ) -> Reply | Refusal:
        """As `Transport.request`."""
        return await self._calls.request(peer, method, request, timeout_s=timeout_s)

    def stream(
        self, peer: PeerId, method: Streaming[Request, Reply], *, timeout_s: float
    ) -> AbstractAsyncContextManager[Call[Request, Reply]]:
        """As `Transport.stream`."""
        return self._calls.stream(peer, method, timeout_s=timeout_s)

    async def publish(self, topic: str, data: bytes) -> Refusal | None:
        """As `Transport.publish`."""
        return await self._gossip.publish(topic, data)

    def subscribe(
        self, topic: str, is_valid: Callable[[PeerId, bytes], bool]
    ) -> AbstractAsyncContextManager[trio.MemoryReceiveChannel[Gossip]]:
        """As `Transport.subscribe`."""
        return self._gossip.subscribe(topic, is_valid)

    def connections(self) -> tuple[Connection, ...]:
        """As `Transport.connections`."""
        return tuple(self._connection(links) for _, links in sorted(self._links.items()))

    def traffic(self) -> Traffic:
        """As `Transport.traffic`."""
        return Traffic(self._total.bytes_sent, self._total.bytes_received)

    @asynccontextmanager
    async def events(self) -> AsyncGenerator[trio.MemoryReceiveChannel[PeerEvent]]:
        """As `Transport.events`."""
        send, receive = trio.open_memory_channel[PeerEvent](math.inf)
        for peer in sorted(self._links):
            send.send_nowait(PeerConnected(peer))
        self._listeners.add(send)
        try:
            yield receive
        finally:
            self._listeners.discard(send)
            send.close()
            receive.close()

    async def connect(self, address: Address, *, timeout_s: float) -> PeerId | Refusal:
        """As `Transport.connect`."""
        endpoint = parse_endpoint(address)
        if isinstance(endpoint, Malformed):
            return Refusal(Code.UNREACHABLE, endpoint.reason)
        if endpoint.peer is None:
            return Refusal(Code.UNREACHABLE, f"{address} does not say which peer must answer there (/p2p/...)")
        if endpoint.peer == self._peer_id:
            return Refusal(Code.UNREACHABLE, "that address is this node's own")
        if endpoint.peer in self._links:
            return endpoint.peer
        with trio.move_on_after(timeout_s):
            return await self._dial(endpoint, endpoint.peer)
        return Refusal(Code.UNREACHABLE, f"nobody answered at {address} within {timeout_s:g} s")

    def keep(self, peer: PeerId, addresses: tuple[Address, ...]) -> None:
        """As `Transport.keep`."""
        self._dialer.keep(peer, addresses, trio.current_time(), peer in self._links)
        self._wake.set()

    def release(self, peer: PeerId) -> None:
        """As `Transport.release`."""
        self._dialer.release(peer)

    # Connections.

    async def run(
        self, listen_on: Sequence[Endpoint], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Be on the network until cancelled. Raises HostError before it has started."""
        listeners = [await listen(endpoint) for endpoint in listen_on]
        self._listening = [listening_endpoint(listener) for listener in listeners]
        async with background_trio_service(self._swarm), trio.open_nursery() as nursery:
            self._nursery = nursery
            await self._swarm.event_background_nursery_created.wait()
            await nursery.start(self._calls.run)
            await nursery.start(self._gossip.run)
            nursery.start_soon(self._dial_kept)
            if listeners:
                await nursery.start(trio.serve_listeners, self._accept, listeners)
            task_status.started()
            await trio.sleep_forever()

    async def _accept(self, stream: trio.SocketStream) -> None:
        """One inbound connection, from its first byte to its last."""
        inbound_max = self._limits.connections_max * 3 // 4  # the rest is for whom we dial
        if self._handshakes >= HANDSHAKES_MAX or self._connection_count() >= inbound_max:
            return
        socket = Socket(stream, self._total)
        remote = socket.remote
        if remote is None:
            return
        self._handshakes += 1
        muxer = None
        try:
            with trio.move_on_after(HANDSHAKE_S):
                raw = RawConnection(cast(Any, socket), False)
                maddr = Multiaddr(remote.address)
                muxer = await _contained("a handshake", lambda: self._swarm.upgrade_inbound_raw_conn(raw, maddr))
        finally:
            self._handshakes -= 1
        if muxer is not None:
            await self._watch(self._link(muxer, socket, remote, False))

    async def _dial(self, endpoint: Endpoint, peer: PeerId) -> PeerId | Refusal:
        assert self._nursery is not None
        if self._connection_count() >= self._limits.connections_max:
            return Refusal(Code.BUSY, f"{self._limits.connections_max} connections stand: that is the limit")
        try:
            socket = await dial(endpoint, lambda stream: Socket(stream, self._total))
        except OSError as error:
            return Refusal(Code.UNREACHABLE, f"no connection to {endpoint.address}: {error}")
        connection = None
        try:
            raw = RawConnection(cast(Any, socket), True)
            upgrade = self._swarm.upgrade_outbound_raw_conn
            connection = await _contained("a handshake", lambda: upgrade(raw, ID.from_base58(peer)))
        finally:
            if connection is None:
                socket.abort()
        if connection is None:
            why = f"who answers at {endpoint.address} is not {peer}, or speaks no Noise and yamux"
            return Refusal(Code.UNREACHABLE, why)
        link = self._link(connection.muxed_conn, socket, endpoint, True)
        self._nursery.start_soon(self._watch, link)
        return peer

    def _link(self, muxer: Any, socket: Socket, remote: Endpoint, is_outbound: bool) -> _Link:
        """Enter a new connection into the books."""
        peer = PeerId(str(muxer.peer_id))
        link = _Link(peer, muxer, socket, replace(remote, peer=peer).address, is_outbound)
        is_first = peer not in self._links
        self._links.setdefault(peer, []).append(link)
        if is_first:
            self._dialer.connected(peer, trio.current_time())
            self._tell(PeerConnected(peer))
        return link

    async def _watch(self, link: _Link) -> None:
        """Wait for the end of a connection, and strike it off the books."""
        try:
            await link.muxer.event_closed.wait()
        finally:
            link.socket.abort()
            links = self._links[link.peer]
            links.remove(link)
            if not links:
                del self._links[link.peer]
                self._calls.drop(link.peer)
                self._dialer.disconnected(link.peer, trio.current_time())
                self._wake.set()
                self._tell(PeerDisconnected(link.peer))

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
        is_connected = answer == order.peer
        if not is_connected:
            log.debug("dialing %s: %s", order.address, answer)
        self._dialer.ended(order, trio.current_time(), is_connected)
        self._wake.set()

    def _admits(self, peer: PeerId) -> bool:
        """Whether one more connection with a peer that has proved its id is allowed."""
        is_known_kind = public_key_of(peer) is not None  # Ed25519: ids of other keys are no PeerId of ours
        return is_known_kind and len(self._links.get(peer, ())) < self._limits.connections_per_peer_max

    def _connection_count(self) -> int:
        return sum(len(links) for links in self._links.values())

    def _connection(self, links: list[_Link]) -> Connection:
        first = links[0]
        return Connection(
            peer=first.peer,
            address=first.address,
            is_relayed=False,
            is_outbound=first.is_outbound,
            rtt_s=first.muxer.rtt() or None,
            bytes_sent=sum(link.socket.own.bytes_sent for link in links),
            bytes_received=sum(link.socket.own.bytes_received for link in links),
        )

    def _tell(self, event: PeerEvent) -> None:
        for listener in self._listeners:
            listener.send_nowait(event)

    # Streams.

    async def _open_stream(self, peer: PeerId) -> ByteStream | Refusal:
        if peer not in self._links:
            return Refusal(Code.UNREACHABLE, f"not connected to {peer}")
        target = ID.from_base58(peer)
        stream = await _contained("opening a stream", lambda: self._basic.new_stream(target, [RPC_PROTOCOL]))
        if stream is None:
            return Refusal(Code.UNREACHABLE, f"{peer} opens no stream for {RPC_PROTOCOL}")
        return _Stream(cast(Any, stream).muxed_stream)

    async def _accept_stream(self, stream: Any) -> None:
        """One inbound stream, from its negotiation to its end."""
        peer = PeerId(str(stream.muxed_conn.peer_id))
        if self._streams[peer] < self._limits.streams_per_peer_max:
            self._streams[peer] += 1
            try:
                await _contained("a stream", lambda: self._negotiate(stream))
            finally:
                self._streams[peer] -= 1
                if not self._streams[peer]:
                    del self._streams[peer]
        await _contained("ending a stream", stream.reset)

    async def _serve_rpc(self, stream: Any) -> None:
        await self._calls.handle_stream(PeerId(str(stream.muxed_conn.peer_id)), _Stream(stream.muxed_stream))


@asynccontextmanager
async def open_host(
    identity: Identity, listen: Sequence[str], limits: Limits | None = None, *, seed: int | None = None
) -> AsyncGenerator[Host]:
    """A node on the network, for as long as the context lasts.

    Args:
        identity: who the node is.
        listen: multiaddrs like /ip4/0.0.0.0/tcp/4001; port 0 for any free one; empty for a node that only dials.
        seed: of the jitter between dials; random if it is not given.

    Raises:
        HostError: an address cannot be listened on.
    """
    logging.getLogger("libp2p").setLevel(logging.CRITICAL)  # it logs every refused peer as an error, with traceback
    endpoints: list[Endpoint] = []
    for text in listen:
        endpoint = parse_endpoint(text)
        if isinstance(endpoint, Malformed):
            raise HostError(f"cannot listen on {text}: {endpoint.reason}")
        endpoints.append(endpoint)
    host = Host(identity, limits or Limits(), secrets.randbits(64) if seed is None else seed)
    async with trio.open_nursery() as nursery:
        await nursery.start(host.run, endpoints)
        yield host
        nursery.cancel_scope.cancel()
