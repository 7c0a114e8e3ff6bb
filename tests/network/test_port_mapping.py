"""A node behind a router gets a port there, keeps it, and gives it back: asked of miniupnpd."""

import json
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest
import trio

from shoal.node.gateway import obstacle, serve_mappings
from shoal.node.laboratory import Home
from shoal.node.routers import Router
from shoal.transport.port_mapping import LEASE_S, ORDER, Protocol
from shoal.transport.port_mapping_service import GIVE_BACK_S

from .hands import Hands, World, open_world

ROOT: Final = Path(__file__).resolve().parents[2]
MAPPER: Final = str(Path(__file__).with_name("mapper.py"))
PORT: Final = 4011
REASON_S: Final = 5.0  # a node knows so soon that no router gives it a port
START_S: Final = 0.7  # of a Python process with trio
STRETCH: Final = 4.0  # a machine with other work

pytestmark = pytest.mark.skipif(bool(obstacle()), reason=f"NOT TESTED: {obstacle()}")


class Mapper:
    """A port mapping at work on a computer."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self._heard = b""

    async def next(self) -> tuple[list[object] | None, str]:
        """The next change: host, port and protocol, or why there is no mapping."""
        assert self.process.stdout is not None
        while b"\n" not in self._heard:
            data = await self.process.stdout.receive_some()
            assert data, "the mapper has ended"
            self._heard += data
        line, _, self._heard = self._heard.partition(b"\n")
        said = json.loads(line)
        return said["mapping"], said["reason"]

    async def change_network(self) -> None:
        assert self.process.stdin is not None
        await self.process.stdin.send_all(b"changed\n")

    async def end(self) -> float:
        """Seconds until it has ended by itself."""
        assert self.process.stdin is not None
        await self.process.stdin.aclose()
        began = trio.current_time()
        await self.process.wait()
        return trio.current_time() - began


@asynccontextmanager
async def mapping(
    hands: Hands, protocols: Iterable[Protocol] = ORDER, lease_s: int = LEASE_S
) -> AsyncGenerator[Mapper]:
    process = await trio.lowlevel.open_process(
        [*hands.host.prefix, sys.executable, MAPPER, str(PORT), str(lease_s), *(each.name for each in protocols)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        yield Mapper(process)
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                await pipe.aclose()


async def home_and_peer(world: World) -> tuple[Home, Hands, Hands]:
    """A computer that listens behind a router, and one elsewhere."""
    home = await world.internet.add_home(Router.PORT_RESTRICTED)
    inside = await world.hands_in(home)
    await inside.do(f"listen {PORT}")
    return home, inside, await world.hands_in(await world.internet.add_home(Router.PUBLIC))


async def is_reached(peer: Hands, host: object, port: object) -> bool:
    return (await peer.do(f"dial {host} {port} 3")).replace(".", "").isdigit()


@pytest.mark.parametrize("protocol", ORDER, ids=lambda protocol: protocol.value)
async def test_a_mapped_port_is_reached_from_elsewhere_until_it_is_given_back(protocol: Protocol) -> None:
    async with open_world() as world:
        home, inside, peer = await home_and_peer(world)
        assert not await is_reached(peer, home.outside, PORT)
        is_upnp = protocol is Protocol.UPNP
        async with serve_mappings(home, upnp=is_upnp, pcp=not is_upnp), mapping(inside, [protocol]) as mapper:
            assert await mapper.next() == ([home.outside, PORT, protocol.value], "")
            assert await is_reached(peer, home.outside, PORT)
            assert await mapper.end() < GIVE_BACK_S * STRETCH
            assert not await is_reached(peer, home.outside, PORT)


async def test_a_router_that_knows_upnp_alone_is_found_by_who_knows_all() -> None:
    async with open_world() as world:
        home, inside, _ = await home_and_peer(world)
        async with serve_mappings(home, pcp=False), mapping(inside) as mapper:
            assert await mapper.next() == ([home.outside, PORT, "UPnP"], "")


async def test_a_mapping_outlives_its_lease_while_the_node_lives_and_not_for_long_when_it_was_killed() -> None:
    lease_s = 10
    async with open_world() as world:
        home, inside, peer = await home_and_peer(world)
        async with serve_mappings(home), mapping(inside, lease_s=lease_s) as mapper:
            assert await mapper.next() == ([home.outside, PORT, "PCP"], "")
            await trio.sleep(1.5 * lease_s)
            assert await is_reached(peer, home.outside, PORT)
            mapper.process.kill()
            await trio.sleep(1.5 * lease_s)
            assert not await is_reached(peer, home.outside, PORT)


@pytest.mark.parametrize("protocol", ORDER, ids=lambda protocol: protocol.value)
async def test_a_router_that_has_restarted_maps_the_port_anew(protocol: Protocol) -> None:
    async with open_world() as world:
        home, inside, peer = await home_and_peer(world)
        async with mapping(inside, [protocol], lease_s=10) as mapper:
            async with serve_mappings(home):
                assert (await mapper.next())[0] == [home.outside, PORT, protocol.value]
            assert not await is_reached(peer, home.outside, PORT)
            async with serve_mappings(home):
                with trio.fail_after(15 * STRETCH):
                    while not await is_reached(peer, home.outside, PORT):
                        pass


async def test_the_reason_why_a_mapping_is_lost_is_told_and_a_change_of_network_asks_at_once() -> None:
    async with open_world() as world:
        home, inside, _ = await home_and_peer(world)
        async with mapping(inside, lease_s=10) as mapper:
            async with serve_mappings(home):
                assert (await mapper.next())[0] == [home.outside, PORT, "PCP"]
            assert await mapper.next() == (None, "no router answers PCP, NAT-PMP or UPnP")
            async with serve_mappings(home):
                began = trio.current_time()
                await mapper.change_network()
                assert (await mapper.next())[0] is None
                assert (await mapper.next())[0] == [home.outside, PORT, "PCP"]
                assert trio.current_time() - began < STRETCH  # by far before the next round would have been


async def test_a_new_address_of_the_router_is_told() -> None:
    async with open_world() as world:
        home, inside, peer = await home_and_peer(world)
        async with serve_mappings(home), mapping(inside, lease_s=10) as mapper:
            before = home.outside
            assert (await mapper.next())[0] == [before, PORT, "PCP"]
            await home.change_address()
            assert (await mapper.next())[0] == [home.outside, PORT, "PCP"]
            assert home.outside != before
            assert await is_reached(peer, home.outside, PORT)


@pytest.mark.parametrize("protocol", ORDER, ids=lambda protocol: protocol.value)
async def test_two_computers_of_one_home_get_two_ports(protocol: Protocol) -> None:
    async with open_world() as world:
        home, inside, peer = await home_and_peer(world)
        other = await world.hands_in(home)
        await other.do(f"listen {PORT}")
        async with serve_mappings(home), mapping(inside, [protocol]) as one:
            assert (await one.next())[0] == [home.outside, PORT, protocol.value]
            async with mapping(other, [protocol]) as another:
                place, _ = await another.next()
                assert place is not None
                assert place[1] != PORT
                assert await is_reached(peer, *place[:2])
                assert (await other.do(f"accept {PORT}")).startswith(peer.host.address)


@pytest.mark.parametrize(
    ("protocols", "said"),
    [
        (ORDER, "the router's own address 100.64.0.2 is not public"),
        ([Protocol.NAT_PMP], "the router says that it has no public address"),
        ([Protocol.UPNP], "the router says that it has no public address"),
    ],
)
async def test_a_carriers_router_before_the_homes_is_the_reason(protocols: list[Protocol], said: str) -> None:
    async with open_world() as world:
        home = await world.internet.add_home(Router.CGN_HOME)
        inside = await world.hands_in(home)
        async with serve_mappings(home), mapping(inside, protocols) as mapper:
            place, reason = await mapper.next()
            assert place is None
            assert reason.startswith(said)


@pytest.mark.parametrize("is_silent", [False, True], ids=["refuses datagrams", "drops them"])
async def test_without_such_a_router_the_reason_comes_soon_and_the_end_at_once(*, is_silent: bool) -> None:
    async with open_world() as world:
        home, inside, _ = await home_and_peer(world)
        if is_silent:
            await drop_questions(home)
        async with mapping(inside) as mapper:
            began = trio.current_time()
            assert await mapper.next() == (None, "no router answers PCP, NAT-PMP or UPnP")
            assert trio.current_time() - began < REASON_S + START_S * STRETCH
            assert await mapper.end() < START_S * STRETCH


async def test_a_node_that_ends_before_its_router_has_answered_ends_at_once() -> None:
    async with open_world() as world:
        home, inside, _ = await home_and_peer(world)
        await drop_questions(home)
        async with mapping(inside) as mapper:
            assert await mapper.end() < (START_S + GIVE_BACK_S) * STRETCH


async def drop_questions(home: Home) -> None:
    rule = "add rule inet router input udp dport { 5351, 1900 } drop"
    await home.router.run("nft", *rule.split())
