"""A node's real network: libp2p over TCP, secured by Noise, multiplexed by yamux. The only module that imports libp2p.

What a peer may do: open connections and streams, send any bytes, stop reading, freeze, vanish, at any moment. What it
cannot: connect under a peer id whose key it does not hold (Noise is the only handshake offered), make anything raise
past `contained`, hold more than its share of connections, streams and memory, or stay connected without answering.
"""

import collections
import logging
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Final, cast

import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.host.ping import ID as PING_PROTOCOL
from libp2p.host.ping import PingService
from libp2p.network.config import ConnectionConfig
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.protocol_muxer.generic_selector import GenericMultistreamSelector
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.exceptions import MuxedStreamEOF, MuxedStreamReset
from libp2p.tools.anyio_service import background_trio_service
from libp2p.transport.upgrader import TransportUpgrader
from multiaddr.multiaddr import Multiaddr

from .addresses import Endpoint, expanded, ordered, parse_endpoint
from .cards_service import Cards
from .connections_service import HANDSHAKES_MAX, Connections, Established
from .dialer import Dialer
from .gossip_service import GossipService
from .handling import handle_protocol
from .identity import Identity, public_key_of
from .limits import Limits
from .port import Address, Code, PeerId, Refusal, StreamBroken, Transport
from .relay import Relay, RelayLimits
from .relay_service import HOP_PROTOCOL, STOP_PROTOCOL, RelayService
from .secured_service import Secured, contained
from .service import CallService
from .tcp_service import HostError, Socket, listen, listening_endpoint
from .wire import Malformed
from .yamux_service import YamuxConnection, YamuxStream

__all__ = ["Host", "HostError", "open_host"]

RPC_PROTOCOL: Final = "/shoal/rpc/1"
YAMUX_PROTOCOL: Final = TProtocol("/yamux/1.0.0")
READ_BYTES_MAX: Final = 65_536  # that libp2p's own protocols may ask of a stream at once


class _Upgrader:
    """Turns a TCP connection into a secured and multiplexed one: Noise and yamux, and nothing else is on offer."""

    def __init__(self, key_pair: Any, streams_max: int, admits: Callable[[PeerId, Socket], bool]) -> None:
        noise = NoiseTransport(key_pair, noise_privkey=create_noise_key_pair().private_key)
        self._libp2p = TransportUpgrader({NOISE: noise}, {})
        self._muxers = GenericMultistreamSelector[None]()
        self._muxers.add_handler(YAMUX_PROTOCOL, None)
        self._streams_max = streams_max
        self._admits = admits

    async def upgrade_security(self, raw_conn: Any, is_initiator: bool, peer_id: ID | None = None) -> Any:
        secured = await self._libp2p.upgrade_security(raw_conn, is_initiator, peer_id)
        if not self._admits(PeerId(str(secured.get_remote_peer())), raw_conn.stream):
            await secured.close()
            raise ConnectionRefusedError(f"no further connection with {secured.get_remote_peer()}")
        raw_conn.stream.trust()
        return secured

    async def upgrade_connection(self, conn: Any, peer_id: ID) -> Any:
        await self._muxers.select(conn, conn.is_initiator)
        return _Muxer(conn, peer_id, self._streams_max)


class _Muxer:
    """A `YamuxConnection` as libp2p wants a multiplexer, and as `Connections` want an established connection."""

    def __init__(self, session: Any, peer_id: ID, streams_max: int) -> None:
        self._session = session
        self.peer_id = peer_id
        self.peer = PeerId(str(peer_id))
        self.is_initiator: bool = session.is_initiator
        self.event_started = trio.Event()
        self._connection = YamuxConnection(Secured(session), self.is_initiator, streams_max, self._accept)
        self.ended = self._connection.ended
        self._send, self._accepted = trio.open_memory_channel[YamuxStream](streams_max)

    async def start(self) -> None:
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._connection.run)
                self.event_started.set()
        finally:
            self._send.close()

    async def close(self) -> None:
        await self._connection.aclose()

    @property
    def rtt_s(self) -> float | None:
        return self._connection.mux.rtt_s

    @property
    def carried_bytes(self) -> int:
        return self._connection.mux.carried_bytes

    @property
    def is_at_rest(self) -> bool:
        return self._connection.is_at_rest

    @property
    def is_established(self) -> bool:
        return self.event_started.is_set() and not self.is_closed

    @property
    def is_closed(self) -> bool:
        return self._connection.mux.over is not None

    async def open_stream(self) -> "_MuxedStream":
        return _MuxedStream(self, self._connection.open_stream())

    async def accept_stream(self) -> "_MuxedStream":
        return _MuxedStream(self, await self._accepted.receive())

    def get_transport_addresses(self) -> list[Multiaddr]:
        return cast(list[Multiaddr], self._session.get_transport_addresses())

    def get_connection_type(self) -> Any:
        return self._session.get_connection_type()

    def get_remote_address(self) -> tuple[str, int] | None:
        return cast("tuple[str, int] | None", self._session.get_remote_address())

    def _accept(self, stream: YamuxStream) -> None:
        try:
            self._send.send_nowait(stream)
        except (trio.WouldBlock, trio.ClosedResourceError, trio.BrokenResourceError):
            stream.reset()


class _MuxedStream:
    """A `YamuxStream` as libp2p wants a stream."""

    def __init__(self, muxed_conn: _Muxer, stream: YamuxStream) -> None:
        self.muxed_conn = muxed_conn
        self.stream = stream

    async def read(self, n: int | None = None) -> bytes:
        if n is not None and n > READ_BYTES_MAX:  # libp2p believes any length that a peer announces
            raise MuxedStreamReset(f"{n} bytes where {READ_BYTES_MAX} are allowed")
        try:
            data = await self.stream.receive_some(READ_BYTES_MAX if n is None or n < 0 else n)
        except StreamBroken as error:
            raise MuxedStreamReset(str(error)) from error
        if not data:
            raise MuxedStreamEOF
        return data

    async def write(self, data: bytes) -> None:
        try:
            await self.stream.send_all(data)
        except StreamBroken as error:
            raise MuxedStreamReset(str(error)) from error

    async def close(self) -> None:
        await self.stream.finish()

    async def reset(self) -> None:
        self.stream.reset()
        await trio.lowlevel.checkpoint()

    def get_remote_address(self) -> tuple[str, int] | None:
        return self.muxed_conn.get_remote_address()


class _NoAutoConnector:
    """Takes the place of what dials any peer that libp2p has heard of, and remembers all that ever disconnected."""

    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    async def run_background_task(self, nursery: trio.Nursery) -> None: ...
    async def maybe_connect(self) -> None: ...
    def record_disconnect(self, peer_id: ID) -> None: ...


def _bare_libp2p(
    identity: Identity, limits: Limits, admits: Callable[[PeerId, Socket], bool]
) -> tuple[Swarm, BasicHost]:
    """libp2p without what it would dial, answer or ask of its own accord."""
    key_pair = create_new_key_pair(identity.seed)
    own_id = ID.from_pubkey(key_pair.public_key)
    peers = PeerStore()
    peers.add_key_pair(own_id, key_pair)
    config = ConnectionConfig(
        max_connections=2 * limits.connections_max + HANDSHAKES_MAX,  # `Connections` decides who gets in
        min_connections=0,
        low_watermark=0,
        high_watermark=2 * limits.connections_max + HANDSHAKES_MAX,  # above it libp2p closes some of its choice
        max_connections_per_peer=limits.connections_per_peer_max,
    )
    upgrader = cast(Any, _Upgrader(key_pair, limits.streams_per_peer_max, admits))
    swarm = Swarm(own_id, peers, upgrader, [], None, config)
    swarm.auto_connector = cast(Any, _NoAutoConnector())
    basic = BasicHost(swarm, disable_identify_address_discovery=True)
    for protocol in basic.get_mux().get_protocols():
        basic.remove_stream_handler(cast(TProtocol, protocol))  # their handlers store what peers push
    for notifee in list(swarm.notifees):
        swarm.remove_notifee(notifee)  # identify asks each peer for any number of addresses; nobody reads them
    return swarm, basic


class Host:
    """The Transport of a running node. Obtained from `open_host`."""

    def __init__(
        self, identity: Identity, limits: Limits, relay: RelayLimits | None, relays: Sequence[Endpoint], seed: int
    ) -> None:
        self._swarm, self._basic = _bare_libp2p(identity, limits, self._admits)
        self._negotiate = cast(Any, self._basic)._swarm_stream_handler  # agrees on a protocol, runs its handler
        self._swarm.set_stream_handler(self._accept_stream)
        self._basic.set_stream_handler(PING_PROTOCOL, PingService(self._basic).handle_ping)
        self._limits = limits
        self._listening: list[Endpoint] = []
        self._cards = Cards()
        self._streams: collections.Counter[PeerId] = collections.Counter()
        self._calls = CallService(identity.peer_id, limits, partial(self._open_stream, protocol=RPC_PROTOCOL))
        self._relay = RelayService(None if relay is None else Relay(relay), relays, self._open_stream)
        self._dialer = Dialer(identity.peer_id, seed)
        self._connections = Connections(
            self._dialer, limits, self._secure, self._relay.pass_on, self._is_busy, self._calls.drop
        )
        self.serve_protocol(RPC_PROTOCOL, self._calls.handle_stream)
        if relay is not None:
            self.serve_protocol(HOP_PROTOCOL, partial(self._relay.serve_hop, self._connections))
        if relays:
            self.serve_protocol(STOP_PROTOCOL, partial(self._relay.serve_stop, self._connections))
        self._gossip = GossipService(self._calls, self._connections.events)
        self.peer_id = identity.peer_id
        self.serve = self._calls.serve
        self.serve_stream = self._calls.serve_stream
        self.stop_serving = self._calls.stop_serving
        self.request = self._calls.request
        self.stream = self._calls.stream
        self.publish = self._gossip.publish
        self.heard = self._gossip.heard
        self.subscribe = self._gossip.subscribe
        self.connections = self._connections.connections
        self.traffic = self._connections.traffic
        self.events = self._connections.events
        self.connect = self._connections.connect
        self.keep = self._connections.keep
        self.release = self._connections.release

    def addresses(self) -> tuple[Address, ...]:
        """As `Transport.addresses`."""
        found: list[Endpoint] = []
        for endpoint in self._listening:
            found += expanded(endpoint, self._cards.ips(endpoint.kind))
        found = [replace(endpoint, peer=self.peer_id) for endpoint in found]
        return tuple(endpoint.address for endpoint in ordered([*found, *self._relay.endpoints(self.peer_id)]))

    def serve_protocol(self, protocol: str, handler: Callable[[PeerId, YamuxStream], Awaitable[None]]) -> None:
        """As `Transport.serve_protocol`."""

        async def serve(stream: Any) -> None:
            await handle_protocol(protocol, stream.muxed_conn.peer, stream.muxed_stream.stream, handler)

        self._basic.set_stream_handler(TProtocol(protocol), serve)

    async def open_protocol(self, peer: PeerId, protocol: str, *, timeout_s: float) -> YamuxStream | Refusal:
        """As `Transport.open_protocol`."""
        with trio.move_on_after(timeout_s):
            return await self._open_stream(peer, protocol)
        return Refusal(Code.DEADLINE_EXCEEDED, f"{peer} opens no stream for {protocol} in {timeout_s:g} s")

    async def run(
        self,
        listeners: Sequence[trio.SocketListener],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Be on the network until cancelled."""
        self._listening = [listening_endpoint(listener) for listener in listeners]
        async with background_trio_service(self._swarm), trio.open_nursery() as nursery:
            await self._swarm.event_background_nursery_created.wait()
            nursery.start_soon(self._cards.follow, self._dialer.lead_out)
            await nursery.start(self._calls.run)
            await nursery.start(self._connections.run, listeners)
            await nursery.start(self._gossip.run)
            await nursery.start(self._relay.run, self._connections)
            task_status.started()
            await trio.sleep_forever()

    async def _secure(self, socket: Socket, remote: Endpoint, peer: PeerId | None) -> Established | None:
        """Noise and yamux over a fresh socket or circuit."""
        raw = RawConnection(cast(Any, socket), peer is not None)
        if peer is None:
            maddr = Multiaddr(remote.address)  # it is only logged
            muxer = await contained("a handshake", lambda: self._swarm.upgrade_inbound_raw_conn(raw, maddr))
            return cast(_Muxer | None, muxer)
        target = ID.from_base58(peer)
        connection = await contained("a handshake", lambda: self._swarm.upgrade_outbound_raw_conn(raw, target))
        return None if connection is None else cast(_Muxer, connection.muxed_conn)

    def _admits(self, peer: PeerId, socket: Socket) -> bool:
        # Ids of keys other than Ed25519 are no PeerId of ours.
        return public_key_of(peer) is not None and self._connections.admits(peer, socket)

    def _is_busy(self, peer: PeerId) -> bool:
        return self._calls.is_busy(peer) or self._relay.is_busy(peer)

    async def _open_stream(self, peer: PeerId, protocol: str) -> YamuxStream | Refusal:
        if peer not in self._connections.peers:
            return Refusal(Code.UNREACHABLE, f"not connected to {peer}")
        target = ID.from_base58(peer)
        stream = await contained("opening a stream", lambda: self._basic.new_stream(target, [TProtocol(protocol)]))
        if stream is None:
            return Refusal(Code.UNREACHABLE, f"{peer} opens no stream for {protocol}")
        return cast(_MuxedStream, cast(Any, stream).muxed_stream).stream

    async def _accept_stream(self, stream: Any) -> None:
        """One inbound stream, from its negotiation to its end."""
        peer, muxed = cast(_Muxer, stream.muxed_conn).peer, cast(_MuxedStream, stream.muxed_stream)
        if self._streams[peer] >= self._limits.streams_per_peer_max:
            muxed.stream.reset()
            return
        self._streams[peer] += 1
        try:
            await contained("a stream", lambda: self._negotiate(stream))
            await muxed.stream.aclose()
        finally:
            self._streams[peer] -= 1
            if not self._streams[peer]:
                del self._streams[peer]


@asynccontextmanager
async def open_host(
    identity: Identity,
    listen_on: Sequence[str],
    limits: Limits | None = None,
    *,
    relay: RelayLimits | None = None,
    relays: Sequence[str] = (),
    seed: int | None = None,
) -> AsyncGenerator[Transport]:
    """A node on the network, for as long as the context lasts.

    Args:
        identity: who the node is.
        listen_on: multiaddrs like /ip4/0.0.0.0/tcp/4001; port 0 for any free one; empty for a node that only dials.
        relay: what it passes on for others; None: nothing.
        relays: addresses of relays, through which others reach it.
        seed: of the jitter between dials; random if it is not given.

    Raises:
        HostError: an address cannot be listened on, or is not that of a relay.
    """
    logging.getLogger("libp2p").setLevel(logging.CRITICAL)  # it logs every refused peer as an error, with traceback
    async with AsyncExitStack() as stack:
        listeners = [await stack.enter_async_context(await _listener(address)) for address in listen_on]
        places = [_relay(address) for address in relays]
        host = Host(identity, limits or Limits(), relay, places, secrets.randbits(64) if seed is None else seed)
        async with trio.open_nursery() as nursery:
            await nursery.start(host.run, listeners)
            yield host
            nursery.cancel_scope.cancel()


async def _listener(address: str) -> trio.SocketListener:
    endpoint = parse_endpoint(address)
    if isinstance(endpoint, Malformed):
        raise HostError(f"cannot listen: {endpoint.reason}")
    if endpoint.relay is not None:
        raise HostError(f"cannot listen on {address}: to be reached through a relay, name its address in relays")
    return await listen(endpoint)


def _relay(address: str) -> Endpoint:
    endpoint = parse_endpoint(address)
    if isinstance(endpoint, Malformed) or endpoint.peer is None or endpoint.relay is not None:
        raise HostError(f"relays: expected an address like /ip4/192.0.2.1/tcp/4001/p2p/12D3KooW..., got {address!r}")
    return endpoint
