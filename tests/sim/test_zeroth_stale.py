"""Whole swarms that train by shared seeds, and work beside each round's: who lies in it goes, who is late stays."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from shoal.training.agreed import Share as Taken
from shoal.training.checkpoint import Local
from shoal.training.events import Audited
from shoal.training.method import Share, Turn
from shoal.training.ports import BytesReader
from shoal.training.spec import SignedSpec, Spec, open_spec
from shoal.training.weights import weights_in
from shoal.transport.conditions import Conditions
from tests.sim.harness import Node, make_spec, simulated
from tests.sim.villain import core_of
from tests.sim.zeroth_swarm import (
    SETTINGS,
    Besides,
    Forge,
    Plan,
    banned,
    loss,
    method_of,
    people,
    started,
    tenfold_and_backwards,
)

LAST = 16  # of the rounds that are looked at


def two_rounds_late(newest: int) -> Sequence[tuple[int, int]]:
    return [(2, 3)]


def late_with_the_next_beside(newest: int) -> Sequence[tuple[int, int]]:
    return [(1, 2)]


def many_from_each(newest: int) -> Sequence[tuple[int, int]]:
    """As many as may wait, from three states; then three others must have come."""
    return [(0, 1), *((back, ahead) for back in (1, 2) for ahead in range(1, 6))] if newest % 3 == 0 else []


def two_from_the_newest(newest: int) -> Sequence[tuple[int, int]]:
    return [(0, 2)]


def one_slope(codes: bytes, turn: Turn) -> bytes:
    return tenfold_and_backwards(codes[:1], turn)


# Whether they work as others do, too; from which states they lie; how.
ATTACKS: dict[str, tuple[bool, Plan, Forge]] = {
    "always stale": (False, two_rounds_late, tenfold_and_backwards),
    "from several states": (False, many_from_each, tenfold_and_backwards),
    "honest where fresh": (True, late_with_the_next_beside, tenfold_and_backwards),
    "a slope beside a turn": (True, two_from_the_newest, one_slope),
}


def alone(nodes: list[Node], signed: SignedSpec, rounds: int) -> float:
    """The loss to which these nodes come in so many rounds where nobody else is."""
    method, spec = method_of(signed), open_spec(signed)
    assert isinstance(spec, Spec)
    state, _ = method.start(spec)
    for round in range(1, rounds + 1):
        shares: list[Share] = []
        for node in nodes:
            me = node.peer_id
            turn = Turn(round, round - 1, me, (me,), 0, math.inf, lambda: 0.0, lambda: False)
            work = method.contribute(state, Local(), turn)
            shares.append(Share(round, me, work.samples, 1, round - 1, BytesReader(bytes(work.payload[0]))))
        state, _ = method.apply(state, shares)
    return method.evaluate(state)["validation_loss"]


def stale(node: Node) -> list[Taken]:
    """What the log's records took of work that was not from the newest state."""
    records = node.running.log()
    return [each for record in records for each in record.taken if each.base_round < record.round - 1]


def moved(node: Node) -> Iterable[Counter[str]]:
    """By how much each member moved the state, round by round."""
    ledger = core_of(node).ledger
    for round in range(1, ledger.newest + 1):
        closed = ledger.closed(round)
        assert closed is not None
        weights = weights_in(closed, ledger)
        assert weights is not None
        of = Counter[str]()
        for share, weight in zip(closed.record.taken, weights, strict=True):
            of[share.member] += weight
        yield of


@pytest.mark.parametrize("attack", ATTACKS)
async def test_two_of_eight_who_lie_in_stale_work_or_beside_a_turn_are_banned_within_forty_rounds(
    autojump_clock: object, folder: Path, attack: str
) -> None:
    works, plan, forge = ATTACKS[attack]
    nodes, spec = people(folder, 8)
    liars, honest = [nodes[2], nodes[5]], [node for node in nodes if node not in (nodes[2], nodes[5])]
    gone = {node.peer_id for node in liars}
    async with simulated(nodes, spec) as swarm, trio.open_nursery() as nursery:
        await started(swarm)
        await swarm.until_round(1)
        for liar in liars:
            if not works:
                liar.running.pause()
            nursery.start_soon(Besides(liar, spec, method_of(spec, forge), plan).run)
        await swarm.until(lambda: all(gone <= banned(node.running) for node in honest), 200.0)
        assert max(node.round for node in honest) <= 40
        await swarm.until_round(LAST, *map(nodes.index, honest))
        assert banned(honest[0].running) == gone
        assert all(len({node.digest(round) for node in honest}) == 1 for round in range(1, LAST + 1))
        opinions = [each for node in nodes for each in node.observed(Audited)]
        assert all(each.opinion == 1.0 for each in opinions if each.member not in gone)
        for of in moved(honest[0]):
            assert max(of[liar] for liar in gone) <= max(of[node.peer_id] for node in honest)
        assert loss(honest[0]) <= alone(honest, spec, LAST - 3)  # the liars have cost three rounds at most
        nursery.cancel_scope.cancel()


def expect_honest(nodes: list[Node]) -> None:
    """All audits of everybody's work have passed, stale work's among them, and all are members."""
    opinions = [each for node in nodes for each in node.observed(Audited)]
    assert all(each.opinion == 1.0 for each in opinions)
    audited = {(each.member, each.round) for each in opinions}
    assert sum((each.member, each.round) in audited for each in stale(nodes[0])) >= 4
    assert not banned(nodes[0].running)


def holds_some(node: Node) -> bool:
    """Of the contributions to the open round."""
    return node.running.status().contributions_held > 0


@pytest.mark.parametrize("settings", [{}, {"way": "steps", "lr": 0.01}, {"pool": 64}], ids=["average", "steps", "pool"])
async def test_members_that_were_cut_off_or_killed_pass_every_audit_of_their_stale_work(
    autojump_clock: object, folder: Path, settings: dict[str, Any]
) -> None:
    nodes, spec = people(folder, 4, audit_share=1.0, **settings)
    async with simulated(nodes, spec) as swarm:
        await started(swarm)
        await swarm.until_round(3)
        for number, rounds, is_killed in ((3, 1, False), (1, 1, True), (2, 3, False), (1, 2, True)):
            await trio.sleep(0.6)
            others = [each for each in range(4) if each != number]
            if is_killed:
                await swarm.until(partial(holds_some, nodes[number]))
                swarm.kill(number)
            else:
                swarm.cut(number)
            await swarm.until_round(max(node.round for node in nodes) + rounds, *others)
            swarm.network.heal()
            if is_killed:
                await swarm.start(number, introducer=0)
            await swarm.until_round(max(node.round for node in nodes) + 2)
        expect_honest(nodes)


async def test_a_member_that_is_always_late_passes_every_audit_of_its_stale_work(
    autojump_clock: object, folder: Path
) -> None:
    nodes, _ = people(folder, 4)
    settings = SETTINGS | {"audit_share": 1.0}
    spec = make_spec(nodes, method="zeroth", members_start=4, round_s=1.2, grace_s=0.05, settings=settings)
    for node in nodes:
        node.method = method_of(spec)
    nodes[2].turn_s = 1.19  # of which the others hear when the round has closed
    async with simulated(nodes, spec, conditions=Conditions(latency_s=0.1, jitter_s=0.0)) as swarm:
        await started(swarm)
        await swarm.until_round(15)
        expect_honest(nodes)
