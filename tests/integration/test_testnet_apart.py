"""Two of five nodes are cut off for three rounds: they train on, and what they made meanwhile is taken afterwards."""

from typing import Any, Final

import pytest
import trio

from shoal.node import testnet as nets
from shoal.node.async_client import connect
from shoal.node.lan import obstacle, open_lan
from shoal.node.logged import opened, record_of

# Three rounds apart leave one of the default 4 to come back in, about 3 s here: less than a busy machine may need.
PLAN: Final = nets.Plan(
    nodes=5,
    rounds=None,
    model="gpt-0.2m",
    settings={"steps": 20, "codec": "int8", "validation_windows": 4},
    rules={"round_s": 6.0, "grace_s": 2.0, "silence_s": 2.0, "stale_rounds_max": 8},
)
APART: Final = 3  # rounds
TIMEOUT_S: Final = 170.0
LOOK_S: Final = 0.1


async def show(node: nets.TestnetNode) -> dict[str, Any]:
    async with connect(node.data_dir) as client:
        shown: dict[str, Any] = await client.call("swarm.show")
    return shown


async def until_paused(node: nets.TestnetNode) -> None:
    while not str((await show(node))["notice"]).startswith("paused: 2 of 5 votes are connected"):  # noqa: ASYNC110
        await trio.sleep(LOOK_S)


def records(node: nets.TestnetNode) -> list[dict[str, Any]]:
    with opened(node.data_dir, None) as log:
        return [record_of(row) for row in log.reader.last(100)]


async def test_what_a_minority_made_while_it_was_cut_off_is_taken_when_it_is_back(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    if reason := await obstacle():
        pytest.skip(f"NOT TESTED: work of nodes that were cut off. {reason}")
    directory = tmp_path_factory.mktemp("apart")  # short: a node in another network is asked by a Unix socket
    with trio.fail_after(TIMEOUT_S):
        async with open_lan(PLAN.nodes) as lan, nets.open_testnet(PLAN, directory, lan.places) as testnet:
            await testnet.launch()
            tally = testnet.tally
            founder, *_, fourth, fifth = testnet.nodes
            cut_off = {fourth.peer, fifth.peer}
            await testnet.until(lambda: tally.newest_whole_round() >= 2)

            await lan.tear([fourth.index, fifth.index])
            before = tally.newest_round(founder.peer)
            for node in (fourth, fifth):
                await until_paused(node)
            await testnet.until(lambda: tally.newest_round(founder.peer) >= before + APART)
            members = (await show(founder))["agreement"]["members"]
            assert {member["peer_id"] for member in members if member["suspended"]} == cut_off
            assert all(tally.newest_round(peer) <= before + 1 for peer in cut_off)

            await lan.mend()
            mended_at = tally.newest_round(founder.peer)
            await testnet.until(lambda: tally.newest_whole_round() > mended_at)
            newest = tally.newest_whole_round()
            (digest,) = {tally.digest(node.peer, newest) for node in testnet.nodes}
            assert digest

            taken = [(record["round"], share) for record in records(founder) for share in record["taken"]]
            late = [share for round, share in taken if round - share["base_round"] > APART]
            for peer in cut_off:
                own = [share for share in late if share["member"] == peer]
                assert len({share["base_round"] for share in own}) == 1
                assert len(own) > 1  # more than what it was at when it was cut off: it went on by itself
            assert {share["member"] for share in late} == cut_off
            logs = [each for node in testnet.nodes for each in records(node) if each["round"] <= newest]
            assert len({each["hash"] for each in logs}) == newest  # each names the state before it
