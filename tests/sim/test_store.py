"""Hundreds of replicas under loss, partitions, churn and liars: when that ends, all that are honest hold the same."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from tests.sim.store_liars import FORKED_AT, forks, skips
from tests.sim.store_network import Weather
from tests.sim.store_world import Plan, World

IS_SOAK = bool(os.environ.get("SHOAL_SOAK"))
COUNT = 200 if IS_SOAK else 40
SEEDS = range(20 if IS_SOAK else 1)
HEAL_AT = 20.0 if IS_SOAK else 10.0
EQUAL_S = 10.0  # after healing
PRINTS = "from tests.sim.store_world import *; print(World(Plan(seed={seed}, count=4, heal_at=5.0)).run().transcript)"


def check(world: World, equal_s: float = EQUAL_S) -> None:
    """Run it. All honest replicas become equal in time, hold all that honest nodes wrote, and know who forked."""
    outcome = world.run()
    assert outcome.equal_s is not None, world.differences()
    assert outcome.equal_s <= equal_s, outcome
    for node in world.honest:
        for writer, stretches in world.written.items():
            chain = node.replica.chain(writer)
            assert chain is not None
            assert not chain.is_forked
            assert [chain.hash_at(stretch.last) for stretch in stretches] == [each.hashes[-1] for each in stretches]
        for liar in world.liars:
            if liar.act is forks:
                chain = node.replica.chain(liar.writer)
                assert chain is not None
                assert (chain.number, chain.is_forked) == (FORKED_AT - 1, True)


@pytest.mark.parametrize("seed", SEEDS)
def test_honest_replicas_are_equal_soon_after_healing_and_lose_nothing(seed: int) -> None:
    check(World(Plan(seed, COUNT, heal_at=HEAL_AT)))


@pytest.mark.parametrize(
    "plan",
    [
        pytest.param(Plan(weather=Weather(loss=0.2)), id="20-percent-lost"),
        pytest.param(Plan(all_restart=True), id="all-restart-at-once"),
        pytest.param(Plan(partitions=1), id="two-sides-write-for-long"),
        pytest.param(Plan(newcomers=4), id="newcomers-with-nothing"),
        pytest.param(Plan(acts=(skips,) * 6), id="backlogs-overflow"),
    ],
)
def test_so_they_are_when_worse_happens(plan: Plan) -> None:
    check(World(replace(plan, count=COUNT // (3 if IS_SOAK else 5), heal_at=HEAL_AT)), 2 * EQUAL_S)


def test_a_few_replicas_that_share_no_signature_checks_are_equal_likewise() -> None:
    check(World(Plan(count=10 if IS_SOAK else 6, heal_at=8.0, is_shared=False)))


def transcript(seed: int, hash_seed: str) -> str:
    command = [sys.executable, "-W", "error", "-c", PRINTS.format(seed=seed)]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


def test_a_seed_gives_one_transcript_to_the_byte_whatever_order_sets_have() -> None:
    first = transcript(1, "1")
    assert len(first) > 32
    assert transcript(1, "2") == first
    assert transcript(2, "1") != first
