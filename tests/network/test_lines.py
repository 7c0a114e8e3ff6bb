"""What lines do to packets, and what befalls homes and the people in them."""

import trio

from shoal.node.laboratory import Line
from shoal.node.routers import Router

from .hands import Hands, World, open_world

# A machine with other work stretches times: bounds below are physics, those above leave room.
STRETCH = 4.0


async def test_a_round_trip_takes_the_delays_of_both_lines() -> None:
    async with open_world() as world:
        near, far = await pair(world, Line(delay_ms=40), Line(delay_ms=10))
        await far.do("listen 4000")
        took_ms = float(await near.do(f"dial {far.host.address} 4000 30"))
        assert 100 <= took_ms <= 100 * STRETCH


async def test_a_line_is_no_faster_than_its_rate_and_each_direction_has_its_own() -> None:
    async with open_world() as world:
        home, peer = await pair(world, Line(up_mbit=20, down_mbit=80), Line())
        await peer.do("listen 4000")
        await home.do(f"dial {peer.host.address} 4000 30")
        await peer.do("accept 4000")
        size = 5_000_000
        assert 0.9 * (floor_s := size * 8 / 20e6) <= await transfer(home, peer, size) <= floor_s * STRETCH
        assert 0.9 * (floor_s := size * 8 / 80e6) <= await transfer(peer, home, size) <= floor_s * STRETCH


async def test_a_line_loses_the_share_of_packets_that_it_says() -> None:
    count = 4000
    async with open_world() as world:
        home, peer = await pair(world, Line(loss=0.2), Line())
        for one, other in ((home, peer), (peer, home)):
            await other.do("bind 4000")
            await one.do("bind 5000")
            await one.do(f"send 5000 {other.host.address} 4000 x {count}")
            came = int(await other.do("count 4000 1"))
            assert 0.76 < came / count < 0.84  # six standard deviations


async def test_a_narrow_line_lets_whole_transfers_through() -> None:
    async with open_world() as world:
        home, peer = await pair(world, Line(mtu=1280), Line())
        await peer.do("listen 4000")
        await home.do(f"dial {peer.host.address} 4000 30")
        await peer.do("accept 4000")
        assert await transfer(home, peer, 1_000_000) > 0
        assert await transfer(peer, home, 1_000_000) > 0


async def test_homes_are_parted_and_a_connection_outlives_it() -> None:
    async with open_world() as world:
        home, peer = await pair(world, Line(), Line())
        await peer.do("listen 4000")
        await home.do(f"dial {peer.host.address} 4000 30")
        await peer.do("accept 4000")
        await world.internet.part([home.host.home])
        await home.do("push 1000")
        assert await peer.do("pull 1000 1") == "silence"
        await world.internet.heal()
        assert float(await peer.do("pull 1000 60")) >= 0


async def test_a_frozen_computer_does_nothing_and_goes_on() -> None:
    async with open_world() as world:
        home, peer = await pair(world, Line(), Line())
        await peer.do("bind 4000")
        home.host.freeze()
        await home.tell("bind 5000")
        await home.tell(f"send 5000 {peer.host.address} 4000 hello")
        assert await peer.do("hear 4000 1") == "silence"
        home.host.thaw()
        assert [await home.answer(), await home.answer()] == ["bound", "sent"]
        assert (await peer.do("hear 4000 30")).startswith("hello")


async def test_who_moves_is_seen_from_the_new_home_and_loses_the_connections_of_the_old() -> None:
    async with open_world() as world:
        laptop, peer = await pair(world, Line(), Line(), Router.PORT_RESTRICTED)
        office = await world.internet.add_home(Router.SYMMETRIC)
        await peer.do("listen 4000")
        await laptop.do(f"dial {peer.host.address} 4000 30")
        seen = [(await peer.do("accept 4000 30")).split(":")[0]]
        old = laptop.host.home
        await laptop.host.move(office)
        await laptop.do("push 1000")
        assert await peer.do("pull 1000 1") == "silence"
        await laptop.do(f"dial {peer.host.address} 4000 30")
        seen.append((await peer.do("accept 4000 30")).split(":")[0])
        assert seen == [old.outside, office.outside]


async def test_a_router_gets_another_address_and_forgets_what_went_through_the_old() -> None:
    async with open_world() as world:
        inside, peer = await pair(world, Line(), Line(), Router.FULL_CONE)
        home = inside.host.home
        for hands in (inside, peer):
            await hands.do("bind 4000")
        seen: list[str] = []
        for _ in range(2):
            await inside.do(f"send 4000 {peer.host.address} 4000 hello")
            seen.append((await peer.do("hear 4000 30")).removeprefix("hello from "))
            outside = home.outside
            await home.change_address()
            await peer.do(f"send 4000 {outside} 4000 hi")
            assert await inside.do("hear 4000") == "silence"
        assert [place.split(":")[0] for place in seen] == ["5.0.1.2", "5.0.1.3"]


async def transfer(one: Hands, other: Hands, size: int) -> float:
    """How many seconds a number of bytes takes from one to the other."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.do, f"push {size}")
        return float(await other.do(f"pull {size}"))


async def pair(world: World, line: Line, other_line: Line, kind: Router = Router.PUBLIC) -> tuple[Hands, Hands]:
    """Hands in two homes, the first with a router of that kind."""
    home = await world.internet.add_home(kind, line)
    peer = await world.internet.add_home(Router.PUBLIC, other_line)
    return await world.hands_in(home), await world.hands_in(peer)
