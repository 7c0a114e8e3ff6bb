"""Nodes over real sockets: connecting, calling, losing and finding one another again."""

import errno
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.abc import ReceiveChannel

from shoal.transport.host import HostError, open_host
from shoal.transport.identity import Identity
from shoal.transport.limits import Limits
from shoal.transport.port import (
    Address,
    Call,
    Code,
    PeerConnected,
    PeerDisconnected,
    PeerEvent,
    PeerId,
    Refusal,
    Streaming,
    Transport,
    Unary,
)
from shoal.transport.wire import Message

LOOPBACK = "/ip4/127.0.0.1/tcp/0"


class Blob(Message, frozen=True):
    data: bytes


ECHO = Unary("/test/1/echo", Blob, Blob, 2**20, 2**20)
STREAM = Streaming("/test/1/stream", Blob, Blob, 2**20, 2**20)


def identity(index: int) -> Identity:
    return Identity.from_seed(bytes([index]) * 32)


@asynccontextmanager
async def node(index: int, listen: str = LOOPBACK, limits: Limits | None = None) -> AsyncGenerator[Transport]:
    async with open_host(identity(index), [listen], limits, seed=index) as transport:
        transport.serve(ECHO, lambda _, request: request)
        yield transport


async def connect(one: Transport, other: Transport) -> None:
    assert await one.connect(other.addresses()[-1], timeout_s=10) == other.peer_id


async def echo(one: Transport, other: PeerId, size: int = 100) -> Blob | Refusal:
    return await one.request(other, ECHO, Blob(bytes(size)), timeout_s=20)


async def expect(events: ReceiveChannel[PeerEvent], event: PeerEvent, within_s: float = 10) -> None:
    with trio.fail_after(within_s):
        assert await events.receive() == event


async def test_nodes_connect_and_call_each_other_in_both_directions() -> None:
    async with node(1) as one, node(2) as two:
        await connect(one, two)
        for size in (0, 1, 70_000, 1_000_000):
            assert await echo(one, two.peer_id, size) == Blob(bytes(size))
            assert await echo(two, one.peer_id, size) == Blob(bytes(size))
        (connection,) = one.connections()
        assert (connection.peer, connection.is_outbound, connection.is_relayed) == (two.peer_id, True, False)
        assert connection.address == two.addresses()[-1]
        assert connection.rtt_s is not None
        assert connection.bytes_sent == one.traffic().bytes_sent > 2 * 1_070_001
        assert connection.bytes_received == two.traffic().bytes_sent


async def test_connecting_costs_no_fixed_delay() -> None:
    async with node(1) as one, node(2) as two:
        times: list[float] = []
        for _ in range(5):
            started_at = trio.current_time()
            await connect(one, two)
            times.append(trio.current_time() - started_at)
        assert min(times) < 0.2  # libp2p's happy eyeballs: 0.25


async def test_who_is_not_connected_cannot_be_asked() -> None:
    async with node(1) as one:
        answer = await echo(one, identity(2).peer_id)
        assert isinstance(answer, Refusal)
        assert answer.code == Code.UNREACHABLE


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("/ip4/127.0.0.1/tcp/1", "does not say who must answer"),
        ("nonsense", "expected an address like"),
        (f"/ip4/127.0.0.1/tcp/1/p2p/{identity(1).peer_id}", "this node's own"),
        (f"/ip4/127.0.0.1/tcp/1/p2p/{identity(9).peer_id}", "no connection to"),
        (f"/dns/does-not-exist.invalid/tcp/1/p2p/{identity(9).peer_id}", "no connection to"),
    ],
)
async def test_an_address_that_cannot_be_dialed_is_refused_with_its_reason(address: str, reason: str) -> None:
    async with node(1) as one:
        answer = await one.connect(Address(address), timeout_s=10)
        assert isinstance(answer, Refusal)
        assert reason in answer.message


async def test_another_key_at_the_address_is_no_connection() -> None:
    async with node(1) as one, node(2) as two:
        wrong = two.addresses()[-1].replace(two.peer_id, identity(3).peer_id)
        answer = await one.connect(Address(wrong), timeout_s=10)
        assert isinstance(answer, Refusal)
        assert f"does not prove to be {identity(3).peer_id}" in answer.message
        assert not one.connections()


async def test_a_taken_port_is_one_clear_error() -> None:
    async with node(1) as one:
        taken = one.addresses()[-1].partition("/p2p/")[0]
        port = taken.rpartition("/")[2]
        with pytest.raises(HostError, match=rf"port {port} is taken on 127.0.0.1: choose another with --listen"):
            async with node(2, taken):
                pass


@pytest.mark.parametrize(
    ("listen", "reason"),
    [("/ip4/203.0.113.7/tcp/0", "no address of this machine"), ("/ip4/0.0.0.0/udp/1/quic-v1", "expected an address")],
)
async def test_an_address_that_cannot_be_listened_on_is_one_clear_error(listen: str, reason: str) -> None:
    with pytest.raises(HostError, match=reason):
        async with node(1, listen):
            pass


async def test_a_wildcard_is_announced_as_what_others_can_dial_loopback_last() -> None:
    async with node(1, "/ip4/0.0.0.0/tcp/0") as one:
        addresses = one.addresses()
        assert all(address.endswith(f"/p2p/{one.peer_id}") and "0.0.0.0" not in address for address in addresses)
        assert "/ip4/127.0.0.1/" in addresses[-1]
        assert not any("/127." in address for address in addresses[:-1])


@pytest.fixture
def needs_ipv6() -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        if error.errno in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
            pytest.skip("no IPv6 on this machine")
        raise


@pytest.mark.usefixtures("needs_ipv6")
async def test_a_kept_peer_that_has_both_is_dialed_by_ipv6() -> None:
    async with node(1) as one, open_host(identity(2), [LOOPBACK, "/ip6/::1/tcp/0"], seed=2) as two:
        by_ip4, by_ip6 = two.addresses()
        assert (by_ip4.startswith("/ip4/"), by_ip6.startswith("/ip6/")) == (True, True)
        async with one.events() as events:
            one.keep(two.peer_id, (by_ip4, by_ip6))
            await expect(events, PeerConnected(two.peer_id))
        assert [each.address for each in one.connections()] == [by_ip6]


@pytest.mark.usefixtures("needs_ipv6")
async def test_ipv6_works_as_well() -> None:
    async with node(1, "/ip6/::1/tcp/0") as one, node(2, "/ip6/::/tcp/0") as two:
        await connect(one, two)
        await connect(two, one)
        assert await echo(two, one.peer_id) == Blob(bytes(100))
        assert "/ip6/" in two.connections()[0].address


async def test_a_node_that_only_dials_listens_nowhere() -> None:
    async with open_host(identity(1), []) as one, node(2) as two:
        assert one.addresses() == ()
        await connect(one, two)
        assert await echo(one, two.peer_id) == Blob(bytes(100))


async def test_kept_peers_are_found_behind_a_dead_address_and_again_after_they_restart() -> None:
    async with node(1) as one, one.events() as events, trio.open_nursery() as nursery:
        silent = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]  # accepts, and never says a word
        dead = Address(f"/ip4/127.0.0.1/tcp/{silent.socket.getsockname()[1]}/p2p/{identity(2).peer_id}")
        refusing = Address(f"/ip4/127.0.0.1/tcp/1/p2p/{identity(2).peer_id}")
        async with node(2) as two:
            good = two.addresses()[-1]
            one.keep(two.peer_id, (refusing, dead, good))
            await expect(events, PeerConnected(two.peer_id))
        await expect(events, PeerDisconnected(identity(2).peer_id))
        async with node(2, good.partition("/p2p/")[0]) as two:
            await expect(events, PeerConnected(two.peer_id))
            assert await echo(one, two.peer_id) == Blob(bytes(100))
            one.release(two.peer_id)
        await expect(events, PeerDisconnected(identity(2).peer_id))
        await silent.aclose()
        nursery.cancel_scope.cancel()


async def test_events_begin_with_who_is_connected() -> None:
    async with node(1) as one, node(2) as two, node(3) as three:
        await connect(one, two)
        async with one.events() as events:
            await expect(events, PeerConnected(two.peer_id))
            await connect(three, one)
            await expect(events, PeerConnected(three.peer_id))


async def test_calls_of_a_peer_that_disconnects_fail_at_once() -> None:
    async with node(1) as one, trio.open_nursery() as nursery:
        stopping = trio.Event()

        async def hold(_: PeerId, call: Call[Blob, Blob]) -> Refusal | None:
            await call.receive()
            stopping.set()
            await trio.sleep_forever()

        async def other(task_status: trio.TaskStatus[Transport]) -> None:
            async with node(2) as transport:
                transport.serve_stream(STREAM, hold)
                task_status.started(transport)
                await stopping.wait()

        two: Transport = await nursery.start(other)
        await connect(one, two)
        with trio.fail_after(10):
            async with one.stream(two.peer_id, STREAM, timeout_s=60) as call:
                await call.send(Blob(b"x"))
                answer = await call.receive()
        assert isinstance(answer, Refusal)
        assert answer.code == Code.UNREACHABLE


async def test_a_host_with_many_connections_shuts_down_within_a_second() -> None:
    async with trio.open_nursery() as nursery:
        stopping = trio.Event()

        async def other(index: int, task_status: trio.TaskStatus[Transport]) -> None:
            async with node(index) as transport:
                task_status.started(transport)
                await stopping.wait()

        others: list[Transport] = [await nursery.start(other, index) for index in range(2, 12)]
        async with node(1) as one:
            for transport in others:
                await connect(one, transport)
                assert isinstance(await echo(one, transport.peer_id), Blob)
                assert isinstance(await echo(transport, one.peer_id), Blob)
            closing_at = trio.current_time()
        assert trio.current_time() - closing_at < 1.0
        stopping.set()
    assert trio.current_time() - closing_at < 2.0


async def test_a_node_that_can_open_no_file_says_the_addresses_it_had() -> None:
    resource = pytest.importorskip("resource")
    most = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with open_host(Identity.from_seed(bytes(32)), ["/ip4/0.0.0.0/tcp/0"]) as host:
        before = host.addresses()
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, most[1]))
        try:
            assert host.addresses() == before
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, most)
