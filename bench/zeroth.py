"""Fine-tuning by forward passes: what a byte for each slope costs, and what a swarm gains over one member.

    python -m bench.zeroth [--seeds 5] [--rounds 16] [--model smollm2-135m] [--kinds byte alone] [--set way=average]

In one process, without a network, with a testnet's settings:

    byte      4 members; slopes are decoded from their bytes
    float32   the same directions and samples, slopes as they are
    alone     one member for as many rounds: a quarter of the evaluations
    longer    one member for four times as many rounds: as many evaluations as the four

Prints the losses and accuracies of every run, and at the end one JSON object: by kind the means over the seeds, and the
difference of byte and float32 in final loss, paired by seed, with its standard error. Needs `make smollm`.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from shoal.node.plan import Plan
from shoal.training.directions import step
from shoal.training.evaluators import Machine, evaluator_of
from shoal.training.registry import cache_folder, data_folder
from shoal.training.scalar_codes import decoded, encode
from shoal.training.spec import Setting, Spec, spec_from, swarm_id
from shoal.training.tried import TurnName, place
from shoal.training.zeroth import Evaluator
from shoal.training.zeroth_settings import ZerothSettings, parse_settings

from .curves import parse_setting

if TYPE_CHECKING:
    from shoal.training.tensors import Vector

MEMBERS: Final = 4
KINDS: Final[Mapping[str, tuple[int, int]]] = {  # members, and how many times as many rounds
    "byte": (MEMBERS, 1),
    "float32": (MEMBERS, 1),
    "alone": (1, 1),
    "longer": (1, MEMBERS),
}


@dataclass
class Errors:
    """Of slopes by their bytes, relative to what they were."""

    squares: float = 0.0
    count: int = 0
    smaller: int = 0  # than the smallest that a byte can say

    def add(self, exact: float, coded: float, origin: int) -> None:
        if abs(exact) < 2.0**origin:
            self.smaller += 1
        else:
            self.squares += (coded / exact - 1) ** 2
            self.count += 1


def trained(
    spec: Spec, settings: ZerothSettings, evaluator: Evaluator, kind: str, errors: Errors
) -> Mapping[str, float]:
    """What a run ends at."""
    members, longer = KINDS[kind]
    swarm, parameters = swarm_id(spec), evaluator.start()
    for round_ in range(1, spec.rounds_max * longer + 1):
        terms: list[tuple[bytes, np.float32]] = []
        for member in range(members):
            at, parts = parameters, members if settings.way == "steps" else members * settings.directions
            name = TurnName(swarm, round_, round_ - 1, f"member-{member}")
            for index in range(settings.directions):
                where = place(name, index, None)
                plus, minus = evaluator.losses(at, where.key, np.float32(settings.epsilon), where.seed)
                slope = (plus - minus) / (2 * settings.epsilon)
                coded = decoded(encode(slope, settings.origin), settings.origin)
                errors.add(slope, coded, settings.origin)
                used = slope if kind == "float32" else coded
                terms.append((where.key, np.float32(-settings.lr * used / parts)))
                if settings.way == "steps":
                    at = moved(evaluator, at, [(where.key, np.float32(-settings.lr * used))])
        parameters = moved(evaluator, parameters, terms)
    return evaluator.evaluate(parameters)


def moved(evaluator: Evaluator, parameters: "Vector", terms: Sequence[tuple[bytes, np.float32]]) -> "Vector":
    after = np.empty_like(parameters)
    step(parameters, evaluator.layout, terms, after)
    return after


def prepared(
    model: str, seed: int, rounds: int, threads: int, changes: Mapping[str, Setting] | None = None
) -> tuple[Spec, ZerothSettings, Evaluator]:
    data = "shakespeare" if model.startswith("gpt") else "sentiment"
    plan = Plan(method="zeroth", model=model, data=data, seed=seed, settings=changes or {})
    spec = spec_from({**plan.spec(), "rounds_max": rounds}, plan.identity(0).peer_id, bytes.fromhex(plan.nonce()))
    if not isinstance(spec, Spec):
        raise SystemExit(spec.reason)
    settings = parse_settings(spec.settings)
    if isinstance(settings, str):
        raise SystemExit(settings)
    machine = Machine("cpu", threads, data_folder(), cache_folder(), lambda done, total: None)
    evaluator = evaluator_of(spec, settings, machine)
    if isinstance(evaluator, str):
        raise SystemExit(evaluator)
    return spec, settings, evaluator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=16)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the method")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    found: dict[str, list[Mapping[str, float]]] = {kind: [] for kind in arguments.kinds}
    errors, began = Errors(), time.monotonic()
    changes = dict(parse_setting(text) for text in arguments.set)
    for seed in range(arguments.seeds):
        spec, settings, evaluator = prepared(arguments.model, seed, arguments.rounds, arguments.threads, changes)
        if not seed:
            print("before", json.dumps(evaluator.evaluate(evaluator.start())), flush=True)
        for done, kind in enumerate(arguments.kinds, seed * len(arguments.kinds) + 1):
            figures = trained(spec, settings, evaluator, kind, errors)
            found[kind].append(figures)
            left_s = (time.monotonic() - began) / done * (arguments.seeds * len(arguments.kinds) - done)
            print(f"seed {seed} {kind:8} {json.dumps(dict(figures))}; {left_s:.0f} s left", flush=True)
    losses = {kind: [each["validation_loss"] for each in runs] for kind, runs in found.items()}
    result: dict[str, object] = {
        kind: {name: statistics.fmean(each[name] for each in runs) for name in runs[0]} for kind, runs in found.items()
    }
    if {"byte", "float32"} <= losses.keys() and arguments.seeds > 1:
        pairs = zip(losses["byte"], losses["float32"], strict=True)
        differences = [byte - exact for byte, exact in pairs]
        spread = statistics.stdev(differences) / math.sqrt(len(differences))
        result["byte_minus_float32"] = {"mean": statistics.fmean(differences), "standard_error": spread}
    result["rms_relative_error"] = math.sqrt(errors.squares / max(1, errors.count))
    result["smaller_than_a_byte_says"] = errors.smaller / max(1, errors.smaller + errors.count)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
