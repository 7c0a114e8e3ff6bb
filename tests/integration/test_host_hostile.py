"""What peers may do to a node over real sockets, and what it must survive."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import pytest
import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.host.ping import PingService
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.exceptions import SwarmException
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.protocol_muxer.exceptions import MultiselectClientError
from libp2p.protocol_muxer.multiselect_client import MultiselectClient
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID, InsecureTransport
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.security.security_multistream import SecurityMultistream
from libp2p.stream_muxer.yamux.yamux import Yamux
from multiaddr.multiaddr import Multiaddr

from shoal.transport.connections_service import HANDSHAKE_S, HANDSHAKES_MAX
from shoal.transport.host import open_host
from shoal.transport.identity import Identity
from shoal.transport.limits import Limits
from shoal.transport.port import (
    Address,
    Call,
    Code,
    PeerConnected,
    PeerDisconnected,
    PeerId,
    Refusal,
    Streaming,
    Transport,
    Unary,
)
from shoal.transport.rpc import Role, Session
from shoal.transport.rpc_events import Closed, Received, Stopped
from shoal.transport.token_bucket import TokenBucket
from shoal.transport.wire import Malformed, Message, decode, encode
from shoal.transport.yamux import DEAD_S, PING_S

ECHO_BYTES: Final = 2**20 - 16
ECHO_COUNT: Final = 6
FUZZ_COUNT: Final = 500 if os.environ.get("SHOAL_SOAK") else 40


class Blob(Message, frozen=True):
    data: bytes


ECHO = Unary("/test/1/echo", Blob, Blob, 2**20, 2**20)
FAIL = Unary("/test/1/fail", Blob, Blob)
STREAM = Streaming("/test/1/stream", Blob, Blob, 2**20, 2**20)


def identity(index: int) -> Identity:
    return Identity.from_seed(bytes([index]) * 32)


@asynccontextmanager
async def node(index: int, limits: Limits | None = None) -> AsyncGenerator[Transport]:
    async with open_host(identity(index), ["/ip4/127.0.0.1/tcp/0"], limits, seed=index) as transport:
        transport.serve(ECHO, lambda _, request: request)
        yield transport


def port_of(transport: Transport) -> int:
    return int(transport.addresses()[-1].split("/")[4])


async def assert_well(transport: Transport, index: int = 99) -> None:
    """A peer that behaves is served as ever."""
    async with node(index) as friend:
        assert await friend.connect(transport.addresses()[-1], timeout_s=10) == transport.peer_id
        assert await friend.request(transport.peer_id, ECHO, Blob(b"well?"), timeout_s=10) == Blob(b"well?")


@asynccontextmanager
async def raw(transport: Transport) -> AsyncGenerator[trio.SocketStream]:
    async with await trio.open_tcp_stream("127.0.0.1", port_of(transport)) as stream:
        yield stream


@asynccontextmanager
async def proven(transport: Transport, index: int = 50) -> AsyncGenerator[Any]:
    """A connection after the Noise handshake, by libp2p's own code; what follows is the test's."""
    async with raw(transport) as stream:
        key_pair = create_new_key_pair(identity(index).seed)
        noise = NoiseTransport(key_pair, noise_privkey=create_noise_key_pair().private_key)
        connection: Any = RawConnection(TrioTCPStream(stream), True)
        yield await SecurityMultistream({NOISE: noise}).secure_outbound(connection, ID.from_base58(transport.peer_id))


async def select(connection: Any, protocol: str) -> None:
    await MultiselectClient().select_one_of([TProtocol(protocol)], MultiselectCommunicator(connection), 10)


async def read_to_end(stream: trio.SocketStream) -> bytes:
    data = b""
    try:
        while piece := await stream.receive_some():
            data += piece
    except trio.BrokenResourceError:
        pass
    return data


def line(text: str) -> bytes:
    return bytes([len(text) + 1]) + text.encode() + b"\n"


@pytest.mark.parametrize("protocol", ["/plaintext/2.0.0", "/tls/1.0.0", "/secio/1.0.0", "/noise-ik"])
async def test_no_handshake_but_noise_is_on_offer(protocol: str) -> None:
    async with node(1) as one, raw(one) as stream:
        await stream.send_all(line("/multistream/1.0.0") + line(protocol) + line("ls"))
        data = b""
        with trio.fail_after(5):
            while b"/noise" not in data:
                data += await stream.receive_some()
        assert data.startswith(line("/multistream/1.0.0") + line("na"))
        assert protocol not in data.decode().split("\n")


async def test_nobody_connects_under_anothers_id_by_plaintext() -> None:
    async with node(1) as one:
        key_pair = create_new_key_pair(identity(7).seed)
        liar = new_host(key_pair=key_pair, sec_opt={TProtocol(PLAINTEXT_PROTOCOL_ID): InsecureTransport(key_pair)})
        async with liar.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]):
            with pytest.raises(SwarmException):
                await liar.connect(info_from_p2p_addr(Multiaddr(one.addresses()[-1])))
            answer = await one.connect(Address(str(liar.get_addrs()[0])), timeout_s=5)
            assert isinstance(answer, Refusal)
            await liar.close()
        assert not one.connections()


async def test_no_multiplexer_but_yamux_is_on_offer() -> None:
    async with node(1) as one, proven(one) as connection:
        with pytest.raises(MultiselectClientError):
            await select(connection, "/mplex/6.7.0")


async def test_libp2ps_own_host_connects_and_pings() -> None:
    """Two implementations of yamux and of the stream negotiation understand each other, in both directions."""
    async with node(1) as one:
        other = new_host(key_pair=create_new_key_pair(identity(7).seed))
        async with other.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]):
            await other.connect(info_from_p2p_addr(Multiaddr(one.addresses()[-1])))
            rtts = await PingService(other).ping(ID.from_base58(one.peer_id), ping_amt=3)
            assert len(rtts) == 3
            assert [connection.peer for connection in one.connections()] == [identity(7).peer_id]
            await other.close()


async def test_libp2ps_own_yamux_carries_megabytes_both_ways() -> None:
    """More than its window of 256 KiB, each way at once, through an echo: so both sides must give windows back."""
    message = Blob(random.Random(1).randbytes(ECHO_BYTES))
    session = Session(Role.CLIENT, Limits(), {}, TokenBucket(1.0, 1))
    async with node(1) as one, proven(one) as connection, trio.open_nursery() as nursery:
        await select(connection, "/yamux/1.0.0")
        yamux = Yamux(connection, ID.from_base58(one.peer_id), is_initiator=True)
        nursery.start_soon(yamux.start)
        await yamux.event_started.wait()
        stream: Any = await yamux.open_stream()
        await select(stream, "/shoal/rpc/1")
        calls = [session.open(ECHO, 60.0, 0.0) for _ in range(ECHO_COUNT)]
        for call in calls:
            assert isinstance(call, int)
            assert session.send(call, encode(message), is_last=True) is None

        wake, woken = trio.open_memory_channel[None](1)

        async def write() -> None:
            async for _ in woken:
                while session.has_output:
                    await stream.write(session.output()[0])

        nursery.start_soon(write)
        wake.send_nowait(None)
        replies: list[Blob | Malformed] = []
        with trio.fail_after(60):
            while len(replies) < ECHO_COUNT:
                events = session.receive(await stream.read(65_536), 0.0)
                assert not any(isinstance(event, Stopped | Closed) for event in events)
                received = [event for event in events if isinstance(event, Received)]
                replies += [decode(memoryview(event.data), Blob, 2**20) for event in received]
                with suppress(trio.WouldBlock):  # the writer looks anyway
                    wake.send_nowait(None)
        wake.close()
        assert replies == [message] * ECHO_COUNT
        await yamux.close()


async def test_bytes_without_a_handshake_are_bounded() -> None:
    async with node(1) as one, raw(one) as stream:
        announced = b"\xff" * 8 + b"\x3f"  # a length prefix of 2^62, which libp2p would believe
        with trio.fail_after(10), pytest.raises(trio.BrokenResourceError):
            await stream.send_all(announced + bytes(64 * 2**20))
        await assert_well(one)


async def test_who_connects_and_says_nothing_holds_up_nobody() -> None:
    async with node(1) as one, trio.open_nursery() as nursery:

        async def hold(task_status: trio.TaskStatus[None]) -> None:
            async with raw(one) as stream:
                task_status.started()
                await read_to_end(stream)
                await trio.sleep_forever()

        for _ in range(HANDSHAKES_MAX + 10):
            await nursery.start(hold)
        started_at = trio.current_time()
        await assert_well(one)
        assert trio.current_time() - started_at < HANDSHAKE_S / 2
        nursery.cancel_scope.cancel()


async def test_connections_with_one_peer_and_in_all_are_bounded() -> None:
    limits = Limits(connections_max=8, connections_per_peer_max=2)
    async with node(1, limits) as one, one.events() as events, trio.open_nursery() as nursery:

        async def stay(index: int, task_status: trio.TaskStatus[None]) -> None:
            async with proven(one, index) as connection:
                await select(connection, "/yamux/1.0.0")
                task_status.started()
                await trio.sleep_forever()

        await nursery.start(stay, 50)
        assert await events.receive() == PeerConnected(identity(50).peer_id)
        await nursery.start(stay, 50)
        with pytest.raises(BaseLibp2pError):
            await nursery.start(stay, 50)
        for index in (51, 52, 53, 54):
            await nursery.start(stay, index)
            assert await events.receive() == PeerConnected(identity(index).peer_id)
        assert len(one.connections()) == 5  # 6 connections of 8: the rest is for whom we dial
        with pytest.raises(BaseLibp2pError):
            await nursery.start(stay, 60)
        async with node(2) as two:
            assert await one.connect(two.addresses()[-1], timeout_s=5) == two.peer_id
        nursery.cancel_scope.cancel()


async def test_a_connection_that_ended_frees_its_place() -> None:
    """libp2p's own listener holds it until the node stops: after so many connections nobody gets in any more."""
    async with node(1, Limits(connections_max=4)) as one, one.events() as events:
        for index in range(12):
            await assert_well(one, 100 + index)
            assert await events.receive() == PeerConnected(identity(100 + index).peer_id)
            assert await events.receive() == PeerDisconnected(identity(100 + index).peer_id)


async def test_an_exception_in_a_handler_is_a_refusal_and_the_node_goes_on() -> None:
    async with node(1) as one, node(2) as two:

        def fail(_: PeerId, request: Blob) -> Blob:
            raise ValueError("a bug")

        two.serve(FAIL, fail)
        await one.connect(two.addresses()[-1], timeout_s=5)
        answer = await one.request(two.peer_id, FAIL, Blob(b""), timeout_s=5)
        assert isinstance(answer, Refusal)
        assert answer.code == Code.INTERNAL
        await assert_well(two)


@pytest.mark.parametrize("seed", range(8))
async def test_cancelling_callers_in_mid_write_leaves_the_connection_whole(seed: int) -> None:
    chance = random.Random(seed)
    async with node(1) as one, node(2) as two:
        await one.connect(two.addresses()[-1], timeout_s=5)
        async with one.events() as events:
            assert await events.receive() == PeerConnected(two.peer_id)
            for _ in range(60):
                with trio.move_on_after(0.012 * chance.random()):
                    async with trio.open_nursery() as nursery:
                        for _ in range(chance.randrange(1, 9)):
                            nursery.start_soon(ask, one, two.peer_id, 1_000_000)
            assert await one.request(two.peer_id, ECHO, Blob(b"whole?"), timeout_s=10) == Blob(b"whole?")
            with pytest.raises(trio.WouldBlock):
                events.receive_nowait()


async def ask(one: Transport, peer: PeerId, size: int) -> None:
    await one.request(peer, ECHO, Blob(bytes(size)), timeout_s=10)


async def test_a_reader_that_pauses_for_six_seconds_gets_everything_in_the_end() -> None:
    async with node(1) as one, node(2) as two, trio.open_nursery() as nursery:
        resume = trio.Event()

        async def slow(_: PeerId, call: Call[Blob, Blob]) -> Refusal | None:
            await resume.wait()
            total = 0
            while isinstance(message := await call.receive(), Blob):
                total += len(message.data)
            await call.send(Blob(str(total).encode()))
            return None

        two.serve_stream(STREAM, slow)
        await one.connect(two.addresses()[-1], timeout_s=5)

        async def later() -> None:
            await trio.sleep(6)  # libp2p's yamux resets the stream after 5
            resume.set()

        nursery.start_soon(later)
        async with one.stream(two.peer_id, STREAM, timeout_s=30) as call:
            for _ in range(30):
                assert await call.send(Blob(bytes(1_000_000))) is None
            await call.finish()
            assert await call.receive() == Blob(b"30000000")


class Proxy:
    """Carries TCP connections to a node in pieces of some size, or, once it is dark, swallows all."""

    def __init__(self, target: Transport, piece_bytes: int) -> None:
        self.is_dark = False
        self._target = target
        self._piece_bytes = piece_bytes

    async def run(self, *, task_status: trio.TaskStatus[Address]) -> None:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener.socket.getsockname()[1]
        task_status.started(Address(f"/ip4/127.0.0.1/tcp/{port}/p2p/{self._target.peer_id}"))
        await trio.serve_listeners(self._carry_both, [listener])

    async def _carry_both(self, stream: trio.SocketStream) -> None:
        async with raw(self._target) as other, trio.open_nursery() as nursery:
            nursery.start_soon(self._carry, stream, other)
            nursery.start_soon(self._carry, other, stream)

    async def _carry(self, source: trio.SocketStream, sink: trio.SocketStream) -> None:
        try:
            while data := await source.receive_some(65_536):
                for start in range(0, len(data), self._piece_bytes):
                    if not self.is_dark:
                        await sink.send_all(data[start : start + self._piece_bytes])
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        await sink.aclose()


async def test_messages_that_arrive_in_crumbs_arrive() -> None:
    """libp2p gives up on what takes more than 100 reads."""
    async with node(1) as one, node(2) as two, trio.open_nursery() as nursery:
        address: Address = await nursery.start(Proxy(two, 100).run)
        assert await one.connect(address, timeout_s=10) == two.peer_id
        blob = Blob(random.Random(1).randbytes(300_000))
        assert await one.request(two.peer_id, ECHO, blob, timeout_s=20) == blob
        nursery.cancel_scope.cancel()


SLEEPER = """
import trio
from shoal.transport.host import open_host
from shoal.transport.identity import Identity
async def main():
    async with open_host(Identity.from_seed(bytes([2]) * 32), ["/ip4/127.0.0.1/tcp/0"]) as transport:
        print(transport.addresses()[-1], flush=True)
        await trio.sleep_forever()
trio.run(main)
"""


def sleeper() -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", SLEEPER], stdout=subprocess.PIPE, text=True)


async def test_frozen_and_unreachable_peers_are_noticed_within_their_bound() -> None:
    async with node(1) as one, node(3) as three, one.events() as events, trio.open_nursery() as nursery:
        process = await trio.to_thread.run_sync(sleeper)
        try:
            assert process.stdout is not None
            frozen = Address((await trio.to_thread.run_sync(process.stdout.readline)).strip())
            proxy = Proxy(three, 65_536)
            dark: Address = await nursery.start(proxy.run)
            assert await one.connect(frozen, timeout_s=10) == identity(2).peer_id
            assert await one.connect(dark, timeout_s=10) == three.peer_id
            assert {await events.receive(), await events.receive()} == {
                PeerConnected(identity(2).peer_id),
                PeerConnected(three.peer_id),
            }
            process.send_signal(signal.SIGSTOP)
            proxy.is_dark = True
            with trio.fail_after(DEAD_S + PING_S + 2):
                assert {await events.receive(), await events.receive()} == {
                    PeerDisconnected(identity(2).peer_id),
                    PeerDisconnected(three.peer_id),
                }
        finally:
            process.kill()
            await trio.to_thread.run_sync(process.communicate)
            nursery.cancel_scope.cancel()


async def test_random_bytes_at_every_depth_are_survived() -> None:
    rng = random.Random(7)
    async with node(1) as one:
        for index in range(FUZZ_COUNT):
            junk = [rng.randbytes(rng.randrange(1, 400)) for _ in range(rng.randrange(1, 5))]
            with trio.move_on_after(5):
                await FUZZERS[index % len(FUZZERS)](one, junk)
        await assert_well(one)


async def fuzz_tcp(one: Transport, junk: list[bytes]) -> None:
    async with raw(one) as stream:
        await send_junk(stream.send_all, junk)


async def fuzz_noise(one: Transport, junk: list[bytes]) -> None:
    async with raw(one) as stream:
        await send_junk(stream.send_all, [line("/multistream/1.0.0") + line("/noise"), *junk])


async def fuzz_muxer_negotiation(one: Transport, junk: list[bytes]) -> None:
    async with proven(one) as connection:
        await send_junk(connection.write, junk)


async def fuzz_yamux(one: Transport, junk: list[bytes]) -> None:
    async with proven(one) as connection:
        await select(connection, "/yamux/1.0.0")
        await send_junk(connection.write, junk)


async def fuzz_stream_negotiation(one: Transport, junk: list[bytes]) -> None:
    await fuzz_stream(one, None, junk)


async def fuzz_rpc(one: Transport, junk: list[bytes]) -> None:
    await fuzz_stream(one, "/shoal/rpc/1", junk)


async def fuzz_rpc_after_the_preamble(one: Transport, junk: list[bytes]) -> None:
    await fuzz_stream(one, "/shoal/rpc/1", [b"shoal\x01", *junk])


async def fuzz_stream(one: Transport, protocol: str | None, junk: list[bytes]) -> None:
    async with proven(one) as connection, trio.open_nursery() as nursery:
        await select(connection, "/yamux/1.0.0")
        yamux = Yamux(connection, ID.from_base58(one.peer_id), is_initiator=True)
        nursery.start_soon(yamux.start)
        await yamux.event_started.wait()
        stream: Any = await yamux.open_stream()
        if protocol is not None:
            await select(stream, protocol)
        await send_junk(stream.write, junk)
        await stream.reset()
        await yamux.close()
        nursery.cancel_scope.cancel()


async def send_junk(write: Callable[[bytes], Awaitable[None]], junk: list[bytes]) -> None:
    try:
        for piece in junk:
            await write(piece)
            await trio.sleep(0.001)
    except (BaseLibp2pError, trio.BrokenResourceError):
        pass  # the node hung up


FUZZERS: Final = [
    fuzz_tcp,
    fuzz_noise,
    fuzz_muxer_negotiation,
    fuzz_yamux,
    fuzz_stream_negotiation,
    fuzz_rpc,
    fuzz_rpc_after_the_preamble,
]
