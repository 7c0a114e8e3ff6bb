"""Many members in one process; and that a simulation repeats from its seed."""

import os
from pathlib import Path

import trio
import trio.testing
from hypothesis.internal.entropy import deterministic_PRNG

from shoal.training.events import RoundClosed
from shoal.transport.conditions import Conditions
from tests.sim.harness import make_nodes, make_spec, simulated

COUNT = 100 if os.environ.get("SHOAL_SOAK") else 24


async def test_dozens_of_members_close_rounds_with_all_contributions(autojump_clock: object, folder: Path) -> None:
    nodes = make_nodes(folder, COUNT)
    spec = make_spec(nodes, members_start=COUNT, members_max=2 * COUNT)
    async with simulated(nodes, spec, is_full=True) as swarm:
        await swarm.start(*range(COUNT))
        await swarm.until_round(3)
        for round in range(1, 4):
            assert len(set(swarm.digests(round))) == 1
            assert all(len(node.observed(RoundClosed)[round - 1].contributors) == COUNT for node in nodes)


async def test_members_find_all_others_from_one_address(autojump_clock: object, folder: Path) -> None:
    nodes = make_nodes(folder, 12)
    async with simulated(nodes, make_spec(nodes, members_start=12)) as swarm:
        await swarm.start(*range(12), introducer=5)
        await swarm.until_round(1, timeout_s=30.0)
        assert all(len(node.running.status().members) == 11 for node in nodes)


def test_the_same_seed_gives_the_same_transcript(folder: Path) -> None:
    def run(seed: int, place: Path) -> list[str]:
        async def main() -> list[str]:
            nodes = make_nodes(place, 5, payload_bytes=10_000)
            conditions = Conditions(latency_s=0.03, jitter_s=0.04, loss=0.03)
            async with simulated(nodes, make_spec(nodes, members_start=5), seed=seed, conditions=conditions) as swarm:
                await swarm.start(*range(5), introducer=0)
                await swarm.until_round(2)
                swarm.kill(0, silently=True)
                await swarm.until_round(5)
                return swarm.transcript()

        # Trio shuffles the tasks that one instant woke; its hypothesis plugin, which pytest loads, lets that be seeded.
        with deterministic_PRNG():
            return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))

    first, second, other = run(1, folder / "a"), run(1, folder / "b"), run(2, folder / "c")
    assert first == second
    assert first != other
