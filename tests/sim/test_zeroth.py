"""Whole swarms that train by shared seeds: liars are found and go, and whoever was away comes back to the same bits."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3

from shoal.training.events import Audited, LocalDone, MembersChanged, RoundClosed
from shoal.training.method import Turn
from shoal.training.zeroth_settings import ZerothSettings
from shoal.transport.conditions import Conditions
from tests.sim.harness import simulated
from tests.sim.zeroth_swarm import Forge, banned, constant, loss, people, started, tenfold_and_backwards
from tests.training.quadratic import Quadratic


def drawn(codes: bytes, turn: Turn) -> bytes:
    raw = blake3(turn.seed.to_bytes(8, "big")).digest(len(codes))
    return bytes(code if code != 128 else 0 for code in raw)


class Replayed:
    """The codes of its own first round, again and again."""

    def __init__(self) -> None:
        self.first = b""

    def __call__(self, codes: bytes, turn: Turn) -> bytes:
        self.first = self.first or codes
        return self.first


ATTACKS: dict[str, Callable[[], Forge]] = {
    "tenfold and backwards": lambda: tenfold_and_backwards,
    "constant": lambda: constant,
    "drawn": lambda: drawn,
    "replayed": Replayed,
}


@pytest.mark.parametrize("attack", ATTACKS)
async def test_two_of_eight_who_make_up_their_slopes_are_banned_within_forty_rounds(
    autojump_clock: object, folder: Path, attack: str
) -> None:
    liars = {number: ATTACKS[attack]() for number in (2, 5)}
    nodes, spec = people(folder, 8, liars)
    honest = [node for number, node in enumerate(nodes) if number not in liars]
    async with simulated(nodes, spec) as swarm:
        await started(swarm)
        gone = {nodes[number].peer_id for number in liars}
        await swarm.until(lambda: all(gone <= banned(node.running) for node in honest), 200.0)
        assert max(node.round for node in honest) <= 40
        assert banned(honest[0].running) == gone
        assert all(each.opinion == 1.0 for node in honest for each in node.observed(Audited) if each.member not in gone)
        last = max(node.round for node in honest) + 3
        await swarm.until_round(last, *(nodes.index(node) for node in honest))
        assert len({node.digest(last) for node in honest}) == 1


async def test_honest_members_on_machines_that_round_otherwise_stay(autojump_clock: object, folder: Path) -> None:
    nodes, spec = people(folder, 4, audit_share=0.5)
    for node, skew in zip(nodes, (0.0, 2.0**-22, -(2.0**-22), 2.0**-23), strict=True):
        node.method._evaluator.skew = skew
    async with simulated(nodes, spec) as swarm:
        await started(swarm)
        await swarm.until_round(20)
        assert sum(len(node.observed(Audited)) for node in nodes) > 100
        assert not any(node.observed(MembersChanged)[1:] for node in nodes[:1])
        assert not banned(nodes[0].running)
        assert len(set(swarm.digests(20))) == 1


@pytest.mark.parametrize(("bound", "left"), [(2, 0.5), (ZerothSettings().bound, 0.6)])
async def test_bounds_alone_keep_a_swarm_with_private_samples_from_diverging(
    autojump_clock: object, folder: Path, bound: int, left: float
) -> None:
    nodes, spec = people(folder, 8, {2: tenfold_and_backwards, 5: tenfold_and_backwards}, audit="private", bound=bound)
    async with simulated(nodes, spec) as swarm:
        await started(swarm)
        await swarm.until_round(60)
        assert not any(node.observed(Audited) for node in nodes)
        assert loss(nodes[0]) < left * Quadratic().evaluate(np.zeros(48))["validation_loss"]


async def test_who_was_killed_and_who_comes_late_have_the_same_bits(autojump_clock: object, folder: Path) -> None:
    nodes, spec = people(folder, 5, members_start=4)
    async with simulated(nodes, spec) as swarm:
        await swarm.start(0, 1, 2, 3, introducer=0)
        await swarm.until_round(3)
        swarm.kill(3)
        await swarm.until_round(12, 0, 1, 2)
        await swarm.start(3, introducer=0)
        await swarm.start(4, introducer=0)
        last = max(node.round for node in nodes) + 4
        await swarm.until_round(last)
        assert len(set(swarm.digests(last))) == 1


async def test_on_a_slow_line_every_round_takes_its_work_and_two_round_trips(
    autojump_clock: object, folder: Path
) -> None:
    nodes, spec = people(folder, 4, directions=64)
    conditions = Conditions(latency_s=0.1, jitter_s=0.0)  # 200 ms there and back
    for node in nodes:
        node.bytes_per_s = 125_000.0
    async with simulated(nodes, spec, conditions=conditions) as swarm:
        await started(swarm)
        await swarm.until_round(40)
        for node in nodes:
            # From the end of one to the end of the next: also where a member hears of it later than the others.
            ends_at = [at for at, each in node.events if isinstance(each, RoundClosed) and each.round >= 2]
            took = [end - start for start, end in pairwise(ends_at)]
            assert len(took) >= 38
            assert max(took) <= node.turn_s + 2 * 0.2 + 0.1


async def test_a_contribution_of_64_slopes_takes_250_bytes_more(autojump_clock: object, folder: Path) -> None:
    nodes, spec = people(folder, 3, directions=64)
    async with simulated(nodes, spec) as swarm:
        await started(swarm)
        await swarm.until_round(3)
        done = [each for node in nodes for each in node.observed(LocalDone)]
        assert all(64 < each.bytes <= 64 + 250 for each in done)
