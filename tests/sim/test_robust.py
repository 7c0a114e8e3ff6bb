"""Whole swarms with members that forge: they lose their weight and are banned, by the log alone; the honest go on."""

from pathlib import Path

import numpy as np
import pytest

from shoal.training.events import Problem
from shoal.training.method import Turn
from tests.sim.harness import Node, Swarm, simulated
from tests.sim.robust_swarm import Forge, backwards, banned, drawn, huge, loss_at, nan, people, trust

FORGERS = {"backwards": backwards, "drawn": drawn, "huge": huge}


def honest_of(nodes: list[Node], liars: dict[int, Forge]) -> list[Node]:
    return [node for number, node in enumerate(nodes) if number not in liars]


async def started(swarm: Swarm) -> None:
    await swarm.start(*range(len(swarm.nodes)), introducer=0)


@pytest.mark.parametrize(
    ("rule", "attack"),
    [("mean", "backwards"), ("median", "drawn"), ("centered_clipping", "backwards"), ("centered_clipping", "huge")],
)
async def test_two_of_eight_who_forge_are_banned_within_ten_rounds_and_nobody_else_is(
    autojump_clock: object, folder: Path, attack: str, rule: str
) -> None:
    liars: dict[int, Forge] = {2: FORGERS[attack], 5: FORGERS[attack]}
    nodes, spec = people(folder, 8, liars, rule=rule)
    honest = honest_of(nodes, liars)
    async with simulated(nodes, spec) as swarm:
        await started(swarm)
        gone = {nodes[number].peer_id for number in liars}
        await swarm.until(lambda: all(banned(node) == gone for node in honest), 200.0)
        assert max(node.round for node in honest) <= 10
        await swarm.until_round(24, *(nodes.index(node) for node in honest))
        assert len({node.digest(24) for node in honest}) == 1
        assert loss_at(honest[0].running.state().parameters) < 0.02
        assert all(banned(node) == gone for node in honest)
        assert min(trust(honest[0], node) for node in honest) > 0.5


async def test_who_sends_what_is_no_number_enters_no_record_and_holds_up_nobody(
    autojump_clock: object, folder: Path
) -> None:
    nodes, spec = people(folder, 5, {2: nan})
    honest = honest_of(nodes, {2: nan})
    async with simulated(nodes, spec) as swarm:
        await started(swarm)
        await swarm.until_round(10, *(nodes.index(node) for node in honest), timeout_s=30.0)
        assert len({node.digest(10) for node in honest}) == 1
        assert any("is refused" in problem.message for problem in honest[0].observed(Problem))


async def test_a_ban_ends_and_who_has_changed_its_ways_is_trusted_again(autojump_clock: object, folder: Path) -> None:
    def at_first(delta: np.ndarray, turn: Turn) -> np.ndarray:
        return -delta if turn.round < 10 else delta

    liars: dict[int, Forge] = {1: at_first}
    nodes, spec = people(folder, 5, liars, {"ban_rounds": 6})
    async with simulated(nodes, spec) as swarm:
        await started(swarm)
        await swarm.until(lambda: banned(nodes[0]) == {nodes[1].peer_id}, 100.0)
        from_round = nodes[0].round
        await swarm.until(lambda: not banned(nodes[0]), 100.0)
        assert nodes[0].round >= from_round + 5
        low = trust(nodes[0], nodes[1])
        assert low < 0.2
        await swarm.until_round(from_round + 30)
        assert trust(nodes[0], nodes[1]) > low
        assert not banned(nodes[0])


async def test_who_was_killed_and_who_comes_late_go_by_the_same_trust(autojump_clock: object, folder: Path) -> None:
    nodes, spec = people(folder, 6, {2: backwards}, {"members_start": 5})
    async with simulated(nodes, spec) as swarm:
        await swarm.start(0, 1, 2, 3, 4, introducer=0)
        await swarm.until_round(3)
        swarm.kill(3)
        await swarm.until_round(12, 0, 1, 4)
        await swarm.start(3, introducer=0)
        await swarm.start(5, introducer=0)
        last = max(node.round for node in nodes) + 6
        await swarm.until_round(last, 0, 1, 3, 4, 5)
        honest = [node for node in nodes if node is not nodes[2]]
        assert len({node.digest(last) for node in honest}) == 1
        assert all(banned(node) == {nodes[2].peer_id} for node in honest)
        assert 0 < trust(nodes[0], nodes[5]) < trust(nodes[0], nodes[1])  # who is new has yet to earn it
