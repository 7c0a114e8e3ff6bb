"""Circuit relay with libp2p's own implementation in each of the three places, and with one that sends anything."""

import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.host.ping import PingService
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.relay.circuit_v2.config import RelayConfig, RelayRole
from libp2p.relay.circuit_v2.protocol import CircuitV2Protocol
from libp2p.relay.circuit_v2.transport import CircuitV2Transport
from libp2p.tools.anyio_service import background_trio_service
from multiaddr.multiaddr import Multiaddr

from shoal.transport.host import Host, open_host
from shoal.transport.identity import Identity
from shoal.transport.port import Address, PeerId, Refusal, StreamBroken
from shoal.transport.relay import RelayLimits
from shoal.transport.relay_messages import HOP, STOP, Answer, Connect, Reserve, Status, encode_relay
from shoal.transport.relay_service import HOP_PROTOCOL, STOP_PROTOCOL
from tests.fuzz.garbage import IS_SOAK, mutated

PATIENCE_S: Final = 20.0
COUNT: Final = 500 if IS_SOAK else 40


def identity(index: int) -> Identity:
    return Identity.from_seed(bytes([index]) * 32)


@asynccontextmanager
async def libp2p_node(index: int, *, is_relay: bool = False) -> AsyncGenerator[tuple[Any, CircuitV2Protocol]]:
    host = new_host(key_pair=create_new_key_pair(identity(index).seed))
    async with host.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        protocol = CircuitV2Protocol(host, allow_hop=is_relay)
        async with background_trio_service(protocol):
            await protocol.event_started.wait()
            yield host, protocol
        await host.close()  # else it leaves its sockets open


async def connected_through(caller: Any, address: Address, peer: PeerId) -> None:
    with trio.fail_after(PATIENCE_S):
        while True:
            answer = await caller.connect(address, timeout_s=PATIENCE_S)
            if answer == peer:
                return
            assert isinstance(answer, Refusal)
            await trio.sleep(0.05)  # the reservation may be on its way


async def test_libp2p_relays_for_us() -> None:
    async with libp2p_node(1, is_relay=True) as (relay, _):
        place = next(str(address) for address in relay.get_addrs() if "127.0.0.1" in str(address))
        async with open_host(identity(2), [], relays=[place]) as one, open_host(identity(3), []) as two:
            (address,) = one.addresses()
            await connected_through(two, address, one.peer_id)
            assert [connection.is_relayed for connection in one.connections() if connection.peer == two.peer_id] == [
                True
            ]


async def test_we_relay_from_libp2p_to_us() -> None:
    async with (
        open_host(identity(1), ["/ip4/127.0.0.1/tcp/0"], relay=RelayLimits()) as relay,
        open_host(identity(2), [], relays=[relay.addresses()[0]]) as one,
        open_host(identity(4), []) as probe,
        libp2p_node(3) as (host, protocol),
    ):
        await connected_through(probe, one.addresses()[0], one.peer_id)
        await host.connect(info_from_p2p_addr(Multiaddr(relay.addresses()[0])))
        circuits = CircuitV2Transport(host, protocol, RelayConfig(roles=RelayRole.CLIENT))
        with trio.fail_after(PATIENCE_S):
            await circuits.dial(Multiaddr(one.addresses()[0]))
            assert len(await PingService(host).ping(ID.from_base58(one.peer_id), ping_amt=2)) == 2
        assert {c.is_relayed for c in one.connections() if c.peer == identity(3).peer_id} == {True}


async def test_we_relay_from_us_to_libp2p() -> None:
    async with (
        open_host(identity(1), ["/ip4/127.0.0.1/tcp/0"], relay=RelayLimits()) as relay,
        open_host(identity(2), []) as one,
        libp2p_node(3) as (host, protocol),
        trio.open_nursery() as nursery,
    ):
        await host.connect(info_from_p2p_addr(Multiaddr(relay.addresses()[0])))
        circuits = CircuitV2Transport(host, protocol, RelayConfig(roles=RelayRole.CLIENT))
        relay_id, target = ID.from_base58(relay.peer_id), identity(3).peer_id
        assert await circuits.reserve(await host.new_stream(relay_id, [HOP_PROTOCOL]), relay_id, nursery)
        address = Address(f"{relay.addresses()[0]}/p2p-circuit/p2p/{target}")
        assert await one.connect(address, timeout_s=PATIENCE_S) == target
        assert {c.is_relayed for c in one.connections() if c.peer == target} == {True}
        nursery.cancel_scope.cancel()


async def send_anything(attacker: Host, victim: PeerId, protocol: str, chance: random.Random) -> None:
    grammar = HOP if protocol == HOP_PROTOCOL else STOP
    sound = [
        encode_relay(grammar, Connect(identity(chance.randrange(1, 6)).peer_id)),
        encode_relay(grammar, Answer(Status.OK)),
        *([encode_relay(HOP, Reserve())] if grammar is HOP else []),
    ]
    stream = await attacker._open_stream(victim, protocol)  # pyright: ignore[reportPrivateUsage]
    assert not isinstance(stream, Refusal)
    with suppress(StreamBroken), trio.move_on_after(0.02):  # that it is cut off is what it deserves
        await stream.send_all(mutated(chance, sound) if chance.random() < 0.8 else chance.choice(sound))
        if chance.random() < 0.5:
            await stream.finish()
        await stream.receive_some()
    stream.reset()


async def test_anything_may_be_sent_to_a_relay_and_by_a_relay() -> None:
    async with (
        open_host(identity(1), ["/ip4/127.0.0.1/tcp/0"], relay=RelayLimits(), seed=1) as relay,
        open_host(identity(2), [], relays=[relay.addresses()[0]], seed=2) as one,
        open_host(identity(3), [], seed=3) as attacker,
        open_host(identity(4), [], seed=4) as friend,
    ):
        await connected_through(friend, one.addresses()[0], one.peer_id)
        assert await attacker.connect(relay.addresses()[0], timeout_s=PATIENCE_S) == relay.peer_id
        assert isinstance(attacker, Host)
        assert isinstance(relay, Host)
        chance = random.Random(1)
        for _ in range(COUNT):
            await send_anything(attacker, relay.peer_id, HOP_PROTOCOL, chance)
            await send_anything(relay, one.peer_id, STOP_PROTOCOL, chance)
        async with open_host(identity(5), []) as late:
            await connected_through(late, one.addresses()[0], one.peer_id)
        books = relay._relay._relay  # pyright: ignore[reportPrivateUsage]
        assert books is not None
        with trio.fail_after(PATIENCE_S):
            while books.circuit_count > 1:  # noqa: ASYNC110
                await trio.sleep(0.05)
