"""A node's real network: TCP, secured by Noise, multiplexed by yamux, put together from its parts.

What a peer may do: open connections and streams, send any bytes, stop reading, freeze, vanish, at any moment. What it
cannot: hold more than its share of connections, streams and memory, or stay connected without answering.
"""

import logging
import secrets
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Final

import trio

from .addresses import Endpoint, expanded, ordered, parse_endpoint
from .bulk_plane_service import BulkPlane
from .cards_service import LOOPBACK, Cards
from .connections_service import Connections
from .dialer import Dialer
from .gossip_service import GossipService
from .identity import Identity
from .libp2p_service import Upgrader
from .limits import Limits
from .paths import Way
from .port import Address, ByteStream, Code, Connection, PeerId, Reach, Refusal, Traffic, Undialed, Verdict
from .port_mapping import Mapping
from .port_mapping_service import PortMappingService
from .probing_service import probe
from .punching import WORDS
from .punching_service import PunchingService
from .reachability_service import ReachabilityService
from .relay import Relay, RelayLimits
from .relay_service import HOP_PROTOCOL, STOP_PROTOCOL, RelayService
from .service import CallService
from .tcp_service import HostError, Socket, listen, listening_endpoint
from .wire import Malformed
from .yamux_service import YamuxStream

__all__ = ["Host", "HostError", "open_host"]

RPC_PROTOCOL: Final = "/shoal/rpc/1"
PING_PROTOCOL: Final = "/ipfs/ping/1.0.0"  # libp2p's: what comes goes back

log = logging.getLogger(__name__)


class Host:
    """The Transport of a running node. Obtained from `open_host`."""

    def __init__(
        self, identity: Identity, limits: Limits, relay: RelayLimits | None, relays: Sequence[Endpoint], seed: int
    ) -> None:
        self._listening: list[Endpoint] = []
        self._announced: list[Endpoint] = []
        self._mapping: PortMappingService | None = None
        self._cards = Cards()
        self._upgrader = Upgrader(identity, limits, self._admits)
        self._calls = CallService(identity.peer_id, limits, partial(self._open_stream, protocol=RPC_PROTOCOL))
        self._relay = self.relaying = RelayService(None if relay is None else Relay(relay), relays, self._open_stream)
        self._dialer = Dialer(identity.peer_id, seed)
        self._connections = Connections(self._dialer, limits, self._upgrader.upgrade, self._relay.pass_on, self)
        self._reachability = ReachabilityService(
            self._calls, self._connections, self._ports, self._cards.all, self._reach_changed
        )
        self._punching = PunchingService(identity.peer_id, self._calls, self._connections, self)
        self.serve_protocol(RPC_PROTOCOL, self._calls.handle_stream)
        self.serve_protocol(PING_PROTOCOL, _echo)
        if relay is not None:
            self.serve_protocol(HOP_PROTOCOL, partial(self._relay.serve_hop, self._connections))
        self.serve_protocol(STOP_PROTOCOL, partial(self._relay.serve_stop, self._connections))
        self._plane = BulkPlane(limits, self._calls, self._connections.books, self._connections.total)
        self.bulk = self._plane if limits.bulk_connections_max else None
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
        self.events = self._connections.events
        self.connect = self._connections.connect
        self.keep = self._connections.keep
        self.release = self._connections.release
        self.missing = self._dialer.missing

    def addresses(self) -> tuple[Address, ...]:
        """As `Transport.addresses`."""
        found: list[Endpoint] = [*self._announced, *self._reachability.state.endpoints]
        for endpoint in self._listening:
            found += expanded(endpoint, self._cards.ips(endpoint.kind))
        found = [replace(endpoint, peer=self.peer_id) for endpoint in found]
        return tuple(endpoint.address for endpoint in ordered([*found, *self._relay.endpoints(self.peer_id)]))

    def connections(self) -> tuple[Connection, ...]:
        """As `Transport.connections`."""
        return tuple(self._described(each) for each in self._connections.connections())

    def traffic(self) -> Traffic:
        """As `Transport.traffic`."""
        own, bulk = self._connections.traffic(), self._plane.traffic()
        return Traffic(own.bytes_sent + bulk.bytes_sent, own.bytes_received + bulk.bytes_received)

    def reach(self) -> Reach:
        """As `Transport.reach`."""
        state = self._reachability.state
        return Reach(
            state.verdict,
            state.reason,
            nat=WORDS[state.mapping],
            outside=tuple(sorted(state.outside_ips)),
            port_mapping=self._port_mapping(),
            is_port_mapped=self._mapping is not None and self._mapping.mapping is not None,
            relays=self._relay.places(),
        )

    async def probe(self, address: Address, *, timeout_s: float) -> Undialed | None:
        """As `Transport.probe`."""
        return await probe(self.peer_id, self._connections, self._upgrader.prove, address, timeout_s=timeout_s)

    def announce(self, addresses: Iterable[str]) -> None:
        """Tell others these addresses, too: their owner says that they lead here. Raises HostError."""
        for address in addresses:
            endpoint = parse_endpoint(address)
            if (
                isinstance(endpoint, Malformed)
                or endpoint.relay is not None
                or endpoint.peer not in (None, self.peer_id)
            ):
                raise HostError(f"announce: expected an address like /ip4/192.0.2.1/tcp/4001, got {address!r}")
            self._announced.append(endpoint)

    async def map_port(self) -> None:
        """Keep a port of the home's router that leads here, until cancelled; where no router can help, do nothing."""
        behind = [each for each in self._listening if each.kind == "ip4" and (each.is_wildcard or each.is_lan)]
        if behind:
            seed = zlib.crc32(self.peer_id.encode())  # where the port is taken, the same other one at each start
            self._mapping = PortMappingService(behind[0].port, seed, self._mapped)
            await self._mapping.run()

    def serve_protocol(self, protocol: str, handler: Callable[[PeerId, YamuxStream], Awaitable[None]]) -> None:
        """As `Transport.serve_protocol`."""
        self._upgrader.handle(protocol, handler)

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
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cards.follow, self._dialer.lead_out, self._moved, self._unsettled)
            await nursery.start(self._upgrader.run)
            await nursery.start(self._calls.run)
            await nursery.start(self._plane.run)
            await nursery.start(self._connections.run, listeners)
            await nursery.start(self._gossip.run)
            await nursery.start(self._relay.run, self._connections)
            await nursery.start(self._reachability.run)
            await nursery.start(self._punching.run)
            task_status.started()
            await trio.sleep_forever()

    # What `Connections` ask and tell.

    def is_busy(self, peer: PeerId) -> bool:
        """Whether something is under way with a peer, for which its connections must stand."""
        return self._calls.is_busy(peer) or self._relay.is_busy(peer) or self._plane.is_busy(peer)

    def moved(self, peer: PeerId) -> None:
        """There is a better connection with a peer."""
        self._calls.move(peer)

    def left(self, peer: PeerId) -> None:
        """The last connection with a peer is gone."""
        self._calls.drop(peer)
        self._plane.left(peer)

    def changed(self, peer: PeerId, way: Way) -> None:
        """A connection with a peer has come or gone: that is its best way now."""
        self._punching.changed(peer, way)
        if way is Way.DIRECT:
            self._reachability.look_at(peer)

    def arrived(self, id: bytes) -> None:
        """Somebody has shown an id at a listening port."""
        self._reachability.arrived(id)

    async def admit_bulk(self, socket: Socket, remote: Endpoint) -> None:
        """Somebody begins TLS at a listening port. Raises ConnectionResetError."""
        await self._plane.admit(socket, remote)

    # What punching asks.

    def observers(self, kind: str) -> list[Endpoint]:
        """Whom to ask as whom one is seen, by ip4 or ip6, the best first."""
        return self._reachability.observers(kind)

    def local_ips(self) -> frozenset[str]:
        """Of this machine, but loopback."""
        return self._cards.all()

    def listening(self) -> list[Endpoint]:
        """Where this node is dialed: where others have got through, and on its own network."""
        found = list(self._reachability.state.endpoints)
        for endpoint in self._listening:
            found += [each for each in expanded(endpoint, self._cards.ips(endpoint.kind)) if each.is_lan]
        return found

    def _moved(self) -> None:
        """The machine was carried to another network."""
        if self._mapping is not None:
            self._mapping.network_changed()
        log.info("this machine's addresses have changed: %s", ", ".join(sorted(self._cards.all())) or "none")
        self._connections.network_changed({*self._cards.all(), *LOOPBACK})
        self._reachability.network_changed()

    def _unsettled(self) -> None:
        """Something about the network has changed."""
        self._connections.doubt()
        self._reachability.look_soon()

    def _reach_changed(self, is_elsewhere: bool) -> None:
        self._relay.stand(is_public=self._reachability.state.verdict is not Verdict.PRIVATE)
        if is_elsewhere:
            self._punching.network_changed()
            if self._mapping is not None:
                self._mapping.network_changed()

    def _mapped(self, mapping: Mapping | None, reason: str) -> None:
        log.info("port mapping: %s", reason if mapping is None else f"{mapping.host}, port {mapping.port}, leads here")
        self._reachability.ports_changed()

    def _port_mapping(self) -> str:
        if self._mapping is None:
            return "not asked for"
        mapping = self._mapping.mapping
        if mapping is None:
            return self._mapping.reason
        return f"{mapping.host}, port {mapping.port}, by {mapping.protocol.value}"

    def _ports(self) -> list[int]:
        mapping = None if self._mapping is None else self._mapping.mapping
        mapped = [] if mapping is None else [mapping.port]
        known = [*mapped, *(each.port for each in (*self._announced, *self._listening))]
        return list(dict.fromkeys(known))

    def _described(self, connection: Connection) -> Connection:
        traffic, (bulk, rate) = self._plane.traffic(connection.peer), self._plane.describe(connection.peer)
        return replace(
            connection,
            note=self._note(connection.peer),
            bytes_sent=connection.bytes_sent + traffic.bytes_sent,
            bytes_received=connection.bytes_received + traffic.bytes_received,
            bulk=bulk,
            bulk_bytes_per_s=rate,
        )

    def _note(self, peer: PeerId) -> str:
        steps = self._punching.paths.steps(peer)
        return steps[-1].reason if steps else ""

    def _admits(self, peer: PeerId, socket: Socket) -> bool:
        return self._connections.admits(peer, socket)

    async def _open_stream(self, peer: PeerId, protocol: str) -> YamuxStream | Refusal:
        return await self._connections.open_stream(peer, protocol)


async def _echo(peer: PeerId, stream: ByteStream) -> None:
    del peer
    while data := await stream.receive_some():
        await stream.send_all(data)


@asynccontextmanager
async def open_host(
    identity: Identity,
    listen_on: Sequence[str],
    limits: Limits | None = None,
    *,
    relay: RelayLimits | None = None,
    relays: Sequence[str] = (),
    seed: int | None = None,
) -> AsyncGenerator[Host]:
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
