"""What attackers do to a model under each aggregation rule: digits among ten members, without a network.

    python -m bench.attacks [--rules ...] [--attacks ...] [--splits iid dirichlet] [--attackers 2 3] [--seeds 3]
                            [--momentum worker outer] [--out FILE]

Each run trains a small network (bench/digits.py) for 60 rounds of 5 local steps, under one rule and one attack
(node/adversaries.py), and is compared with the same honest members alone under a plain mean: the same seeds, shards and
samples. Data are dealt at random (iid) or by a Dirichlet distribution with 0.3. Results are appended to FILE as they
come, and runs that are in it are not repeated. Needs scikit-learn: pip install scikit-learn.

Then a table for each split and number of attackers: the final test loss over that of the honest alone, the worst of the
seeds; and which part of images with a backdoor's trigger are taken for what it teaches. Last line, one JSON object:

    {"split/attackers/momentum": {rule: {attack: ratio, null where the model is lost}}}
"""

import argparse
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from shoal.node.adversaries import CLAIMED, ON_DATA, ON_VALUES, Sight
from shoal.training.payload import VALUE_MAX
from shoal.training.rows import Weighted, one_by_one
from shoal.training.rules import RULES, aggregate

from .aggregate import Held
from .digits import SIZE, TARGET, Images, Vector, evaluate, gradient, load, shards, start

MEMBERS: Final = 10
ROUNDS: Final = 60
STEPS: Final = 5
BATCH: Final = 32
LR: Final = 0.2
SPLITS: Final[Mapping[str, float | None]] = {"iid": None, "dirichlet": 0.3}
# Where momentum is the outer optimizer's, as DiLoCo has it, or each member's own. Both together stall; the same pace.
OUTER: Final = {"outer": (0.7, 0.9), "worker": (7.0, 0.9)}
SAMPLES: Final = STEPS * BATCH
SAMPLES_MAX: Final = 2**24  # that a spec lets a member claim


@dataclass(frozen=True, slots=True)
class Case:
    rule: str
    attack: str
    split: str
    attackers: int
    momentum: str
    seed: int


class Outcome(NamedTuple):
    """In the end; infinite, 0 and 0 if the model is lost."""

    loss: float  # on test images
    accuracy: float
    fooled: float  # which part of other test images is taken for TARGET once it has the trigger


class Member:
    """Its shard, its draws, and its momentum where that is the member's."""

    def __init__(self, shard: Images, seed: int) -> None:
        self.shard = shard
        self.random = np.random.default_rng(seed)
        self.momentum = np.zeros(SIZE, np.float32)

    def contribution(self, anchor: Vector, momentum: float) -> Vector:
        local = anchor.copy()
        for _ in range(STEPS):
            batch = self.shard.part(self.random.integers(len(self.shard), size=BATCH))
            local -= np.float32(LR) * gradient(local, batch)
        self.momentum *= np.float32(momentum)
        self.momentum += np.float32(1 - momentum) * (anchor - local)
        return self.momentum.copy()


def run(case: Case) -> Outcome:
    train, test = load()
    dealt = shards(train, MEMBERS, SPLITS[case.split], case.seed)
    if case.attack in ON_DATA:
        poison = Images.flipped if case.attack == "labelflip" else Images.half_with_trigger
        dealt[: case.attackers] = [poison(shard) for shard in dealt[: case.attackers]]
    members = [Member(shard, 1000 * case.seed + number) for number, shard in enumerate(dealt)]
    if case.attack == "absent":
        members = members[case.attackers :]
    lr, mu = map(np.float32, OUTER[case.momentum])
    own, outer = (float(mu), np.float32(0)) if case.momentum == "worker" else (0.0, mu)
    parameters, first = start(case.seed), list[Vector]()
    momentum = step = np.zeros(SIZE, np.float32)
    for _ in range(ROUNDS):
        rows = [member.contribution(parameters, own) for member in members]
        first = first or rows
        weighted = _offered(case, members, rows, first)
        if weighted:
            f = min(case.attackers, (len(weighted) - 3) // 2)  # as many as all rules bear of those that are left
            row = aggregate(case.rule, weighted, f, Held(step), SIZE, one_by_one)
            step = np.concatenate(list(one_by_one(row.values, SIZE)))
        momentum = outer * momentum + step
        parameters -= lr * (step + outer * momentum)
        if not np.abs(parameters).max() <= VALUE_MAX:  # also false for NaN
            return Outcome(float("inf"), 0.0, 0.0)
    others = test.part(np.flatnonzero(test.labels != TARGET))
    return Outcome(*evaluate(parameters, test), evaluate(parameters, others.with_trigger())[1])


def _offered(case: Case, members: Sequence[Member], rows: Sequence[Vector], first: Sequence[Vector]) -> list[Weighted]:
    """What the round takes: attackers' rows are forged, and what is not finite or too large is absent."""
    samples = [SAMPLES] * len(rows)
    forge, offered = ON_VALUES.get(case.attack), list(rows)
    if forge is not None:
        for number in range(case.attackers):
            sight = Sight(rows[number], rows[case.attackers :], first[number], case.attackers, members[number].random)
            with np.errstate(all="ignore"):
                offered[number] = forge(sight)
            if case.attack == "samples":
                samples[number] = min(SAMPLES * CLAIMED, SAMPLES_MAX)
    return [
        Weighted(Held(row), weight)
        for row, weight in zip(offered, samples, strict=True)
        if np.abs(row).max() <= VALUE_MAX  # false for NaN
    ]


def results(cases: Iterable[Case], path: Path) -> Iterator[tuple[Case, Outcome]]:
    """Of each case, from the file or by running it now."""
    known: dict[Case, Outcome] = {}
    if path.exists():
        for line in path.read_text().splitlines():
            found = json.loads(line)
            known[Case(**found["case"])] = Outcome(**found["outcome"])
    with path.open("a") as file:
        for case in cases:
            if case not in known:
                known[case] = run(case)
                file.write(json.dumps({"case": asdict(case), "outcome": known[case]._asdict()}) + "\n")
                file.flush()
            yield case, known[case]


def main() -> None:
    attacks = ("none", *ON_VALUES, *ON_DATA)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rules", nargs="+", choices=list(RULES), default=list(RULES))
    parser.add_argument("--attacks", nargs="+", choices=attacks, default=attacks)
    parser.add_argument("--splits", nargs="+", choices=list(SPLITS), default=list(SPLITS))
    parser.add_argument("--attackers", nargs="+", type=int, default=[2, 3])
    parser.add_argument("--momentum", nargs="+", choices=list(OUTER), default=list(OUTER))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("attacks.jsonl"))
    arguments = parser.parse_args()
    began, result = time.monotonic(), dict[str, dict[str, dict[str, float | None]]]()
    for split, attackers, momentum in product(arguments.splits, arguments.attackers, arguments.momentum):
        honest = [Case("mean", "absent", split, attackers, momentum, seed) for seed in range(arguments.seeds)]
        alone = {case.seed: outcome.loss for case, outcome in results(honest, arguments.out)}
        print(f"\n{split}, {attackers} of {MEMBERS} attack, momentum {momentum}; alone {_listed(alone.values())}")
        print(f"{'':22}" + "".join(f"{attack:>10}" for attack in arguments.attacks))
        table = result[f"{split}/{attackers}/{momentum}"] = {}
        for rule in arguments.rules:
            worst: dict[str, float] = {}
            cases = [
                Case(rule, attack, split, attackers, momentum, seed)
                for attack in arguments.attacks
                for seed in range(arguments.seeds)
            ]
            fooled = 0.0
            for case, outcome in results(cases, arguments.out):
                worst[case.attack] = max(worst.get(case.attack, 0.0), outcome.loss / alone[case.seed])
                fooled = max(fooled, outcome.fooled if case.attack == "backdoor" else 0.0)
            table[rule] = {attack: ratio if ratio < float("inf") else None for attack, ratio in worst.items()}
            line = "".join(f"{_short(worst[attack]):>10}" for attack in arguments.attacks)
            print(f"{rule:22}{line}   fooled {fooled:.2f}  {time.monotonic() - began:5.0f} s", flush=True)
    print(json.dumps(result))


def _listed(losses: Iterable[float]) -> str:
    return ", ".join(f"{loss:.4f}" for loss in losses)


def _short(ratio: float) -> str:
    return f"{ratio:.3f}" if ratio < 100 else "lost"


if __name__ == "__main__":
    main()
