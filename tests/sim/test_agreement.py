"""Agreement, proved by simulation: never two records for a round, and always a next one.

`SHOAL_SOAK=1` runs 10,000 seeds, and swarms of a hundred. `python -m tests.sim.test_agreement majority 26` (or
`two_thirds`) runs one seed again and prints what happens.
"""

import os
import sys
from typing import Final

import pytest

from shoal.training.spec import Quorum

from .agreement_liars import any_liar
from .agreement_member import Violation
from .agreement_world import Plan, World

# Once all has settled every round closes within so many timeouts of a first attempt, the training of it counted in.
CLOSES_WITHIN: Final = {Quorum.MAJORITY: 3.0, Quorum.TWO_THIRDS: 10.0}
SEEDS: Final = 10_000 if os.environ.get("SHOAL_SOAK") else 500


def majority(seed: int) -> World:
    return World(Plan(seed, 3 + seed % 5, leavers=seed % 3, joiners=seed % 2))


def two_thirds(seed: int) -> World:
    count = 4 + seed % 4
    return World(Plan(seed, count, Quorum.TWO_THIRDS, liars=(count - 1) // 3), make_liar=any_liar)


@pytest.mark.parametrize("share", range(10))
def test_no_round_ends_twice_and_the_next_one_ends_whoever_is_killed_or_cut_off(share: int) -> None:
    for seed in range(share, SEEDS // 2, 10):
        assert run(majority(seed)) <= CLOSES_WITHIN[Quorum.MAJORITY], seed


@pytest.mark.parametrize("share", range(10))
def test_no_round_ends_twice_and_the_next_one_ends_whatever_less_than_a_third_lie(share: int) -> None:
    for seed in range(share, SEEDS // 2, 10):
        assert run(two_thirds(seed)) <= CLOSES_WITHIN[Quorum.TWO_THIRDS], seed


@pytest.mark.skipif(not os.environ.get("SHOAL_SOAK"), reason="takes half an hour: SHOAL_SOAK=1")
def test_a_hundred_members_agree() -> None:
    for seed in range(10):
        liars = 33 * (seed % 2)
        quorum = Quorum.TWO_THIRDS if liars else Quorum.MAJORITY
        world = World(Plan(seed * 4, 100, quorum, liars, settles_at=10.0), make_liar=any_liar)
        assert run(world) <= CLOSES_WITHIN[quorum], seed


def test_the_same_seed_is_the_same_run() -> None:
    runs = [two_thirds(7), two_thirds(7)]
    for world in runs:
        world.check()
    assert runs[0].transcript == runs[1].transcript


def run(world: World) -> float:
    try:
        return world.check()
    except Violation as violation:
        raise AssertionError("\n".join([f"seed {world.plan.seed}: {violation}", *world.transcript[-60:]])) from None


if __name__ == "__main__":
    again = {"majority": majority, "two_thirds": two_thirds}[sys.argv[1]](int(sys.argv[2]))
    try:
        print(f"the next rounds closed within {again.check():.1f} timeouts each")
    finally:
        print("\n".join(again.transcript))
