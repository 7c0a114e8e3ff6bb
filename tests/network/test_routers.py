"""Each kind of router lets in whom its name says, and translates as it says."""

from typing import Final

import pytest

from shoal.node.laboratory import Habits
from shoal.node.routers import Router

from .hands import World, open_world

KNOWN, SAME_HOST, STRANGER = "who was sent to", "another port there", "a stranger"
LETS_IN: Final = {
    Router.PUBLIC: {KNOWN, SAME_HOST, STRANGER},
    Router.FIREWALLED: {KNOWN},
    Router.FULL_CONE: {KNOWN, SAME_HOST, STRANGER},
    Router.ADDRESS_RESTRICTED: {KNOWN, SAME_HOST},
    Router.PORT_RESTRICTED: {KNOWN},
    Router.SYMMETRIC: {KNOWN},
    Router.CGN_HOME: {KNOWN},
    Router.RST_ROUTER: {KNOWN},
}


@pytest.mark.parametrize("kind", Router, ids=lambda kind: kind.value)
async def test_a_router_lets_in_whom_its_kind_says(kind: Router) -> None:
    async with open_world() as world:
        inside = await world.hands_in(await world.internet.add_home(kind))
        known = await world.hands_in(await world.internet.add_home(Router.PUBLIC))
        stranger = await world.hands_in(await world.internet.add_home(Router.PUBLIC))
        await inside.do("bind 4000")
        for hands, port in ((known, 5000), (known, 5001), (stranger, 5000)):
            await hands.do(f"bind {port}")
        await inside.do(f"send 4000 {known.host.address} 5000 hello")
        seen = (await known.do("hear 5000")).removeprefix("hello from ")
        place = seen.replace(":", " ")
        let_in: set[str] = set()
        for who, hands, port in ((SAME_HOST, known, 5001), (STRANGER, stranger, 5000), (KNOWN, known, 5000)):
            await hands.do(f"send {port} {place} hi")
            if await inside.do("hear 4000") == f"hi from {hands.host.address}:{port}":
                let_in.add(who)
        assert let_in == LETS_IN[kind]


@pytest.mark.parametrize("kind", Router, ids=lambda kind: kind.value)
async def test_a_symmetric_router_alone_shows_each_peer_another_port(kind: Router) -> None:
    async with open_world() as world:
        home = await world.internet.add_home(kind)
        inside = await world.hands_in(home)
        await inside.do("bind 4000")
        seen: list[str] = []
        for _ in range(2):
            peer = await world.hands_in(await world.internet.add_home(Router.PUBLIC))
            await peer.do("bind 5000")
            await inside.do(f"send 4000 {peer.host.address} 5000 hello")
            seen.append((await peer.do("hear 5000")).removeprefix("hello from "))
        outside = home.outside if kind.has_nat else inside.host.address
        if kind is Router.SYMMETRIC:
            assert seen[0] != seen[1]
            assert {place.split(":")[0] for place in seen} == {outside}
        else:
            assert seen == [f"{outside}:4000"] * 2


@pytest.mark.parametrize(
    ("kind", "answer"), [(Router.PORT_RESTRICTED, "silence"), (Router.RST_ROUTER, "Connection refused")]
)
async def test_a_closed_port_is_silent_or_refuses(kind: Router, answer: str) -> None:
    async with open_world() as world:
        home = await world.internet.add_home(kind)
        peer = await world.hands_in(await world.internet.add_home(Router.PUBLIC))
        await (await world.hands_in(home)).do("listen 4000")
        assert await peer.do(f"dial {home.outside} 4000") == answer


@pytest.mark.parametrize("kind", [Router.FULL_CONE, Router.PORT_RESTRICTED])
@pytest.mark.parametrize("hairpin", [True, False])
async def test_hosts_of_one_home_reach_each_other_by_its_address_with_hairpin_alone(
    kind: Router, *, hairpin: bool
) -> None:
    async with open_world() as world:
        home = await world.internet.add_home(kind, habits=Habits(hairpin=hairpin))
        one, other = await world.hands_in(home), await world.hands_in(home)
        peer = await world.hands_in(await world.internet.add_home(Router.PUBLIC))
        for hands in (one, other, peer):
            await hands.do("bind 4000")
        await one.do(f"send 4000 {peer.host.address} 4000 hello")
        assert await peer.do("hear 4000") == f"hello from {home.outside}:4000"
        await other.do(f"send 4000 {home.outside} 4000 hi")
        heard = await one.do("hear 4000")
        assert heard.startswith(f"hi from {home.outside}:") if hairpin else heard == "silence"


async def test_without_udp_there_is_tcp() -> None:
    async with open_world() as world:
        inside = await world.hands_in(
            await world.internet.add_home(Router.PORT_RESTRICTED, habits=Habits(passes_udp=False))
        )
        peer = await world.hands_in(await world.internet.add_home(Router.PUBLIC))
        await peer.do("bind 4000")
        await peer.do("listen 4000")
        await inside.do("bind 4000")
        await inside.do(f"send 4000 {peer.host.address} 4000 hello")
        assert await peer.do("hear 4000") == "silence"
        assert float(await inside.do(f"dial {peer.host.address} 4000 30")) >= 0


@pytest.mark.parametrize(("forgets_s", "heard"), [(1, "silence"), (None, "hi")])
async def test_a_router_may_forget_a_silent_flow(forgets_s: int | None, heard: str) -> None:
    async with open_world() as world:
        inside = await world.hands_in(
            await world.internet.add_home(Router.PORT_RESTRICTED, habits=Habits(forgets_s=forgets_s))
        )
        peer = await world.hands_in(await world.internet.add_home(Router.PUBLIC))
        for hands in (inside, peer):
            await hands.do("bind 4000")
        await inside.do(f"send 4000 {peer.host.address} 4000 hello")
        place = (await peer.do("hear 4000")).removeprefix("hello from ").replace(":", " ")
        await wait_longer_than(world, 1)
        await peer.do(f"send 4000 {place} hi")
        assert (await inside.do("hear 4000")).split(" from ")[0] == heard


async def wait_longer_than(world: World, seconds: int) -> None:
    """The kernel's clock is not ours: it forgets when a second more has gone by."""
    idle = await world.hands_in(await world.internet.add_home(Router.PUBLIC))
    await idle.do("bind 1")
    assert await idle.do(f"hear 1 {seconds + 1}") == "silence"
