"""Homes with IPv6: no translation, a firewall of the router's, and lines that treat it as they treat IPv4."""

from typing import Final

import pytest

from shoal.node.laboratory import Habits, Line
from shoal.node.routers import Router

from .hands import Hands, World, open_world
from .test_lines import STRETCH, transfer

DUAL: Final = Habits(ipv6=True)


@pytest.mark.parametrize("kind", Router, ids=lambda kind: kind.value)
async def test_a_router_translates_no_ipv6_and_lets_in_answers_alone(kind: Router) -> None:
    async with open_world(ipv6=True) as world:
        inside, peer = await pair(world, kind)
        address, there = inside.host.address6, peer.host.address6
        await inside.do("bind 4000 6")
        await peer.do("bind 5000 6")
        await peer.do(f"send 5000 {address} 4000 unasked")
        heard = await inside.do("hear 4000")
        assert heard == (f"unasked from {there}:5000" if kind is Router.PUBLIC else "silence")
        await inside.do(f"send 4000 {there} 5000 hello")
        assert await peer.do("hear 5000 30") == f"hello from {address}:4000"
        await peer.do(f"send 5000 {address} 4000 hi")
        assert await inside.do("hear 4000 30") == f"hi from {there}:5000"


@pytest.mark.parametrize("kind", Router, ids=lambda kind: kind.value)
async def test_who_dials_is_let_in_dropped_or_refused(kind: Router) -> None:
    async with open_world(ipv6=True) as world:
        inside, peer = await pair(world, kind)
        for hands in (inside, peer):
            await hands.do("listen 4000 6")
        assert float(await inside.do(f"dial {peer.host.address6} 4000 30")) >= 0
        answer = await peer.do(f"dial {inside.host.address6} 4000")
        if kind is Router.PUBLIC:
            assert float(answer) >= 0
        else:
            assert answer == ("Connection refused" if kind is Router.RST_ROUTER else "silence")


async def test_who_dial_each_other_at_once_pass_the_firewalls_of_both() -> None:
    async with open_world(ipv6=True) as world:
        one, other = await pair(world, Router.SYMMETRIC, Router.CGN_HOME, Line(delay_ms=20))
        await one.tell(f"dial {other.host.address6} 4001 30 4000")
        await other.tell(f"dial {one.host.address6} 4000 30 4001")
        assert float(await one.answer()) >= 0
        assert float(await other.answer()) >= 0


async def test_lines_delay_ipv6_alike() -> None:
    async with open_world(ipv6=True) as world:
        near, far = await pair(world, Router.PORT_RESTRICTED, line=Line(delay_ms=40))
        await far.do("listen 4000 6")
        took_ms = float(await near.do(f"dial {far.host.address6} 4000 30"))
        assert 80 <= took_ms <= 80 * STRETCH


async def test_lines_lose_of_ipv6_the_share_that_they_say() -> None:
    count = 4000
    async with open_world(ipv6=True) as world:
        home, peer = await pair(world, Router.PUBLIC, line=Line(loss=0.2))
        await peer.do("bind 4000 6")
        await home.do("bind 5000 6")
        await home.do(f"send 5000 {peer.host.address6} 4000 x {count}")
        came = int(await peer.do("count 4000 1"))
        assert 0.76 < came / count < 0.84  # six standard deviations


async def test_who_sends_too_large_packets_hears_of_it() -> None:
    async with open_world(ipv6=True) as world:
        home, peer = await pair(world, Router.PUBLIC, Router.PORT_RESTRICTED, Line(mtu=1280))
        await home.do("listen 4000 6")
        await peer.do(f"dial {home.host.address6} 4000 30")
        await home.do("accept 4000")
        assert await transfer(home, peer, 1_000_000) > 0
        assert await transfer(peer, home, 1_000_000) > 0


async def test_a_partition_cuts_ipv6_too_and_a_connection_outlives_it() -> None:
    async with open_world(ipv6=True) as world:
        home, peer = await pair(world, Router.PUBLIC)
        await peer.do("listen 4000 6")
        await home.do(f"dial {peer.host.address6} 4000 30")
        await peer.do("accept 4000")
        await world.internet.part([home.host.home])
        await home.do("push 1000")
        assert await peer.do("pull 1000 1") == "silence"
        await world.internet.heal()
        assert float(await peer.do("pull 1000 60")) >= 0


async def test_a_new_address_comes_with_a_new_prefix_and_the_old_one_leads_nowhere() -> None:
    async with open_world(ipv6=True) as world:
        home, peer = await pair(world, Router.CGN_HOME)
        await peer.do("listen 4000 6")
        seen: list[str] = []
        for _ in range(2):
            await home.do(f"dial {peer.host.address6} 4000 30")
            seen.append((await peer.do("accept 4000 30")).rpartition(":")[0])
            await home.host.home.change_address()
            await home.do("push 1000")
            assert await peer.do("pull 1000 1") == "silence"
        assert seen == ["2a00:5:1:2::10", "2a00:5:1:3::10"]
        assert home.host.address6 == "2a00:5:1:4::10"


async def test_who_moves_has_the_prefix_of_the_new_home_or_no_ipv6_where_it_has_none() -> None:
    async with open_world(ipv6=True) as world:
        laptop, peer = await pair(world, Router.PORT_RESTRICTED)
        office = await world.internet.add_home(Router.FIREWALLED, habits=DUAL)
        cafe = await world.internet.add_home(Router.SYMMETRIC)
        home = laptop.host.home
        await peer.do("listen 4000 6")
        for place in (office, home):
            await laptop.host.move(place)
            await laptop.do(f"dial {peer.host.address6} 4000 30")
            assert (await peer.do("accept 4000 30")).rpartition(":")[0] == laptop.host.address6
            assert laptop.host.address6.startswith(place.prefix6)
        await laptop.host.move(cafe)
        assert laptop.host.address6 == ""
        assert await laptop.do(f"dial {peer.host.address6} 4000") == "Network is unreachable"


async def pair(
    world: World, kind: Router, other_kind: Router = Router.PUBLIC, line: Line | None = None
) -> tuple[Hands, Hands]:
    """Hands in two homes with IPv6, the first with a router of that kind and on that line."""
    home = await world.internet.add_home(kind, line, DUAL)
    peer = await world.internet.add_home(other_kind, habits=DUAL)
    return await world.hands_in(home), await world.hands_in(peer)
