"""How long it takes to go along random directions: a step of many, sums in int64, one perturbed copy. On one core.

    python -m bench.directions [--runs 5]

Every case runs in turn with what memory alone costs, one float32 addition of two vectors as large, and of several runs
the best counts, since on a shared machine the others measure the neighbours. `step` and `add_sums` go over 100M
parameters in one tensor with 8 directions, over 1M and over the norm gains of six layers (13 tensors of 576) with 64.
`perturbed` makes a copy of 10M, as one side of a central difference needs it. The process is pinned to one core where
the system lets it. Last line, seconds, how many additions that is, and the most memory that a step over 100M takes:

    {"step_100m_s", "step_100m_additions", ..., "step_extra_mb"}
"""

import argparse
import json
import os
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from shoal.training.directions import add_sums, perturbed, pool_key, step
from shoal.training.tensors import Layout, TensorShape, element_count

KEYS: Final = [pool_key(bytes(32), index) for index in range(64)]
SCALE: Final = np.float32(1e-3)
LARGE: Final = (TensorShape("matrix", (100_000_000,)),)
MIDDLE: Final = (TensorShape("matrix", (1_000_000,)),)
GAINS: Final = tuple(TensorShape(f"gain.{number}", (576,)) for number in range(13))


@dataclass(frozen=True, slots=True)
class Figure:
    took_s: float
    addition_s: float  # of two vectors of that size


def measure(work: Callable[[], None], parameters: int, runs: int) -> Figure:
    """The best of several, in turn with an addition."""
    left, right = np.zeros(parameters, np.float32), np.ones(parameters, np.float32)
    work()
    took_s, addition_s = float("inf"), float("inf")
    for _ in range(runs):
        took_s = min(took_s, _timed(work))
        addition_s = min(addition_s, _timed(lambda: np.add(left, right, out=left)))
    return Figure(took_s, addition_s)


def _timed(work: Callable[[], object]) -> float:
    started_at = time.perf_counter()
    work()
    return time.perf_counter() - started_at


def stepping(layout: Layout, directions: int) -> Callable[[], None]:
    values = np.zeros(element_count(layout), np.float32)
    terms = [(key, SCALE) for key in KEYS[:directions]]
    return lambda: step(values, layout, terms, values)


def summing(layout: Layout, directions: int) -> Callable[[], None]:
    sums = np.zeros(element_count(layout), np.int64)
    terms = [(key, 2**20) for key in KEYS[:directions]]
    return lambda: add_sums(sums, layout, terms)


def perturbing(parameters: int) -> Callable[[], None]:
    values = np.zeros(parameters, np.float32)
    out = np.empty_like(values)
    return lambda: perturbed(values, KEYS[0], 0, SCALE, out)


def extra_bytes(work: Callable[[], None]) -> int:
    """The most that `work` holds at a time."""
    tracemalloc.start()
    work()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="of each case, the best of which counts")
    arguments = parser.parse_args()
    if sys.platform == "linux":
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    cases: dict[str, tuple[int, Callable[[], Callable[[], None]]]] = {
        "step_100m": (100_000_000, lambda: stepping(LARGE, 8)),
        "step_1m_64": (1_000_000, lambda: stepping(MIDDLE, 64)),
        "step_gains_64": (element_count(GAINS), lambda: stepping(GAINS, 64)),
        "sums_100m": (100_000_000, lambda: summing(LARGE, 8)),
        "sums_gains_64": (element_count(GAINS), lambda: summing(GAINS, 64)),
        "perturbed_10m": (10_000_000, lambda: perturbing(10_000_000)),
        "perturbed_gain": (576, lambda: perturbing(576)),
    }
    report: dict[str, float] = {}
    for name, (parameters, make) in cases.items():
        figure = measure(make(), parameters, arguments.runs)
        report[f"{name}_s"] = float(f"{figure.took_s:.3g}")
        report[f"{name}_additions"] = float(f"{figure.took_s / figure.addition_s:.3g}")
        print(f"{name:15} {figure.took_s * 1e3:9.3f} ms, an addition {figure.addition_s * 1e3:9.4f} ms")
    report["step_extra_mb"] = round(extra_bytes(stepping(LARGE, 8)) / 1e6, 2)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
