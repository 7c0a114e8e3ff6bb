"""kill -9 of all nodes of a swarm at once, in mid-round: what any of them had on its disk, all of them have afterwards.

The members (roster and addresses), the index of contributions and who holds which state are in the store that is
compared here; the rounds and their records in the log, which the digests of later rounds are a proof of.
"""

from dataclasses import dataclass
from pathlib import Path

import trio

from shoal.node import testnet as nets
from shoal.node.async_client import connect
from shoal.node.stored import read_store

PLAN = nets.Plan(nodes=3, rounds=None, model="gpt-0.2m", seed=5, settings={"steps": 2, "validation_windows": 2})
ROUNDS = 2  # before the end of the world


@dataclass(frozen=True, slots=True)
class OnDisk:
    """One node's store, verified: each signature, hash and rule, as by `shoal store verify`."""

    digest: bytes
    batches: frozenset[bytes]  # of operations, as their writers signed them
    entries: dict[str, set[str]]  # by namespace: whose keys there are


async def stores(testnet: nets.Testnet) -> list[OnDisk]:
    return [await trio.to_thread.run_sync(read, node) for node in testnet.nodes]


def read(node: nets.TestnetNode) -> OnDisk:
    _, rules, found = read_store(node.data_dir, None)
    assert not found.problems
    assert not found.forked
    replica = found.replica
    batches = frozenset(batch for writer in replica.context() for batch in replica.batches(writer))
    entries = {namespace: {path[0] for path in replica.keys(namespace)} for namespace in rules.namespaces}
    return OnDisk(replica.digest(), batches, entries)


async def rounds_of(testnet: nets.Testnet) -> list[int]:
    rounds: list[int] = []
    for node in testnet.nodes:
        async with connect(node.data_dir) as client:
            rounds.append(int((await client.call("swarm.show"))["round"]))
    return rounds


async def start_all(testnet: nets.Testnet) -> None:
    async with trio.open_nursery() as nursery:
        for node in testnet.nodes:
            nursery.start_soon(testnet.start, node)


async def kill_all(testnet: nets.Testnet) -> None:
    async with trio.open_nursery() as nursery:
        for node in testnet.nodes:
            nursery.start_soon(testnet.kill, node)


async def test_a_restart_of_all_nodes_at_once_loses_nothing_and_training_goes_on(tmp_path: Path) -> None:
    with trio.fail_after(170):
        async with nets.open_testnet(PLAN, tmp_path) as testnet:
            await testnet.launch()
            peers = {node.peer for node in testnet.nodes}
            await testnet.until(lambda: testnet.tally.rounds_closed() >= ROUNDS)
            everything = dict.fromkeys(("members", "contributions", "checkpoints"), peers)
            before = await stores(testnet)
            while any(store.entries != everything for store in before):  # what nobody waits for is said a little later
                await trio.sleep(0.5)
                before = await stores(testnet)
            await kill_all(testnet)
            reached = testnet.tally.rounds_closed() or max(map(testnet.tally.newest_round, peers))
            before = await stores(testnet)
            written = frozenset[bytes]().union(*(store.batches for store in before))
            assert len(written) > PLAN.nodes
            assert before[0].entries == everything

            await start_all(testnet)
            # What the last moments brought may not have been saved anywhere; what came before it was.
            assert min(await rounds_of(testnet)) >= reached - 1
            await testnet.until(lambda: testnet.tally.rounds_closed() >= reached + 2)
            for round in (reached + 1, reached + 2):
                closed = {testnet.tally.digest(node.peer, round) for node in testnet.nodes} - {None}
                assert len(closed) == 1
            for node in testnet.nodes:  # else there is always news
                async with connect(node.data_dir) as client:
                    await client.call("pause")
            after = await stores(testnet)
            while len({store.digest for store in after}) > 1 or len(after[0].batches) <= len(written):
                await trio.sleep(0.2)
                after = await stores(testnet)
            for store in after:
                assert written <= store.batches
