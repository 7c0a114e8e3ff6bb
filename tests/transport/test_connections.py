"""Connections that come and go on one node, from every address of the world and on a virtual clock."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from shoal.transport.addresses import Endpoint, ip_endpoint
from shoal.transport.connections_service import HANDSHAKE_S, HANDSHAKES_MAX, REVIEW_S, Connections
from shoal.transport.dialer import Dialer
from shoal.transport.identity import Identity
from shoal.transport.limits import Limits
from shoal.transport.paths import Way
from shoal.transport.port import Code, PeerConnected, PeerDisconnected, PeerId, Refusal
from shoal.transport.tcp_service import Counter as Bytes
from shoal.transport.tcp_service import Socket

LIMITS = Limits(connections_max=32)  # 24 inbound strangers, 4 of one /24, 8 of one /16
QUIET_S, UNUSED_S = LIMITS.connection_quiet_s, LIMITS.connection_unused_s


def peer(index: int) -> PeerId:
    return Identity.from_seed(index.to_bytes(32, "big")).peer_id


@dataclass(eq=False)
class Proven:
    """The other side has proved who it is, and does what the test says."""

    peer: PeerId
    carried_bytes: int = 0
    is_at_rest: bool = True
    rtt_s: float | None = None
    stream_count: int = 0
    is_doubted: bool = False
    ended: trio.Event = field(default_factory=trio.Event)

    @property
    def is_over(self) -> bool:
        return self.ended.is_set()

    def doubt(self) -> None:
        self.is_doubted = True

    async def open_stream(self, protocol: str) -> Refusal:
        return Refusal(Code.UNREACHABLE, f"nobody serves {protocol} here")


class World:
    """One node's connections, and all who connect to it."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.proven: dict[PeerId, Proven] = {}
        self.busy: set[PeerId] = set()
        self.comes: PeerId | None = None
        dialer = Dialer(peer(0), seed=1)
        self.moves: list[PeerId] = []
        self.ways: dict[PeerId, Way] = {}
        self.connections = Connections(dialer, LIMITS, self.upgrade, self.pass_on, self)

    def is_busy(self, peer: PeerId) -> bool:
        return peer in self.busy

    def moved(self, peer: PeerId) -> None:
        self.moves.append(peer)

    def left(self, peer: PeerId) -> None: ...

    def changed(self, peer: PeerId, way: Way) -> None:
        self.ways[peer] = way

    def arrived(self, id: bytes) -> None: ...

    async def admit_bulk(self, socket: Socket, remote: Endpoint) -> None: ...

    async def upgrade(self, socket: Socket, peer: PeerId | None, *, is_initiator: bool) -> Proven | None:
        assert self.comes is not None
        proven = Proven(self.comes)
        if not self.connections.admits(proven.peer, socket):
            return None
        self.proven[proven.peer] = proven
        self.nursery.start_soon(self._live, socket, proven)
        return proven

    async def pass_on(self, relay: PeerId, target: PeerId) -> Socket | Refusal:
        return Refusal(Code.UNREACHABLE, f"{relay} knows no {target}")

    async def come(self, index: int, ip: str) -> bool:
        """Peer `index` connects from an address. Returns whether it is let in."""
        ours, theirs = trio.socket.socketpair()
        await theirs.send(b"\x13")  # multistream-select begins so
        self.comes = peer(index)
        self.nursery.start_soon(self._serve, Socket(trio.SocketStream(ours), Bytes()), ip)
        self.nursery.start_soon(self._hold, trio.SocketStream(theirs))
        await wait_all_tasks_blocked()
        return peer(index) in self.connections.peers

    async def _serve(self, socket: Socket, ip: str) -> None:
        await self.connections.admit(socket, ip_endpoint(ip, 1))
        socket.abort()

    async def _hold(self, stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()

    async def _live(self, socket: Socket, proven: Proven) -> None:
        with suppress(ConnectionResetError):
            await socket.read(2)  # the first one has come
        proven.ended.set()


@asynccontextmanager
async def world() -> AsyncGenerator[World]:
    async with trio.open_nursery() as nursery:
        here = World(nursery)
        await nursery.start(here.connections.run, [])
        yield here
        nursery.cancel_scope.cancel()


async def test_one_machine_with_many_keys_gets_the_seats_of_one_range(autojump_clock: MockClock) -> None:
    async with world() as here:
        came = [await here.come(index, "8.8.8.8") for index in range(1, 100)]
        assert came == [True] * 4 + [False] * 95
        wide = [await here.come(100 + index, f"8.8.{index}.1") for index in range(50)]
        assert wide.count(True) == 4
        assert await here.come(200, "9.9.9.9")


async def test_at_home_everybody_is_a_neighbour(autojump_clock: MockClock) -> None:
    async with world() as here:
        assert all([await here.come(index, f"192.168.1.{index}") for index in range(1, 25)])
        assert not await here.come(30, "127.0.0.1")


async def test_a_flood_from_the_whole_world_leaves_seats_for_a_kept_peer_however_it_comes(
    autojump_clock: MockClock,
) -> None:
    async with world() as here:
        here.connections.keep(peer(900), ())
        for index in range(1, 200):
            if await here.come(index, f"{index + 10}.{index}.1.1"):
                here.busy.add(peer(index))  # and stays for ever
        assert len(here.connections.peers) == 24
        assert await here.come(900, "11.1.1.1")
        assert len(here.connections.peers) == 25


async def test_newcomers_take_the_seats_of_the_longest_unused_and_of_nobody_else(autojump_clock: MockClock) -> None:
    async with world() as here, here.connections.events() as events:
        for index in range(1, 25):
            assert await here.come(index, f"{index + 10}.1.1.1")
            assert await events.receive() == PeerConnected(peer(index))
        assert not await here.come(50, "60.1.1.1")  # all are fresh
        await trio.sleep(QUIET_S)
        here.busy.add(peer(1))
        here.proven[peer(2)].carried_bytes += 1
        here.proven[peer(3)].is_at_rest = False
        assert await here.come(51, "61.1.1.1")
        assert {await events.receive(), await events.receive()} == {
            PeerDisconnected(peer(4)),
            PeerConnected(peer(51)),
        }
        assert here.proven[peer(4)].ended.is_set()


async def test_the_unused_are_hung_up_on_once_three_quarters_of_a_share_are_taken(autojump_clock: MockClock) -> None:
    async with world() as here:
        here.connections.keep(peer(20), ())
        for index in range(1, 23):
            assert await here.come(index, f"{index + 10}.1.1.1")
        assert len(here.connections.peers) == 22
        while trio.current_time() < 3 * UNUSED_S:
            await trio.sleep(REVIEW_S)
            here.proven[peer(1)].carried_bytes += 1
        assert len(here.connections.peers) == 18 + 1
        assert {peer(1), peer(20), peer(22)} <= set(here.connections.peers)
        assert not {peer(2), peer(3), peer(4)} & set(here.connections.peers)


async def test_a_kept_peers_older_connection_is_as_any_strangers(autojump_clock: MockClock) -> None:
    async with world() as here:
        here.connections.keep(peer(900), ())
        assert await here.come(900, "11.1.1.1")
        older = here.proven[peer(900)]
        assert await here.come(900, "11.1.1.1")
        for index in range(1, 24):
            assert await here.come(index, f"{index + 10}.1.1.1")
        await trio.sleep(QUIET_S)
        assert await here.come(50, "60.1.1.1")
        assert set(here.connections.peers) == {peer(index) for index in (*range(1, 24), 50, 900)}
        assert older.ended.is_set()
        assert not here.proven[peer(900)].ended.is_set()


async def test_a_second_connection_puts_the_first_in_doubt_and_takes_over(autojump_clock: MockClock) -> None:
    async with world() as here:
        assert await here.come(900, "11.1.1.1")
        first = here.proven[peer(900)]
        assert not here.moves
        assert await here.come(900, "12.1.1.1")
        assert first.is_doubted
        assert here.moves == [peer(900)]
        assert here.ways == {peer(900): Way.DIRECT}
        seen = here.connections.direct_endpoint(peer(900))
        assert seen is not None
        assert seen.host == "12.1.1.1"


async def test_who_is_cut_off_while_it_shakes_hands_leaves_nothing_behind(autojump_clock: MockClock) -> None:
    async with world() as here:
        handshakes = here.connections._handshakes  # pyright: ignore[reportPrivateUsage]
        for _ in range(3):
            ours, theirs = trio.socket.socketpair()
            with trio.move_on_after(1):  # as when the relay that carries it is gone
                await here.connections.admit(Socket(trio.SocketStream(ours), Bytes()), ip_endpoint("8.8.8.8", 1))
            ours.close()
            theirs.close()
        assert not handshakes


async def test_of_many_who_connect_at_once_and_say_nothing_a_bounded_number_is_waited_for(
    autojump_clock: MockClock,
) -> None:
    async with world() as here:
        handshakes = here.connections._handshakes  # pyright: ignore[reportPrivateUsage]
        pairs = [trio.socket.socketpair() for _ in range(3 * HANDSHAKES_MAX)]
        for ours, _ in pairs:
            socket = Socket(trio.SocketStream(ours), Bytes())
            here.nursery.start_soon(here.connections.admit, socket, ip_endpoint("8.8.8.8", 1))
        await wait_all_tasks_blocked()
        assert len(handshakes) == HANDSHAKES_MAX
        assert await here.come(1, "9.9.9.9")
        await trio.sleep(HANDSHAKE_S + 1)
        assert not handshakes
        assert peer(1) in here.connections.peers
        for each in (each for pair in pairs for each in pair):
            each.close()
