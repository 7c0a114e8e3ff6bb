"""By how much machines differ in a loss, and in a slope: the same directions and samples under other instruction sets.

    python -m bench.spread [--model smollm2-135m] [--directions 32]

Each setting (ATEN_CPU_CAPABILITY, MKL_CBWR, threads) is a process of its own. Last line: one JSON object with the
largest and the root-mean-square difference of a loss, relative to it, and the largest of a slope in nats, over all
pairs of settings; and the binary logarithm of what an audit takes for a loss's noise (zeroth.NOISE).
"""

import argparse
import json
import math
import os
import subprocess
import sys
from itertools import combinations
from typing import Final

import numpy as np

from shoal.training.spec import swarm_id
from shoal.training.tried import TurnName, place
from shoal.training.zeroth import NOISE

from .zeroth import prepared

SETTINGS: Final = [
    {"ATEN_CPU_CAPABILITY": capability, "MKL_CBWR": mode, "THREADS": threads}
    for capability in ("default", "avx2", "avx512")
    for mode, threads in (("AUTO", "1"), ("COMPATIBLE", "2"))
]


def losses(model: str, directions: int, threads: int) -> list[tuple[float, float]]:
    spec, settings, evaluator = prepared(model, 0, 1, threads)
    name = TurnName(swarm_id(spec), 1, 0, "member-0")
    found: list[tuple[float, float]] = []
    for index in range(directions):
        where = place(name, index, None)
        found.append(evaluator.losses(evaluator.start(), where.key, np.float32(settings.epsilon), where.seed))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--directions", type=int, default=32)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(losses(arguments.model, arguments.directions, int(os.environ["THREADS"]))))
        return
    command = [sys.executable, "-m", "bench.spread", "--one", "--model", arguments.model]
    command += ["--directions", str(arguments.directions)]
    runs: list[list[tuple[float, float]]] = []
    for each in SETTINGS:
        told = subprocess.run(command, env={**os.environ, **each}, capture_output=True, text=True, check=True)
        runs.append(json.loads(told.stdout.splitlines()[-1]))
        print(each, runs[-1][0], flush=True)
    settings = prepared(arguments.model, 0, 1, 1)[1]
    relative: list[float] = []
    slopes: list[float] = []
    for left, right in combinations(runs, 2):
        for (plus, minus), (other_plus, other_minus) in zip(left, right, strict=True):
            relative += [abs(plus / other_plus - 1), abs(minus / other_minus - 1)]
            slopes.append(abs((plus - minus) - (other_plus - other_minus)) / (2 * settings.epsilon))
    result = {
        "loss_relative_most": max(relative),
        "loss_relative_rms": math.sqrt(sum(each**2 for each in relative) / len(relative)),
        "loss_relative_most_log2": math.log2(max(relative)) if max(relative) else None,
        "slope_most": max(slopes),
        "noise_log2": math.log2(NOISE),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
