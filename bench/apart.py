"""What late work is worth among real processes: two of five nodes are cut off for three rounds and come back.

    python -m bench.apart [--seeds 3] [--rounds 12]

The nodes have a network of their own, in which no packet passes between the two and the others meanwhile. Once they
train on, and what they made is taken when they are back; once they rest, which is what dropping their work comes to.
All else follows from the seed: until they are back both runs are equal to the bit, and what differs then comes of their
work. (Rejected: a spec by which stale work is refused. It is another swarm, with other batches: that alone makes 0.04.)
`bench.stale` compares more rules in one process. Prints the validation loss (nats per byte) after the last round apart
and each later one, and one line of JSON at the end: per seed that of the first and the last round together. On Linux.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final

import trio

from shoal.node.async_client import connect
from shoal.node.lan import obstacle, open_lan
from shoal.node.logged import opened, record_of
from shoal.node.report import ReportedRound
from shoal.node.testnet import Plan, TestnetNode, open_testnet

NODES: Final = 5
CUT_OFF: Final = slice(3, 5)  # of the nodes
CUT_AFTER: Final = 4  # rounds
CUT_ROUNDS: Final = 3
PLAN: Final = Plan(
    nodes=NODES,
    model="gpt-0.2m",
    settings={"steps": 30, "codec": "int8", "validation_windows": 128},
    rules={"round_s": 12.0, "grace_s": 4.0, "silence_s": 2.0, "members_min": 3},
)


async def rounds_with(root: Path, plan: Plan, *, are_resting: bool) -> list[ReportedRound]:
    """All rounds of a run in which two are cut off; whether they train meanwhile."""
    async with open_lan(NODES) as lan, open_testnet(plan, root, lan.places) as testnet:
        await testnet.launch()
        tally, cut_off = testnet.tally, testnet.nodes[CUT_OFF]
        founder = testnet.nodes[0]
        await testnet.until(lambda: tally.rounds_closed() >= CUT_AFTER)
        await lan.tear(node.index for node in cut_off)
        await tell(cut_off if are_resting else (), "pause")
        await testnet.until(lambda: tally.newest_round(founder.peer) >= CUT_AFTER + CUT_ROUNDS)
        await lan.mend()
        await tell(cut_off if are_resting else (), "resume")
        await testnet.until(lambda: tally.has_finished)
        print(f"  {late(founder)} late contributions taken", flush=True)
        return list(tally.report(plan.method).rounds)


async def tell(nodes: Iterable[TestnetNode], method: str) -> None:
    for node in nodes:
        async with connect(node.data_dir) as client:
            await client.call(method)


def late(node: TestnetNode) -> int:
    """How many contributions were taken that start from the state in which the two were cut off, after their time."""
    with opened(node.data_dir, None) as log:
        records = [record_of(row) for row in log.reader.last(1000)]
    return sum(record["round"] - share["base_round"] > CUT_ROUNDS for record in records for share in record["taken"])


def losses(rounds: list[ReportedRound]) -> list[float]:
    """After the last round apart, and each later one."""
    if any(len(set(each.state_digest.values())) > 1 for each in rounds):
        raise SystemExit("the nodes' states differ")
    before, *after = rounds[CUT_AFTER + CUT_ROUNDS - 1 :]
    back = next(each.round for each in after if len(each.contributors) == NODES)
    print(f"  all contribute in round {back}; round {before.round}: {before.validation_loss:.4f}", flush=True)
    return [each.validation_loss for each in (before, *after) if each.validation_loss is not None]


async def bench(seeds: int, rounds: int) -> dict[str, list[tuple[float, float]]]:
    if reason := await obstacle():
        raise SystemExit(reason)
    print(f"load {os.getloadavg()[0]:.1f}", flush=True)
    found: dict[str, list[tuple[float, float]]] = {"taken": [], "dropped": []}
    for seed in range(seeds):
        curves: dict[str, list[float]] = {}
        for name in found:
            plan = replace(PLAN, rounds=rounds, seed=seed)
            with tempfile.TemporaryDirectory(prefix="shoal-apart-") as root:
                curves[name] = losses(await rounds_with(Path(root), plan, are_resting=name == "dropped"))
            print(f"seed {seed} {name:8}", " ".join(f"{loss:.4f}" for loss in curves[name]), flush=True)
        if len({curve[0] for curve in curves.values()}) > 1:
            print("  left out: a busy machine made these runs differ before", flush=True)
            continue
        for name, curve in curves.items():
            found[name].append((round(curve[1], 4), round(curve[-1], 4)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=12)
    arguments = parser.parse_args()
    print(json.dumps(trio.run(bench, arguments.seeds, arguments.rounds)))


if __name__ == "__main__":
    main()
