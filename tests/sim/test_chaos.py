"""Kills, restarts, partitions and loss at random, from a seed; when they end, all members are at one head again."""

import os
import random
from pathlib import Path

import pytest
import trio

from shoal.transport.conditions import Conditions
from tests.sim.harness import Swarm, make_nodes, make_spec, simulated

SEEDS = range(200 if os.environ.get("SHOAL_SOAK") else 3)
COUNT = 5


async def wreak(swarm: Swarm, draw: random.Random) -> None:
    """One misfortune."""
    up = [number for number, node in enumerate(swarm.nodes) if node.service is not None]
    down = [number for number, node in enumerate(swarm.nodes) if node.service is None]
    match draw.choice(("kill", "kill", "start", "start", "cut", "heal", "pause", "resume")):
        case "kill" if len(up) > 2:
            swarm.kill(draw.choice(up), silently=draw.random() < 0.5)
        case "start" if down:
            await swarm.start(draw.choice(down), introducer=draw.choice(up))
        case "cut":
            swarm.cut(*draw.sample(range(COUNT), draw.randint(1, COUNT - 1)))
        case "heal":
            swarm.network.heal()
        case "pause":
            swarm.nodes[draw.choice(up)].running.pause()
        case "resume":
            swarm.nodes[draw.choice(up)].running.resume()
        case _:
            pass


@pytest.mark.parametrize("seed", SEEDS)
async def test_all_members_meet_again_whatever_happened(seed: int, autojump_clock: object, folder: Path) -> None:
    draw = random.Random(seed)
    nodes = make_nodes(folder, COUNT, payload_bytes=draw.choice((8, 8_000)))
    for node in nodes:
        node.turn_s = draw.choice((0.5, 1.0, 3.0))
    spec = make_spec(nodes, members_start=3, members_min=draw.choice((1, 2, 3)), round_s=6.0, grace_s=3.0)
    conditions = Conditions(latency_s=0.03, jitter_s=0.05, loss=draw.choice((0.0, 0.05)))
    async with simulated(nodes, spec, seed=seed, conditions=conditions, break_after_s=8.0) as swarm:
        await swarm.start(*range(COUNT), introducer=0)
        for _ in range(20):
            await trio.sleep(draw.uniform(0.1, 6.0))
            await wreak(swarm, draw)
        swarm.network.heal()
        for number, node in enumerate(nodes):
            if node.service is None:
                await swarm.start(number, introducer=(number + 1) % COUNT)
            node.running.resume()
        await trio.sleep(40.0)  # connections come back, doubts end
        target = max(node.round for node in nodes) + 5
        await swarm.until_round(target)
        assert len(set(swarm.digests(target))) == 1
        assert all(len(node.running.status().contributors) >= COUNT - 1 for node in nodes)
