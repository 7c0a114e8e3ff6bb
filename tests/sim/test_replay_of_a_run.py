"""What engines have on disk after a run that went badly makes the same state anew, from a file and nothing else."""

from pathlib import Path

import pytest

from shoal.node.complaint import Complaint
from shoal.node.exported import Build, Replayed, export, replay
from shoal.node.logged import opened
from shoal.node.membership import Membership, SwarmFolder
from shoal.training.replaying import Way
from shoal.training.spec import Spec, open_spec, swarm_id_of
from shoal.training.tensors import TensorShape
from shoal.training.zeroth import Zeroth
from shoal.training.zeroth_settings import ZerothSettings, parse_settings
from shoal.transport.conditions import Conditions
from tests.sim.harness import Node, Swarm, ToyState, make_nodes, make_spec, simulated
from tests.sim.test_replaying import ReplayingMethod, history_of, joined
from tests.sim.zeroth_swarm import SETTINGS
from tests.training.quadratic import Quadratic


def silent(done: int, total: int) -> None:
    """Nobody waits."""


def housed(folder: Path, swarm: Swarm, node: Node) -> Path:
    """A data directory whose swarm's rounds are the node's."""
    data_dir = folder / f"data {node.peer_id[-4:]}"
    home = SwarmFolder(data_dir / "swarms", swarm_id_of(swarm.signed_spec.spec))
    home.create(swarm.signed_spec, Membership())
    home.rounds.rmdir()
    home.rounds.symlink_to(node.directory)
    return data_dir


def replayed(folder: Path, swarm: Swarm, number: int, build: Build = lambda spec: ReplayingMethod()) -> Replayed:
    """Out of the file that this node exports, by a machine that has nothing else."""
    path = folder / f"{number}.log"
    with opened(housed(folder, swarm, swarm.nodes[number]), None) as log:
        export(log, path, silent)
    return replay(path, None, build, silent)


async def test_the_file_of_a_run_with_losses_kills_and_a_late_member_leads_to_its_state(
    autojump_clock: object, folder: Path
) -> None:
    nodes = make_nodes(folder, 5)
    for number, node in enumerate(nodes):
        node.turn_s, node.method = 0.3 + 2.0 * (number == 2), ReplayingMethod()
    conditions = Conditions(loss=0.05)
    spec = make_spec(nodes, members_start=4, round_s=2.0, grace_s=1.0)
    async with simulated(nodes, spec, seed=7, conditions=conditions) as swarm:
        await swarm.start(0, 1, 2, 3, introducer=0)
        await swarm.until_round(6)
        swarm.kill(3)
        await swarm.until_round(14, 0, 1)
        trusted = nodes[0].running.status().record
        await swarm.start(3, introducer=0)
        await swarm.until_round(20, 0, 1, 3)
        await swarm.start(4, introducer=1, trusted=trusted)
        await swarm.until_round(30, timeout_s=600.0)
        swarm.kill(0, 1, 2, 3, 4)
        for number in (0, 3):
            found = replayed(folder, swarm, number)
            assert found.is_right
            rounds = found.opened.contents.rounds
            assert rounds >= 29
            assert found.digest.hex() == nodes[0].digest(rounds) == nodes[1].digest(rounds)
            assert isinstance(found.state, ToyState)
        with pytest.raises(Complaint, match="its proof begins with record"):
            replayed(folder, swarm, 4)
        path = folder / "4.log"
        assert replay(path, trusted.hex(), lambda spec: ReplayingMethod(), silent).is_right


LAYOUT = (TensorShape("w", (250, 250)), TensorShape("gain", (250,)))


def zeroth(spec: Spec) -> Zeroth:
    settings = parse_settings(spec.settings)
    assert isinstance(settings, ZerothSettings), settings
    return Zeroth(spec, settings, Quadratic(LAYOUT))


@pytest.mark.parametrize("settings", [{}, {"way": "steps"}, {"pool": 64}], ids=str)
async def test_shared_seeds_are_replayed_to_the_same_bits_by_a_newcomer_and_out_of_a_file(
    autojump_clock: object, folder: Path, settings: dict[str, object]
) -> None:
    nodes = make_nodes(folder, 4)
    signed = make_spec(nodes, method="zeroth", members_start=3, settings=SETTINGS | settings)
    spec = open_spec(signed)
    assert isinstance(spec, Spec)
    for node in nodes:
        node.turn_s, node.method = 0.1, zeroth(spec)
    async with simulated(nodes, signed) as swarm:
        await swarm.start(0, 1, 2, introducer=0)
        await swarm.until_round(8)
        (went,) = await joined(swarm)
        assert went.has_arrived
        assert went.way is (Way.CHECKPOINT if "pool" in settings else Way.LOG)  # a pool's is smaller than the log
        await swarm.until(lambda: len(history_of(swarm, 3)) >= went.to_round)
        swarm.kill(0, 1, 2, 3)
        for number in (0, 3):
            found = replayed(folder, swarm, number, zeroth)
            assert found.is_right
            assert found.opened.contents.rounds >= went.to_round
