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
from shoal.training.evidence import Given, Testimony, testify
from shoal.training.order_statistics import CoordinateMedian
from shoal.training.payload import VALUE_MAX
from shoal.training.reputation import Reputation, Rules, Taken
from shoal.training.rows import Weighted, one_by_one
from shoal.training.rules import RULES, aggregate

from .aggregate import Held
from .digits import SIZE, TARGET, Images, Vector, evaluate, gradient, load, shards, start

MEMBERS: Final = 10
ROUNDS: Final = 100
STEPS: Final = 5
BATCH: Final = 32
LR: Final = 0.1  # at 0.2 it depends on the first rounds' noise which minimum is found: losses that differ by a tenth
SPLITS: Final[Mapping[str, float | None]] = {"iid": None, "dirichlet": 0.3}
# Where momentum is the outer optimizer's, as DiLoCo has it, or each member's own. Both together stall; the same pace.
OUTER: Final = {"outer": (0.7, 0.9), "worker": (7.0, 0.9)}
PACES: Final = (3, 5, 8)  # steps, where members are uneven
MISSED: Final = 0.25  # of rounds, where they are
EARLY: Final = 15
BAN_ROUNDS: Final = 100
SAMPLES_MAX: Final = 2**24  # that a spec lets a member claim


@dataclass(frozen=True, slots=True)
class Case:
    rule: str
    attack: str
    split: str
    attackers: int
    momentum: str
    seed: int
    reputation: bool = True  # weights follow it, as in a swarm; else they are samples alone
    uneven: bool = False  # members miss rounds and do unequal work


class Outcome(NamedTuple):
    """In the end; infinite and zeros if the model is lost."""

    loss: float  # on test images
    accuracy: float
    fooled: float  # which part of other test images is taken for TARGET once it has the trigger
    early: float  # the attackers' part of all weight after EARLY rounds
    late: float  # and after all
    banned: int  # honest members that ever were


class Member:
    """Its shard, its draws, its pace, and its momentum where that is the member's."""

    def __init__(self, shard: Images, seed: int, steps: int) -> None:
        self.shard = shard
        self.random = np.random.default_rng(seed)
        self.steps = steps
        self.momentum = np.zeros(SIZE, np.float32)

    def contribution(self, anchor: Vector, momentum: float) -> Vector:
        local = anchor.copy()
        for _ in range(self.steps):
            batch = self.shard.part(self.random.integers(len(self.shard), size=BATCH))
            local -= np.float32(LR) * gradient(local, batch)
        self.momentum *= np.float32(momentum)
        self.momentum += np.float32(1 - momentum) * (anchor - local)
        return self.momentum.copy()


class Offer(NamedTuple):
    """What one member contributes to a round."""

    number: int  # the member's
    row: Held
    samples: int


class Swarm:
    """What all members hold: aggregation, and reputation by what it shows. Members are named by their numbers."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.round = 0
        self.step = np.zeros(SIZE, np.float32)
        self.testimony, self.reputation = Testimony(), Reputation()

    def aggregate(self, offers: Sequence[Offer]) -> Vector:
        """The round's step; the one before where nothing is offered that counts."""
        self.round += 1
        weights = [offer.samples * self.trust(offer.number) for offer in offers]
        weighted = [Weighted(offer.row, weight) for offer, weight in zip(offers, weights, strict=True) if weight]
        if not weighted:
            return self.step
        f = min(self.case.attackers, (len(weighted) - 3) // 2)  # as many as all rules bear of those that are left
        f = max(f, 0)
        row = aggregate(self.case.rule, weighted, f, Held(self.step), SIZE, one_by_one)
        self.step = np.concatenate(list(one_by_one(row.values, SIZE)))
        if self.case.reputation:
            self._judge(offers, weights)
        return self.step

    def trust(self, number: int) -> int:
        return self.reputation.trust(name_of(number), self.round) if self.case.reputation else 1

    def share(self) -> float:
        """The attackers' part of all members' trust."""
        trusts = [self.trust(number) for number in range(MEMBERS)]
        return sum(trusts[: self.case.attackers]) / sum(trusts)

    def _judge(self, offers: Sequence[Offer], weights: Sequence[int]) -> None:
        given = [Given(offer.row, True) if weight else None for offer, weight in zip(offers, weights, strict=True)]
        median = CoordinateMedian([Weighted(each.row, 1) for each in given if each])
        self.testimony = testify(given, median, Held(self.step), self.testimony, SIZE, one_by_one)
        taken = [
            Taken(name_of(offer.number), True, evidence)
            for offer, evidence in zip(offers, self.testimony.evidence, strict=True)
        ]
        self.reputation = self.reputation.after(self.round, taken, (), Rules(BAN_ROUNDS))


def name_of(number: int) -> str:
    return f"{number:040}"


def run(case: Case) -> Outcome:
    train, test = load()
    members = _members(case, train)
    swarm = Swarm(case)
    absence = np.random.default_rng(case.seed)
    lr, mu = map(np.float32, OUTER[case.momentum])
    own, outer = (float(mu), np.float32(0)) if case.momentum == "worker" else (0.0, mu)
    parameters, first, early, banned = start(case.seed), dict[int, Vector](), 0.0, set[str]()
    momentum = np.zeros(SIZE, np.float32)
    for round in range(ROUNDS):
        there = [number for number in range(MEMBERS) if absence.random() >= (MISSED if case.uneven else 0)]
        rows = {number: members[number].contribution(parameters, own) for number in there if number in members}
        for number, row in rows.items():
            first.setdefault(number, row)
        step = swarm.aggregate(_offered(case, members, rows, first))
        momentum = outer * momentum + step
        parameters -= lr * (step + outer * momentum)
        if not np.abs(parameters).max() <= VALUE_MAX:  # also false for NaN
            return Outcome(float("inf"), 0.0, 0.0, 0.0, 0.0, 0)
        early = swarm.share() if round + 1 == EARLY else early
        banned |= {each.member for each in swarm.reputation.standings if each.bans}
    others = test.part(np.flatnonzero(test.labels != TARGET))
    fooled = evaluate(parameters, others.with_trigger())[1]
    honest = {name_of(number) for number in range(case.attackers, MEMBERS)}
    return Outcome(*evaluate(parameters, test), fooled, early, swarm.share(), len(banned & honest))


def _members(case: Case, train: Images) -> dict[int, Member]:
    """By number, attackers first."""
    dealt = shards(train, MEMBERS, SPLITS[case.split], case.seed)
    if case.attack in ON_DATA:
        poison = Images.flipped if case.attack == "labelflip" else Images.half_with_trigger
        dealt[: case.attackers] = [poison(shard) for shard in dealt[: case.attackers]]
    first = case.attackers if case.attack == "absent" else 0
    steps = [PACES[number % len(PACES)] if case.uneven else STEPS for number in range(MEMBERS)]
    return {number: Member(dealt[number], 1000 * case.seed + number, steps[number]) for number in range(first, MEMBERS)}


def _offered(
    case: Case, members: Mapping[int, Member], rows: Mapping[int, Vector], first: Mapping[int, Vector]
) -> list[Offer]:
    """What the round takes: attackers' rows are forged, and what is not finite or too large is absent."""
    honest = [row for number, row in rows.items() if number >= case.attackers]
    forge, offered = ON_VALUES.get(case.attack), list[Offer]()
    for number, row in rows.items():
        samples, sent = members[number].steps * BATCH, row
        if forge is not None and number < case.attackers:
            sight = Sight(row, honest, first[number], case.attackers, members[number].random)
            with np.errstate(all="ignore"):
                sent = forge(sight)
            if case.attack == "samples":
                samples = min(samples * CLAIMED, SAMPLES_MAX)
        if np.abs(sent).max() <= VALUE_MAX:  # false for NaN
            offered.append(Offer(number, Held(sent), samples))
    return offered


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
