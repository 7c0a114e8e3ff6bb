"""A simulated store of ever more replicas: what each sends, and when all are equal after partitions, churn and liars.

    python -m bench.store_sim

Each run is that of tests/sim/test_store.py: every honest node writes 20 operations, 5% of all messages are lost, 10
liars do their worst. The last line is JSON: for each number of nodes what an honest one sent, in bytes and messages of
gossip and of exchanges, in all and without what liars cause, and the seconds from healing until all are equal; and
whether bytes grow rather as n or as n log n.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from tests.sim.store_world import Plan, World

COUNTS = (25, 50, 100, 200, 400)


@dataclass(frozen=True)
class Row:
    """Of one number of nodes; bytes and messages are what an honest node sent on average."""

    nodes: int
    kilobytes: float
    messages: int
    kilobytes_without_liars: float
    messages_without_liars: int
    equal_s: float | None
    equal_s_without_liars: float | None
    cpu_s: float


def measure(nodes: int, seed: int) -> Row:
    begun = time.process_time()
    lied_to = World(Plan(seed, nodes)).run()
    cpu_s = time.process_time() - begun
    alone = World(Plan(seed, nodes, acts=())).run()
    return Row(
        nodes,
        round(sum(lied_to.bytes_sent) / nodes / 1000, 1),
        sum(lied_to.messages_sent) // nodes,
        round(sum(alone.bytes_sent) / nodes / 1000, 1),
        sum(alone.messages_sent) // nodes,
        lied_to.equal_s,
        alone.equal_s,
        round(cpu_s, 1),
    )


def residual(rows: Sequence[Row], law: Callable[[float], float]) -> float:
    """How far the bytes per node are from a + b law(n), at best: the root of the mean squared relative error."""
    weights = [1 / row.kilobytes_without_liars**2 for row in rows]
    xs, ys = [law(row.nodes) for row in rows], [row.kilobytes_without_liars for row in rows]
    total = sum(weights)
    mean_x = sum(w * x for w, x in zip(weights, xs, strict=True)) / total
    mean_y = sum(w * y for w, y in zip(weights, ys, strict=True)) / total
    spread = sum(w * (x - mean_x) ** 2 for w, x in zip(weights, xs, strict=True))
    slope = sum(w * (x - mean_x) * (y - mean_y) for w, x, y in zip(weights, xs, ys, strict=True)) / spread
    errors = ((mean_y + slope * (x - mean_x) - y) / y for x, y in zip(xs, ys, strict=True))
    return math.sqrt(sum(error**2 for error in errors) / len(rows))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.store_sim", description="A simulated store of many nodes.")
    parser.add_argument("--nodes", type=int, nargs="+", default=COUNTS, help="honest nodes of each run")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rows: list[Row] = []
    print("                 with 10 liars                     without")
    print("  nodes   kB/node messages/node equal s   kB/node messages/node equal s   CPU s")
    for nodes in arguments.nodes:
        row = measure(nodes, arguments.seed)
        rows.append(row)
        print(
            f"{row.nodes:7} {row.kilobytes:9} {row.messages:13} {row.equal_s!s:>7}"
            f" {row.kilobytes_without_liars:9} {row.messages_without_liars:13} {row.equal_s_without_liars!s:>7}"
            f" {row.cpu_s:7}",
            flush=True,
        )
    result: dict[str, object] = {"rows": [asdict(row) for row in rows]}
    if len(rows) > 2:
        result["error_n"] = round(residual(rows, lambda n: n), 4)
        result["error_n_log_n"] = round(residual(rows, lambda n: n * math.log2(n)), 4)
        print(f"relative error of a + b n: {result['error_n']}; of a + b n log n: {result['error_n_log_n']}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
