"""A laptop that sleeps in the middle of a round: the others go on, and when it wakes it finds them by itself."""

import os
import signal
from pathlib import Path

import trio

from shoal.node import testnet as nets
from shoal.transport.yamux import DEAD_S

# As in test_testnet_kill: there is a middle of a round, and no last one.
PLAN = nets.Plan(nodes=3, rounds=None, model="gpt-0.2m", seed=4, settings={"steps": 25, "validation_windows": 4})


async def test_a_node_that_slept_is_back_with_the_same_state_within_two_rounds(tmp_path: Path) -> None:
    with trio.fail_after(170):
        async with nets.open_testnet(PLAN, tmp_path) as testnet:
            await testnet.launch()
            sleeper, *others = sorted(testnet.nodes, key=lambda node: node.peer)  # the first proposer: hardest to lose
            tally = testnet.tally
            await testnet.until(lambda: tally.rounds_closed() >= 1)
            group = sleeper.process.pid
            assert group is not None
            os.killpg(group, signal.SIGSTOP)
            asleep_at = trio.current_time()
            before = tally.newest_round(sleeper.peer)
            await testnet.until(lambda: min(tally.newest_round(node.peer) for node in others) >= before + 3)
            await trio.sleep_until(asleep_at + DEAD_S + 3)  # its connections are gone by now
            assert tally.newest_round(sleeper.peer) <= before + 1

            os.killpg(group, signal.SIGCONT)
            woken_at = max(tally.newest_round(node.peer) for node in others)
            await testnet.until(lambda: tally.newest_round(sleeper.peer) > woken_at)
            back = next(number for number in range(woken_at, woken_at + 99) if tally.digest(sleeper.peer, number))
            assert back <= woken_at + 2
            await testnet.until(lambda: min(tally.newest_round(node.peer) for node in testnet.nodes) >= back + 2)
            for number in range(back, back + 3):
                (digest,) = {tally.digest(node.peer, number) for node in testnet.nodes}
                assert digest
            assert sleeper.peer in tally.contributors(others[0].peer, back + 2)
