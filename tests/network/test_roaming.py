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
            for node, kind in enumerate([Router.PUBLIC, *kinds]):
                homes.append(await internet.add_home(kind, LINE if node else OPEN))
                hosts.append(await homes[-1].add_host())
                places.append(Place(hosts[-1].prefix, f"/ip4/0.0.0.0/tcp/{PORT}"))  # nobody is told of any relay
            async with nets.open_testnet(plan, Path(folder), places) as testnet:
                await testnet.launch()
                yield Swarm(internet, testnet, homes, hosts)


async def until_seen(node: nets.TestnetNode, other: nets.TestnetNode, *ways: str) -> None:
    """Until `node` has a path to `other` with one of these in its address; any path if none is named."""
    async with connect(node.data_dir) as client:
        while True:
            paths = {each["peer_id"]: each["address"] for each in await client.call("peers")}
            path = paths.get(other.peer)
            if path is not None and (not ways or any(way in path for way in ways)):
                return
            await trio.sleep(0.1)


async def test_a_laptop_that_is_carried_elsewhere_is_back_and_keeps_its_place() -> None:
    async with open_swarm([Router.PORT_RESTRICTED, Router.PORT_RESTRICTED, Router.SYMMETRIC]) as swarm:
        testnet = swarm.testnet
        await swarm.until(2)
        laptop, others = testnet.nodes[1], [testnet.nodes[0], *testnet.nodes[2:]]
        for node in others:
            await until_seen(node, laptop)  # who has yet to be met cannot be back; rounds go on by gossip meanwhile
        elsewhere = await swarm.internet.add_home(Router.FULL_CONE, LINE)
        await swarm.hosts[1].move(elsewhere)
        moved_at = trio.current_time()
        took = {node.index: 0.0 for node in others}

        async def until_back(node: nets.TestnetNode) -> None:
            """Until a node sees the laptop at its new place, or through a relay."""
            await until_seen(node, laptop, f"/{elsewhere.outside}/", "/p2p-circuit/")
            took[node.index] = trio.current_time() - moved_at

        with trio.fail_after(BACK_S):
            async with trio.open_nursery() as nursery:
                for node in others:
                    nursery.start_soon(until_back, node)
        print("seconds until each sees the laptop again:", {node: round(each, 1) for node, each in took.items()})
        before = swarm.rounds()
        await swarm.until(before + 3)
        rounds = testnet.tally.report(PLAN.method).rounds
        # Whatever was under way: at most one round had to do without the laptop, which keeps its seat and its work.
        assert sum(laptop.peer not in each.contributors for each in rounds) <= 1
        digests = {testnet.tally.digest(node.peer, before + 1) for node in testnet.nodes}
        assert len(digests) == 1
        assert None not in digests
