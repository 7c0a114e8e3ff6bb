"""Real processes that train by forward passes alone: the same bits on another instruction set, after kill -9, and for
who comes late.
"""

from pathlib import Path

import trio

from shoal.node import testnet as nets
from shoal.node.async_client import connect
from shoal.node.places import LOOPBACK, Place

OTHER_ARITHMETIC = ("env", "ATEN_CPU_CAPABILITY=default", "MKL_CBWR=COMPATIBLE")
PLAN = nets.Plan(
    nodes=4,
    rounds=None,
    method="zeroth",
    model="gpt-0.2m",
    seed=6,
    settings={"directions": 8, "batch_size": 2, "context": 32, "audit_share": 0.2, "evaluate_rounds": 1000},
    rules={"members_start": 3},
)
AWAY_ROUNDS = 8  # more than payloads are kept for in memory


async def join(testnet: nets.Testnet, node: nets.TestnetNode) -> None:
    async with connect(node.data_dir) as client:
        await client.call("swarm.join", invite=testnet.invite)


async def test_all_have_the_same_bits_also_who_computes_otherwise_was_killed_or_comes_late(tmp_path: Path) -> None:
    places = [LOOPBACK, LOOPBACK, Place(OTHER_ARITHMETIC, LOOPBACK.listen), LOOPBACK]
    with trio.fail_after(170):
        async with nets.open_testnet(PLAN, tmp_path, places) as testnet:
            founder, victim, other, late = testnet.nodes
            for node in (founder, victim, other):
                await testnet.start(node)
            async with connect(founder.data_dir) as client:
                created = await client.call("swarm.create", spec=PLAN.spec(), nonce=PLAN.nonce())
                testnet.invite = str(created["invite"])
            for node in (victim, other):
                await join(testnet, node)
            await testnet.until(lambda: testnet.tally.rounds_closed() >= 3)
            await testnet.kill(victim)
            away = testnet.tally.rounds_closed() + AWAY_ROUNDS
            await testnet.until(lambda: testnet.tally.rounds_closed() >= away)
            await testnet.start(victim)
            await testnet.start(late)
            await join(testnet, late)
            await testnet.until(lambda: testnet.tally.newest_round(late.peer) > away)
            last = max(testnet.tally.newest_round(node.peer) for node in testnet.nodes) + 3
            await testnet.until(lambda: testnet.tally.rounds_closed() >= last)
            (digest,) = {testnet.tally.digest(node.peer, last) for node in testnet.nodes}
            assert digest
            assert set(testnet.tally.contributors(founder.peer, last)) == {node.peer for node in testnet.nodes}
            async with connect(founder.data_dir) as client:
                agreement = (await client.call("swarm.show"))["agreement"]
            assert agreement["barred"] == []  # nobody's audits fail by arithmetic
            assert agreement["removals"] == []
