"""Nodes in homes of every kind: whether they know that nobody can dial them, and whom they get through to."""

import json
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final, cast

import pytest
import trio

from shoal.node.gateway import obstacle as no_gateway
from shoal.node.gateway import serve_mappings
from shoal.node.laboratory import Habits, Host, Internet, Line
from shoal.node.routers import Router
from shoal.transport.blobs import CHUNK_BYTES
from shoal.transport.port import Address

from .hands import end, open_world

NODE: Final = str(Path(__file__).with_name("reach_node.py"))
ROOT: Final = Path(__file__).parents[2]
LINE: Final = Line(delay_ms=12)


class Player:
    """A node in a process of its own, told what to do in lines of JSON."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self._heard = b""

    async def do(self, **order: object) -> dict[str, Any]:
        assert self.process.stdin is not None
        await self.process.stdin.send_all(json.dumps(order).encode() + b"\n")
        return await self.answer()

    async def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        while b"\n" not in self._heard:
            data = await self.process.stdout.receive_some()
            assert data, "the node has ended"
            self._heard += data
        line, _, self._heard = self._heard.partition(b"\n")
        return cast(dict[str, Any], json.loads(line))


class Stage:
    """An internet with nodes in it."""

    def __init__(self, internet: Internet, stack: AsyncExitStack) -> None:
        self.internet = internet
        self.stack = stack
        self._count = 0

    async def node_on(self, host: Host, *arguments: str) -> tuple[Player, dict[str, Any]]:
        """A node that is told of relays, and what it says when it is connected with them."""
        self._count += 1
        process = await trio.lowlevel.open_process(
            [*host.prefix, sys.executable, NODE, str(self._count), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        self.stack.push_async_callback(end, process)
        player = Player(process)
        return player, await player.answer()


@asynccontextmanager
async def open_stage(*, ipv6: bool = False) -> AsyncGenerator[Stage]:
    async with open_world(ipv6=ipv6) as world, AsyncExitStack() as stack:
        yield Stage(world.internet, stack)


def address(said: dict[str, Any], host: str) -> Address:
    (found,) = [each for each in said["addresses"] if f"/{host}/" in each and "p2p-circuit" not in each]
    return Address(found)


async def relays_of(stage: Stage, count: int, *, ipv6: bool = False) -> list[Address]:
    """Public nodes that relay."""
    found: list[Address] = []
    for _ in range(count):
        home = await stage.internet.add_home(Router.PUBLIC, LINE, Habits(ipv6=ipv6))
        host = await home.add_host()
        _, said = await stage.node_on(host)
        found.append(address(said, host.address))
    return found


def circuit_to(said: dict[str, Any]) -> str:
    return str(next(each for each in said["addresses"] if "p2p-circuit" in each))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Router.PORT_RESTRICTED, Router.PORT_RESTRICTED),
        (Router.FULL_CONE, Router.SYMMETRIC),
        (Router.SYMMETRIC, Router.SYMMETRIC),
        (Router.RST_ROUTER, Router.RST_ROUTER),
    ],
    ids=lambda kind: kind.value,
)
async def test_two_homes_meet_directly_where_their_routers_let_them(one: Router, other: Router) -> None:
    async with open_stage() as stage:
        relays = await relays_of(stage, 2)
        homes = [await stage.internet.add_home(kind, LINE) for kind in (one, other)]
        (left, _), (_, there) = [await stage.node_on(await home.add_host(), *relays) for home in homes]
        said = await left.do(reach=circuit_to(there), patience_s=12)
        is_possible = Router.SYMMETRIC not in (one, other) or Router.FULL_CONE in (one, other)
        assert (said["direct_s"] is not None) == is_possible, said
        if not is_possible:
            assert "symmetric" in said["note"]


async def test_two_in_one_home_meet_without_its_router() -> None:
    async with open_stage() as stage:
        relays = await relays_of(stage, 2)
        home = await stage.internet.add_home(Router.SYMMETRIC, LINE)
        (left, _), (_, there) = [await stage.node_on(await home.add_host(), *relays) for _ in range(2)]
        said = await left.do(reach=circuit_to(there), patience_s=12)
        assert said["direct_s"] is not None, said
        assert said["address"].startswith("/ip4/192.168.1."), said


async def test_where_both_have_ipv6_it_gets_through_what_translates_ipv4() -> None:
    async with open_stage(ipv6=True) as stage:
        relays = await relays_of(stage, 2, ipv6=True)
        homes = [await stage.internet.add_home(Router.SYMMETRIC, LINE, Habits(ipv6=True)) for _ in range(2)]
        (left, _), (_, there) = [await stage.node_on(await home.add_host(), *relays) for home in homes]
        said = await left.do(reach=circuit_to(there), patience_s=12)
        assert said["direct_s"] is not None, said
        assert said["address"].startswith("/ip6/"), said


KNOWN_S: Final = 5.0
VERDICTS: Final = {
    Router.PUBLIC: "public",
    Router.FIREWALLED: "private",
    Router.FULL_CONE: "private",
    Router.ADDRESS_RESTRICTED: "private",
    Router.PORT_RESTRICTED: "private",
    Router.SYMMETRIC: "private",
    Router.CGN_HOME: "private",
    Router.RST_ROUTER: "private",
}


async def test_with_one_helper_each_knows_within_five_seconds_whether_others_get_through() -> None:
    async with open_stage() as stage:
        (relay,) = await relays_of(stage, 1)
        found: dict[Router, tuple[str, float]] = {}

        async def find_out(kind: Router, host: Host) -> None:
            node, said = await stage.node_on(host, relay)
            began = trio.current_time() - said["connected_for_s"]
            while said["verdict"] == "unknown" and trio.current_time() < began + KNOWN_S:
                await trio.sleep(0.05)
                said = await node.do(tell=True)
            found[kind] = said["verdict"], trio.current_time() - began

        hosts = {kind: await (await stage.internet.add_home(kind, LINE)).add_host() for kind in Router}
        for kinds in (list(Router)[:4], list(Router)[4:]):  # on a slow machine eight that start at once are late
            async with trio.open_nursery() as nursery:
                for kind in kinds:
                    nursery.start_soon(find_out, kind, hosts[kind])
        print({kind.value: f"{verdict} after {took:.1f} s" for kind, (verdict, took) in found.items()})
        assert {kind: verdict for kind, (verdict, _) in found.items()} == VERDICTS


async def test_a_new_address_of_the_router_is_noticed() -> None:
    async with open_stage() as stage:
        relays = await relays_of(stage, 2)
        home = await stage.internet.add_home(Router.PORT_RESTRICTED, LINE)
        node, said = await stage.node_on(await home.add_host(), *relays)
        while said["outside"] != [home.outside]:
            await trio.sleep(0.2)
            said = await node.do(tell=True)
        await home.change_address()
        changed_at = trio.current_time()
        while said["outside"] != [home.outside]:
            await trio.sleep(0.2)
            said = await node.do(tell=True)
        took_s = trio.current_time() - changed_at
        print(f"noticed after {took_s:.1f} s")
        assert took_s < 30


@pytest.mark.skipif(bool(no_gateway()), reason=f"NOT TESTED: {no_gateway()}")
async def test_a_mapped_port_makes_a_node_reachable_to_strangers() -> None:
    async with open_stage() as stage:
        relays = await relays_of(stage, 1)
        home = await stage.internet.add_home(Router.PORT_RESTRICTED, LINE)
        async with serve_mappings(home):
            node, said = await stage.node_on(await home.add_host(), "--map-port", *relays)
            with trio.fail_after(15):
                while said["verdict"] != "mapped":
                    await trio.sleep(0.1)
                    said = await node.do(tell=True)
            assert said["port_mapping"].startswith(f"{home.outside}, port "), said
            (mapped,) = [each for each in said["addresses"] if f"/{home.outside}/" in each]
            stranger, _ = await stage.node_on(await (await stage.internet.add_home(Router.SYMMETRIC, LINE)).add_host())
            reached = await stranger.do(reach=mapped, patience_s=5)
            assert reached["address"] == mapped


async def test_a_relay_that_is_killed_in_mid_blob_costs_one_retry_and_nothing_comes_twice() -> None:
    size = 12 * 2**20
    async with open_stage() as stage:
        relays: dict[Address, Player] = {}
        for _ in range(2):
            host = await (await stage.internet.add_home(Router.PUBLIC, LINE)).add_host()
            player, said = await stage.node_on(host)
            relays[address(said, host.address)] = player
        line = Line(up_mbit=20, down_mbit=100, delay_ms=12)
        homes = [await stage.internet.add_home(Router.SYMMETRIC, line) for _ in range(2)]
        (holder, there), (fetcher, _) = [await stage.node_on(await home.add_host(), *relays) for home in homes]
        blob = await holder.do(put=size)
        circuits = [each for each in there["addresses"] if "p2p-circuit" in each]
        through = (await fetcher.do(fetch=circuits, **blob))["through"]
        (killed,) = [relay for relay in relays if through.startswith(relay)]
        relays[killed].process.kill()
        said = await fetcher.answer()
        print(f"received {said['received']} of {size}")
        (survivor,) = relays.keys() - {killed}
        assert [way.partition("/p2p-circuit/")[0] for way in said["ways"]][-2:] == [killed, survivor]
        assert said["received"] <= 1.02 * size + CHUNK_BYTES + 2**20  # framing; a chunk under way, and what asks
