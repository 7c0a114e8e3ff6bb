"""How long aggregation rules take over 16 contributions that lie in memory, on two threads, and how much memory.

    python -m bench.aggregate [--rules median trimmed_mean] [--runs 5]

Every rule runs in turn with the plain mean of the same rows, read the same way, and of several runs the best counts,
since on a shared machine the others measure the neighbours. How many means a rule takes compares between machines.
Where ByzFL (https://byzfl.epfl.ch) is installed its rules run in turn with ours, on the same rows as one numpy matrix.
Last line, for 1 and 10 million values: seconds, how many means that is, and the most memory that 10 million take beside
the rows, the result included:

    {"median": {"1m_s", "10m_s", "10m_means", "extra_mb"}, ...}, with ByzFL also "byzfl_1m_s", "byzfl_10m_s" and
    "byzfl_extra_mb"
"""

import argparse
import importlib
import json
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from shoal.training.averaging import centered_clipping, clipped_mean, geometric_median
from shoal.training.flag import flag_aggregator
from shoal.training.order_statistics import CoordinateMedian, TrimmedMean, WeightedMedian, WeightedTrimmedMean
from shoal.training.rows import Row, Sweep, Weighted, placed
from shoal.training.rules import NOTHING
from shoal.training.selecting import least_diameter, multi_krum, nearest_mixing
from shoal.training.sweep_service import ThreadedSweep

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from shoal.training.tensors import Vector

MEMBERS: Final = 16
F: Final = 3  # of whom may be attackers
WEIGHTS: Final = [10_000 + 37 * place**2 for place in range(MEMBERS)]  # samples; in all an even number, the dearer case
SIZES: Final = {"1m": 1_000_000, "10m": 10_000_000}


@dataclass(frozen=True, slots=True)
class Case:
    """A rule, and ByzFL's of that name, given the module."""

    ours: Callable[[Sequence[Weighted], int, Sweep], Row]
    byzfl: Callable[[Any], Callable[[Any], Any]] | None = None


CASES: Final[dict[str, Case]] = {
    "trimmed_mean": Case(lambda rows, size, sweep: TrimmedMean(rows, F), lambda byzfl: byzfl.TrMean(F)),
    "median": Case(lambda rows, size, sweep: CoordinateMedian(rows), lambda byzfl: byzfl.Median()),
    "weighted_median": Case(lambda rows, size, sweep: WeightedMedian(rows)),
    "weighted_trimmed_mean": Case(lambda rows, size, sweep: WeightedTrimmedMean(rows, F)),
    "clipped_mean": Case(clipped_mean),
    "geometric_median": Case(geometric_median, lambda byzfl: byzfl.GeometricMedian()),
    "multi_krum": Case(lambda rows, size, sweep: multi_krum(rows, F, size, sweep), lambda byzfl: byzfl.MultiKrum(F)),
    "centered_clipping": Case(
        lambda rows, size, sweep: centered_clipping(rows, NOTHING, 3, size, sweep),
        lambda byzfl: byzfl.CenteredClipping(L=3),
    ),
    "mda": Case(lambda rows, size, sweep: least_diameter(rows, F, size, sweep), lambda byzfl: byzfl.MDA(F)),
    "nnm_geometric_median": Case(
        lambda rows, size, sweep: geometric_median(nearest_mixing(rows, F, size, sweep), size, sweep)
    ),
    "flag": Case(flag_aggregator),
}


@dataclass(frozen=True, slots=True)
class Held:
    """A Row in memory."""

    vector: "Vector"

    def values(self, start: int, stop: int, out: "Vector | None" = None) -> "Vector":
        return placed(self.vector[start:stop], out) if out is not None else self.vector[start:stop].copy()


@dataclass(frozen=True, slots=True)
class Mean:
    """What everything is measured by."""

    rows: Sequence[Weighted]

    def values(self, start: int, stop: int, out: "Vector | None" = None) -> "Vector":
        total, *others = (weighted.row.values(start, stop) for weighted in self.rows)
        for piece in others:
            total += piece
        total /= np.float32(len(self.rows))
        return placed(total, out)


def read(row: Row, size: int, sweep: Sweep) -> "Vector":
    out = np.empty(size, np.float32)

    def part(start: int, stop: int) -> None:
        out[start:stop] = row.values(start, stop)

    for _ in sweep(part, size):
        pass
    return out


def works(case: Case, matrix: "NDArray[np.float32]", byzfl: Any) -> dict[str, Callable[[], object]]:
    """What is to be timed in turn."""
    size, sweep = matrix.shape[1], ThreadedSweep(2)
    rows = [Weighted(Held(vector), weight) for vector, weight in zip(matrix, WEIGHTS, strict=True)]
    found: dict[str, Callable[[], object]] = {
        "ours": lambda: read(case.ours(rows, size, sweep), size, sweep),
        "mean": lambda: read(Mean(rows), size, sweep),
    }
    theirs = case.byzfl
    if byzfl is not None and theirs is not None:
        found["byzfl"] = lambda: theirs(byzfl)(matrix)
    return found


def best_of(runs: int, works: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Seconds of each."""
    took_s = dict.fromkeys(works, float("inf"))
    for _ in range(runs):
        for name, work in works.items():
            started_at = time.perf_counter()
            work()
            took_s[name] = min(took_s[name], time.perf_counter() - started_at)
    return took_s


def extra_bytes(work: Callable[[], object]) -> int:
    """The most that `work` holds at a time."""
    tracemalloc.start()
    work()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def measure(matrix: "NDArray[np.float32]", label: str, names: Sequence[str], runs: int) -> dict[str, dict[str, float]]:
    """Of every rule, for one size."""
    byzfl = installed("byzfl")
    report: dict[str, dict[str, float]] = {}
    for name in names:
        timed = works(CASES[name], matrix, byzfl)
        took_s = best_of(runs, timed)
        figures = {f"{label}_s": took_s["ours"], f"{label}_means": took_s["ours"] / took_s["mean"]}
        figures["extra_mb"] = extra_bytes(timed["ours"]) / 1e6
        if "byzfl" in timed:
            figures[f"byzfl_{label}_s"] = took_s["byzfl"]
            figures["byzfl_extra_mb"] = extra_bytes(timed["byzfl"]) / 1e6
        report[name] = {key: float(f"{value:.3g}") for key, value in figures.items()}
        print(f"{label:>3} {name:22} {report[name]}, a mean {took_s['mean']:.3g} s", flush=True)
    return report


def installed(module: str) -> Any:
    """None where it is not."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        print(f"without {module}: {error}")
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rules", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--runs", type=int, default=5, help="of each rule, the best of which counts")
    arguments = parser.parse_args()
    report: dict[str, dict[str, float]] = {name: {} for name in arguments.rules}
    for label, size in SIZES.items():
        matrix = np.random.default_rng(0).standard_normal((MEMBERS, size), np.float32)
        for name, figures in measure(matrix, label, arguments.rules, arguments.runs).items():
            report[name] |= figures
        del matrix
    print(json.dumps(report))


if __name__ == "__main__":
    main()
