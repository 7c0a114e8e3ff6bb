"""Nodes behind home routers train together, though nobody has forwarded a port."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
import trio

from shoal.node import testnet as nets
from shoal.node.async_client import AsyncClient, connect
from shoal.node.complaint import Complaint, Exit
from shoal.node.home_testnet import NODES_MAX, check, open_homes, router_of
from shoal.node.laboratory import obstacle
from shoal.node.routers import Router
from shoal.transport.relay import RelayLimits

PATIENCE_S: Final = 300.0
PLAN: Final = nets.Plan(
    nodes=4,
    rounds=2,
    model="gpt-0.2m",
    seed=5,
    settings={"steps": 5, "codec": "int8", "validation_windows": 4},
    is_at_home=True,
)


async def test_a_machine_that_lacks_a_tool_says_so_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Complaint, match=r"^--network home cannot be had .*`ip` is not .*iproute2\)$") as caught:
        await check(PLAN)
    assert caught.value.code is Exit.MISSING


async def test_more_nodes_than_a_relay_can_carry_are_refused() -> None:
    others = NODES_MAX - 1
    circuits_max = RelayLimits().circuits_max
    assert others * (others - 1) // 2 <= circuits_max < others * (others + 1) // 2
    with pytest.raises(Complaint, match=f"{NODES_MAX} nodes at most, not {NODES_MAX + 1}$") as caught:
        await check(replace(PLAN, nodes=NODES_MAX + 1))
    assert caught.value.code is Exit.USAGE


async def test_three_behind_routers_and_one_who_relays_agree_to_the_bit() -> None:
    if reason := await obstacle():
        pytest.skip(f"NOT TESTED: {reason}")
    # A short path: nodes in networks of their own are asked by Unix sockets.
    with tempfile.TemporaryDirectory(prefix="shoal-") as folder, trio.fail_after(PATIENCE_S):
        where = Path(folder)
        async with open_homes(PLAN, where) as places, nets.open_testnet(PLAN, where, places) as testnet:
            await testnet.launch()
            await testnet.until(lambda: testnet.tally.has_finished)
            report = testnet.tally.report(PLAN.method)
            assert [len(each.contributors) for each in report.rounds] == [4, 4]
            for number in (1, 2):
                digests = {testnet.tally.digest(node.peer, number) for node in testnet.nodes}
                assert len(digests) == 1
                assert None not in digests
            restricted, symmetric = testnet.nodes[1], testnet.nodes[3]
            assert (router_of(1), router_of(3)) == (Router.PORT_RESTRICTED, Router.SYMMETRIC)
            async with connect(restricted.data_dir) as client:
                while len(paths := await _paths(client)) < 3:  # noqa: ASYNC110  # a round needs no pair: gossip does
                    await trio.sleep(0.2)
            assert paths[testnet.nodes[0].peer] is False
            assert paths[symmetric.peer] is True  # no hole can be punched between those two


async def _paths(client: AsyncClient) -> dict[str, bool]:
    """Who is connected, and whether by a relay."""
    return {peer["peer_id"]: peer["is_relayed"] for peer in await client.call("peers")}
