"""Judges that lie, in whole swarms: a quorum finds otherwise, and they lose their own trust."""

from pathlib import Path
from typing import Any

from shoal.training.members import Opine
from shoal.training.zeroth import Zeroth
from tests.sim.harness import Node, Swarm, simulated
from tests.sim.zeroth_swarm import banned, constant, people, started, trust

LIAR = 2


def reversed_judgement(method: Zeroth) -> None:
    """Have its audits come out the other way."""
    audit: Any = method.audit

    def lying(*arguments: Any) -> float | None:
        opinion = audit(*arguments)
        return None if opinion is None else 0.0 if opinion == 1.0 else 1.0

    vars(method)["audit"] = lying


def opinions_of(node: Node, other: Node) -> list[Opine]:
    records = node.running.log()
    changes = [change for record in records for change in record.changes]
    return [change for change in changes if isinstance(change, Opine) and change.judge == other.peer_id]


async def test_a_judge_that_slanders_honest_members_loses_its_own_trust_and_is_banned(
    autojump_clock: object, folder: Path
) -> None:
    nodes, spec = people(folder, 6)
    reversed_judgement(nodes[LIAR].method)
    honest = [node for number, node in enumerate(nodes) if number != LIAR]
    async with simulated(nodes, spec) as swarm:
        await started(swarm)
        await swarm.until(lambda: all(banned(node.running) == {nodes[LIAR].peer_id} for node in honest), 300.0)
        assert max(node.round for node in honest) <= 60
        full = trust(nodes[0], nodes[1])
        assert all(trust(nodes[0], node) == full for node in honest)
        assert len(opinions_of(nodes[0], nodes[LIAR])) >= 4
        await _expect_equal(swarm, honest)


async def test_a_judge_that_shields_a_liar_is_judged_with_it(autojump_clock: object, folder: Path) -> None:
    nodes, spec = people(folder, 6, {4: constant})
    reversed_judgement(nodes[LIAR].method)
    honest = [node for number, node in enumerate(nodes) if number not in (LIAR, 4)]
    gone = {nodes[LIAR].peer_id, nodes[4].peer_id}
    async with simulated(nodes, spec) as swarm:
        await started(swarm)
        await swarm.until(lambda: all(nodes[4].peer_id in banned(node.running) for node in honest), 200.0)
        await swarm.until(lambda: all(banned(node.running) == gone for node in honest), 300.0)
        await _expect_equal(swarm, honest)


async def test_one_liar_of_three_convicts_nobody_but_itself(autojump_clock: object, folder: Path) -> None:
    nodes, spec = people(folder, 3)
    reversed_judgement(nodes[LIAR].method)
    async with simulated(nodes, spec) as swarm:
        await started(swarm)
        await swarm.until_round(30)
        assert banned(nodes[0].running) <= {nodes[LIAR].peer_id}
        assert trust(nodes[0], nodes[0]) == trust(nodes[0], nodes[1]) > trust(nodes[0], nodes[LIAR])


async def _expect_equal(swarm: Swarm, honest: list[Node]) -> None:
    last = max(node.round for node in honest) + 3
    await swarm.until_round(last, *(swarm.nodes.index(node) for node in honest))
    assert len({node.digest(last) for node in honest}) == 1
