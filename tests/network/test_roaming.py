"""Who is carried to another network, or whose router has another address, is back soon; a relay may die."""

import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest
import trio

from shoal.node import testnet as nets
from shoal.node.async_client import connect
from shoal.node.laboratory import Home, Host, Internet, Line, obstacle, open_internet
from shoal.node.places import PORT, Place
from shoal.node.routers import Router

PATIENCE_S: Final = 280.0
BACK_S: Final = 10.0
LINE: Final = Line(up_mbit=20, down_mbit=100, delay_ms=15, loss=0.01)
OPEN: Final = Line(delay_ms=5)
PLAN: Final = nets.Plan(
    nodes=4, model="gpt-0.2m", seed=5, minutes=4, settings={"steps": 20, "codec": "int8", "validation_windows": 4}
)


class Swarm:
    """A testnet whose first node is public, with the homes that the others are in."""

    def __init__(self, internet: Internet, testnet: nets.Testnet, homes: list[Home], hosts: list[Host]) -> None:
        self.internet, self.testnet, self.homes, self.hosts = internet, testnet, homes, hosts

    def rounds(self) -> int:
        """How many have closed with a contribution of everybody."""
        report = self.testnet.tally.report(PLAN.method)
        return sum(len(each.contributors) == PLAN.nodes for each in report.rounds)

    async def until(self, rounds: int) -> None:
        await self.testnet.until(lambda: self.rounds() >= rounds)


@asynccontextmanager
async def open_swarm(kinds: list[Router], plan: nets.Plan = PLAN) -> AsyncGenerator[Swarm]:
    if reason := await obstacle():
        pytest.skip(f"NOT TESTED: {reason}")
    with tempfile.TemporaryDirectory(prefix="shoal-") as folder, trio.fail_after(PATIENCE_S):
        async with open_internet() as internet:
            homes: list[Home] = []
            hosts: list[Host] = []
            places: list[Place] = []
            relay = ""
            for node, kind in enumerate([Router.PUBLIC, *kinds]):
                homes.append(await internet.add_home(kind, LINE if node else OPEN))
                hosts.append(await homes[-1].add_host())
                relay = relay or f"/ip4/{hosts[0].address}/tcp/{PORT}/p2p/{plan.identity(0).peer_id}"
                more = ("--relays", relay) if node else ("--relay",)
                places.append(Place(hosts[-1].prefix, f"/ip4/0.0.0.0/tcp/{PORT}", more))
            async with nets.open_testnet(plan, Path(folder), places) as testnet:
                await testnet.launch()
                yield Swarm(internet, testnet, homes, hosts)


async def test_a_laptop_that_is_carried_elsewhere_is_back_and_keeps_its_place() -> None:
    async with open_swarm([Router.PORT_RESTRICTED, Router.PORT_RESTRICTED, Router.SYMMETRIC]) as swarm:
        testnet = swarm.testnet
        await swarm.until(2)
        laptop = testnet.nodes[1]
        elsewhere = await swarm.internet.add_home(Router.FULL_CONE, LINE)
        await swarm.hosts[1].move(elsewhere)
        moved_at = trio.current_time()
        async with connect(laptop.data_dir) as client:
            others = {node.peer for node in testnet.nodes} - {laptop.peer}
            with trio.fail_after(BACK_S):
                while True:
                    await trio.sleep(0.2)
                    status = await client.call("status")
                    peers = {each["peer_id"] for each in await client.call("peers")}
                    if others <= peers and any(elsewhere.inside(11) in each for each in status["addresses"]):
                        break
            print(f"connected with everybody {trio.current_time() - moved_at:.1f} s after the move")
        before = swarm.rounds()
        await swarm.until(before + 2)
        digests = {testnet.tally.digest(node.peer, before + 1) for node in testnet.nodes}
        print(digests)
