"""Whole swarms that do one another's turns again: whoever sends other work than it did is banned, and nobody else."""

from pathlib import Path

import numpy as np
import pytest
import trio

from shoal.training.diloco import Diloco
from shoal.training.events import Audited, LocalDone, Waiting
from shoal.training.membership_view import MemberView
from shoal.training.method import Share
from tests.sim.diloco_swarm import Forgetful, people
from tests.sim.harness import Node, simulated
from tests.sim.zeroth_swarm import banned, started


def threefold(delta: np.ndarray) -> np.ndarray:
    return np.float32(3) * delta


def row(judge: Node, member: Node) -> MemberView:
    view = judge.running.membership()
    assert view is not None
    return next(each for each in view.members if each.peer == member.peer_id)


@pytest.mark.parametrize("worker_momentum", [0.0, 0.9])
async def test_one_of_four_who_scales_honest_work_is_banned_and_the_honest_are_not(
    autojump_clock: object, folder: Path, worker_momentum: float
) -> None:
    nodes, spec = people(folder, 4, {2: threefold}, rule="mean", worker_momentum=worker_momentum, outer_momentum=0.0)
    liar, honest = nodes[2], [node for node in nodes if node is not nodes[2]]
    async with simulated(nodes, spec) as swarm:
        await started(swarm)
        await swarm.until(lambda: all(banned(node.running) == {liar.peer_id} for node in honest))
        last = max(node.round for node in honest) + 12
        await swarm.until_round(last, 0, 1, 3)
        assert banned(honest[0].running) <= {liar.peer_id}
        opinions = [each for node in honest for each in node.observed(Audited)]
        assert len(opinions) > 10
        assert all((each.opinion == 1.0) == (each.member != liar.peer_id) for each in opinions)
        assert all(row(honest[0], node).trust > row(honest[0], liar).trust for node in honest)
        assert len({node.digest(last) for node in honest}) == 1


class Comparing(Diloco):
    """Draws nothing for itself, but by what contributions do to the loss."""

    def is_audited(self, share: Share, seed: bytes, judge: str, contributors: int) -> bool:
        return False


async def test_who_leads_uphill_is_found_by_what_it_does_to_the_loss_and_then_by_its_turn(
    autojump_clock: object, folder: Path
) -> None:
    nodes, spec = people(folder, 6, {3: np.negative}, audit_share=0.5)
    liar, honest = nodes[3], [node for node in nodes if node is not nodes[3]]
    for node in honest:
        settled = node.method
        node.method = Comparing(settled._spec, settled._settings, settled._trainer)
    async with simulated(nodes, spec) as swarm:
        await started(swarm)
        await swarm.until(lambda: all(banned(node.running) == {liar.peer_id} for node in honest))
        opinions = [each for node in honest for each in node.observed(Audited)]
        assert all((each.opinion == 1.0) == (each.member != liar.peer_id) for each in opinions)
        assert max(node.round for node in honest) < 20


async def test_who_does_not_hand_over_what_it_started_from_loses_trust_and_is_not_banned(
    autojump_clock: object, folder: Path
) -> None:
    nodes, spec = people(folder, 4)
    laptop = nodes[1]
    laptop.disk = Forgetful({3, 4})
    for node in nodes:
        node.turn_s = 8.0
    async with simulated(nodes, spec) as swarm:
        await started(swarm)
        await swarm.until_round(3)
        await swarm.until(lambda: row(nodes[0], laptop).trust < row(nodes[0], nodes[2]).trust / 2)
        await swarm.until_round(max(node.round for node in nodes) + 10)
        assert not banned(nodes[0].running)
        assert all(row(nodes[0], node).trust > row(nodes[0], laptop).trust for node in nodes if node is not laptop)
        found = [problem for problem in swarm.problems() if "does not hand over" in problem]
        assert len(found) == len(set(found)) * 3  # each of the others, once for each


async def test_work_that_nobody_doubts_is_done_again_by_few(autojump_clock: object, folder: Path) -> None:
    nodes, spec = people(folder, 4, audit_share=0.25)
    async with simulated(nodes, spec) as swarm:
        await started(swarm)
        await swarm.until_round(24)
        opinions = [each for node in nodes for each in node.observed(Audited)]
        assert 8 <= len(opinions) <= 32  # of 4 members in 22 rounds 0.25 * 3/4 each: 16
        assert {each.opinion for each in opinions} == {1.0}
        assert not banned(nodes[0].running)


async def test_who_is_killed_and_comes_back_passes_all_audits(autojump_clock: object, folder: Path) -> None:
    nodes, spec = people(folder, 4, worker_momentum=0.9, outer_momentum=0.0)
    async with simulated(nodes, spec) as swarm:
        await started(swarm)
        for round in (4, 9):
            await swarm.until_round(round)
            swarm.kill(3)
            await swarm.until_round(round + 2, 0, 1, 2)
            await swarm.start(3, introducer=0)
        await swarm.until_round(16)
        opinions = [each for node in nodes for each in node.observed(Audited)]
        assert any(each.member == nodes[3].peer_id and each.round > 11 for each in opinions)
        assert {each.opinion for each in opinions} == {1.0}
        assert not banned(nodes[0].running)


async def test_while_no_round_closes_nobody_makes_turns_that_could_not_be_done_again(
    autojump_clock: object, folder: Path
) -> None:
    nodes, spec = people(folder, 4)
    for node in nodes:
        node.turn_s = 1.0
    async with simulated(nodes, spec) as swarm:
        await started(swarm)
        await swarm.until_round(3)
        swarm.kill(1, 2, 3)
        await trio.sleep(60.0)
        assert any("is paused" in waiting.reason for waiting in nodes[0].observed(Waiting))
        made = [done.round for done in nodes[0].observed(LocalDone)]
        assert len(made) == len(set(made)) <= nodes[0].round + 1
        assert not any("nothing is contributed" in problem for problem in swarm.problems())
        await swarm.start(1, 2, 3, introducer=0)
        await swarm.until_round(max(node.round for node in nodes) + 4)
        for node in nodes:
            taken = [share for record in node.running.log() for share in record.taken]
            assert all(share.round == share.base_round + 1 for share in taken)
        assert not banned(nodes[0].running)


class Silent(Diloco):
    """Never says what its turns start from."""

    @property
    def wants_starts(self) -> bool:
        return False


async def test_who_never_says_what_its_turns_start_from_is_banned(autojump_clock: object, folder: Path) -> None:
    nodes, spec = people(folder, 4)
    silent = nodes[1]
    settled = silent.method
    silent.method = Silent(settled._spec, settled._settings, settled._trainer)
    async with simulated(nodes, spec) as swarm:
        await started(swarm)
        await swarm.until(lambda: banned(nodes[0].running) == {silent.peer_id})
