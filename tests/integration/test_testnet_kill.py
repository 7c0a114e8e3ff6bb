"""kill -9 of a node in the middle of a round: the others go on together, and it comes back to the same state."""

from pathlib import Path

import trio

from shoal.node import testnet as nets

# Rounds of some seconds: there is a middle to be killed in, and torch, loaded anew after a restart, takes less than two
# of them. No last round: there is always a way back.
PLAN = nets.Plan(nodes=4, rounds=None, model="gpt-0.2m", seed=3, settings={"steps": 25, "validation_windows": 4})


def is_training(testnet: nets.Testnet, node: nets.TestnetNode, round: int) -> bool:
    row = next(row for row in testnet.view().rows if row.peer == node.peer)
    return row.doing == f"training round {round}"


def digests(testnet: nets.Testnet, nodes: list[nets.TestnetNode], round: int) -> set[str | None]:
    return {testnet.tally.digest(node.peer, round) for node in nodes}


async def test_the_others_close_the_round_and_the_killed_node_is_back_within_two(tmp_path: Path) -> None:
    with trio.fail_after(170):
        async with nets.open_testnet(PLAN, tmp_path) as testnet:
            await testnet.launch()
            # The lowest peer id proposes how rounds close: the hardest one to lose.
            victim = min(testnet.nodes, key=lambda node: node.peer)
            others = [node for node in testnet.nodes if node is not victim]
            await testnet.until(lambda: is_training(testnet, victim, 2))
            await testnet.kill(victim)

            await testnet.until(lambda: testnet.tally.rounds_closed() >= 3)
            for round in (1, 2, 3):
                (digest,) = digests(testnet, others, round)
                assert digest
            assert victim.peer not in testnet.tally.contributors(others[0].peer, 3)

            await testnet.start(victim)
            back_at = max(testnet.tally.newest_round(node.peer) for node in others)
            await testnet.until(lambda: testnet.tally.newest_round(victim.peer) > back_at)
            first = testnet.tally.newest_round(victim.peer)
            await testnet.until(lambda: testnet.tally.rounds_closed() >= first + 2)
            closed = [number for number in range(back_at, first + 3) if testnet.tally.digest(victim.peer, number)]
            assert closed
            assert closed[0] <= back_at + 2
            for round in closed:
                (digest,) = digests(testnet, testnet.nodes, round)
                assert digest
            assert victim.peer in testnet.tally.contributors(others[0].peer, first + 2)
