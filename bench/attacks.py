"""What attackers do to a model under each aggregation rule: digits among ten members, without a network.

    python -m bench.attacks [--rules ...] [--attacks ...] [--splits iid dirichlet] [--attackers 2 3] [--seeds 3]
                            [--momentum outer worker] [--by-samples] [--uneven] [--replayed] [--late 40] [--out FILE]

Each run trains a small network (bench/digits.py) for 100 rounds of 5 local steps, under one rule, with reputation and
under one attack (node/adversaries.py), and is compared with the same honest members alone under a plain mean: the same
seeds, shards and samples. Data are dealt at random (iid) or by a Dirichlet distribution with 0.3. "absent" are the same
honest members alone, with rule and reputation; "none" has the others among them, honest. Results are appended to FILE
as they come, and runs that are in it are not repeated. Needs scikit-learn: pip install scikit-learn.

Then a table for each split and number of attackers: the final test loss over that of the honest alone (the geometric
mean over seeds, and the worst), the attackers' part of all weight after 15 rounds and in the end, and how many honest
members were ever banned (each the largest of the seeds). Last line, one JSON object:

    {"split/attackers/momentum": {"rule/attack": {"ratio", "worst", "early", "late", "banned", "fooled"}}}, where
    "fooled" is which part of images with a backdoor's trigger are taken for what it teaches; null for a model lost
"""

import argparse
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from shoal.node.adversaries import CLAIMED, ON_DATA, ON_VALUES, Sight
from shoal.training.evidence import Given, Testimony, testify
from shoal.training.order_statistics import CoordinateMedian
from shoal.training.payload import VALUE_MAX
from shoal.training.reputation import Fault, Reputation, Rules, Taken, Verdict
from shoal.training.rows import Weighted, one_by_one
from shoal.training.rules import RULES, aggregate, bounded

from .aggregate import Held
from .digits import SIZE, TARGET, Images, Vector, evaluate, load, shards, start
from .kept import Kept
from .replaying import BATCH, Judges, Member, Offer

MEMBERS: Final = 10
ROUNDS: Final = 100
STEPS: Final = 5
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
    replayed: bool = False  # data are public: members do some of one another's turns again
    late: int = 0  # rounds for which who forges contributions does not, first


@dataclass(frozen=True, slots=True)
class Outcome:
    """In the end; infinite and zeros if the model is lost."""

    loss: float  # on test images
    accuracy: float
    fooled: float  # which part of other test images is taken for TARGET once it has the trigger
    early: float  # the attackers' part of all weight after EARLY rounds
    late: float  # and after all
    banned: int  # honest members that ever were


class Swarm:
    """What all members hold: aggregation, and reputation by what it shows. Members are named by their numbers."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.round = 0
        self.step = np.zeros(SIZE, np.float32)
        self.testimony, self.reputation = Testimony(), Reputation()

    def aggregate(self, offers: Sequence[Offer], guilty: Collection[int]) -> Vector | None:
        """The round's step; None where nothing is offered that counts."""
        self.round += 1
        weights = self._weights(offers)
        weighted = [Weighted(offer.row, weight) for offer, weight in zip(offers, weights, strict=True) if weight]
        if not weighted:
            return None
        f = max(min(self.case.attackers, (len(weighted) - 3) // 2), 0)  # as many as all rules bear of those left
        row = aggregate(self.case.rule, weighted, f, Held(self.step), SIZE, one_by_one)
        self.step = np.concatenate(list(one_by_one(row.values, SIZE)))
        if self.case.reputation:
            self._judge(offers, weights, [Verdict(name_of(number), Fault.WORK) for number in sorted(guilty)])
        return self.step

    def _weights(self, offers: Sequence[Offer]) -> list[int]:
        """Samples, cut down first: what is claimed must not outweigh that nobody trusts who claims it."""
        if self.case.rule == "mean" or not offers:
            return [offer.samples * self.trust(offer.number) for offer in offers]
        f = min(self.case.attackers, (len(offers) - 1) // 2)
        cut = bounded([Weighted(offer.row, offer.samples) for offer in offers], f)
        return [weight * self.trust(offer.number) for offer, (_, weight) in zip(offers, cut, strict=True)]

    def trust(self, number: int) -> int:
        return self.reputation.trust(name_of(number), self.round) if self.case.reputation else 1

    def trusted(self, offers: Sequence[Offer]) -> list[Offer]:
        return [offer for offer in offers if self.trust(offer.number)]

    def share(self) -> float:
        """The attackers' part of the trust of all that ever contributed anything."""
        if not self.case.reputation:
            return self.case.attackers / MEMBERS
        known = [standing.member for standing in self.reputation.standings]
        trusts = {number: self.trust(number) for number in range(MEMBERS) if name_of(number) in known}
        return sum(trust for number, trust in trusts.items() if number < self.case.attackers) / max(
            sum(trusts.values()), 1
        )

    def _judge(self, offers: Sequence[Offer], weights: Sequence[int], verdicts: Sequence[Verdict]) -> None:
        given = [Given(offer.row, True) if weight else None for offer, weight in zip(offers, weights, strict=True)]
        median = CoordinateMedian([Weighted(each.row, 1) for each in given if each])
        self.testimony = testify(given, median, Held(self.step), self.testimony, SIZE, one_by_one)
        taken = [
            Taken(name_of(offer.number), True, evidence)
            for offer, evidence in zip(offers, self.testimony.evidence, strict=True)
        ]
        self.reputation = self.reputation.after(self.round, taken, verdicts, Rules(BAN_ROUNDS))


def name_of(number: int) -> str:
    return f"{number:040}"


def run(case: Case) -> Outcome:
    train, test = load()
    own, outer = (OUTER[case.momentum][1], 0.0) if case.momentum == "worker" else (0.0, OUTER[case.momentum][1])
    dealt = shards(train, MEMBERS, SPLITS[case.split], case.seed)
    members = _members(case, dealt, own)
    judges = Judges(dealt, train, range(case.attackers, MEMBERS), own, case.seed)
    swarm = Swarm(case)
    absence = np.random.default_rng(case.seed)
    lr, mu = np.float32(OUTER[case.momentum][0]), np.float32(outer)
    parameters, first, early, banned = start(case.seed), dict[int, Vector](), 0.0, set[str]()
    momentum = np.zeros(SIZE, np.float32)
    for round in range(ROUNDS):
        there = [number for number in range(MEMBERS) if absence.random() >= (MISSED if case.uneven else 0)]
        turns = {number: members[number].contribution(parameters.copy()) for number in there if number in members}
        for number, turn in turns.items():
            first.setdefault(number, turn.row)
        now = case if round >= case.late else replace(case, attack="none")
        offers = _offered(now, members, {number: turn.row for number, turn in turns.items()}, first)
        step = swarm.aggregate(offers, judges.look(round + 1, swarm.trusted(offers), turns) if case.replayed else ())
        if step is not None:
            momentum = mu * momentum + step
            parameters -= lr * (step + mu * momentum)
        if not np.abs(parameters).max() <= VALUE_MAX:  # also false for NaN
            return Outcome(float("inf"), 0.0, 0.0, 0.0, 0.0, 0)
        early = swarm.share() if round + 1 == EARLY else early
        banned |= {each.member for each in swarm.reputation.standings if each.bans}
    others = test.part(np.flatnonzero(test.labels != TARGET))
    fooled = evaluate(parameters, others.with_trigger())[1]
    honest = {name_of(number) for number in range(case.attackers, MEMBERS)}
    return Outcome(*evaluate(parameters, test), fooled, early, swarm.share(), len(banned & honest))


def _members(case: Case, dealt: Sequence[Images], momentum: float) -> dict[int, Member]:
    """By number, attackers first."""
    own = list(dealt)
    if case.attack in ON_DATA:
        poison = Images.flipped if case.attack == "labelflip" else Images.half_with_trigger
        own[: case.attackers] = [poison(shard) for shard in own[: case.attackers]]
    first = case.attackers if case.attack == "absent" else 0
    steps = [PACES[number % len(PACES)] if case.uneven else STEPS for number in range(MEMBERS)]
    seeds = range(1000 * case.seed, 1000 * case.seed + MEMBERS)
    return {number: Member(own[number], seeds[number], steps[number], momentum) for number in range(first, MEMBERS)}


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
                samples = min(samples * CLAIMED, members[number].steps * BATCH if case.replayed else SAMPLES_MAX)
        if np.abs(sent).max() <= VALUE_MAX:  # false for NaN
            offered.append(Offer(number, Held(sent), samples))
    return offered


class Cell(NamedTuple):
    """Of one rule under one attack, over all seeds."""

    ratio: float  # of the final loss to that of the honest alone: geometric mean
    worst: float
    early: float  # the largest part of all weight that attackers had after EARLY rounds
    late: float  # and in the end
    banned: int  # the most honest members that ever were
    fooled: float


def cell(outcomes: Sequence[Outcome], alone: Sequence[float]) -> Cell:
    ratios = [outcome.loss / loss for outcome, loss in zip(outcomes, alone, strict=True)]
    return Cell(
        float(np.exp(np.log(ratios).mean())),
        max(ratios),
        max(outcome.early for outcome in outcomes),
        max(outcome.late for outcome in outcomes),
        max(outcome.banned for outcome in outcomes),
        max(outcome.fooled for outcome in outcomes),
    )


def main() -> None:
    attacks = ("absent", "none", *ON_VALUES, *ON_DATA)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rules", nargs="+", choices=list(RULES), default=list(RULES))
    parser.add_argument("--attacks", nargs="+", choices=attacks, default=attacks)
    parser.add_argument("--splits", nargs="+", choices=list(SPLITS), default=list(SPLITS))
    parser.add_argument("--attackers", nargs="+", type=int, default=[2, 3])
    parser.add_argument("--momentum", nargs="+", choices=list(OUTER), default=["outer"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--by-samples", action="store_true", help="weights are samples alone, without reputation")
    parser.add_argument("--uneven", action="store_true", help="members miss rounds and do unequal work")
    parser.add_argument("--replayed", action="store_true", help="data are public, turns are done again")
    parser.add_argument("--late", type=int, default=0, help="rounds for which who forges contributions behaves first")
    parser.add_argument("--out", type=Path, default=Path("attacks.jsonl"))
    arguments = parser.parse_args()
    kept = Kept(arguments.out, Case, Outcome)
    result = dict[str, dict[str, dict[str, float | None]]]()
    for split, attackers, momentum in product(arguments.splits, arguments.attackers, arguments.momentum):
        alone = Case("mean", "absent", split, attackers, momentum, 0, reputation=False, uneven=arguments.uneven)
        table = _table(alone, kept, arguments)
        result[f"{split}/{attackers}/{momentum}"] = {
            f"{rule}/{attack}": {key: value if value < np.inf else None for key, value in found._asdict().items()}
            for (rule, attack), found in table.items()
        }
    print(json.dumps(result))


def _table(alone: Case, kept: Kept[Case, Outcome], arguments: argparse.Namespace) -> dict[tuple[str, str], Cell]:
    """By rule and attack, printed as it comes."""

    def outcomes(case: Case) -> list[Outcome]:
        cases = [replace(case, seed=seed) for seed in range(arguments.seeds)]
        for each in cases:
            if each not in kept:
                kept.add(each, run(each))
        return [kept[each] for each in cases]

    losses = [outcome.loss for outcome in outcomes(alone)]
    print(f"\n{alone.split}, {alone.attackers} of {MEMBERS} attack, momentum {alone.momentum}; alone {_listed(losses)}")
    print(f"{'':30}" + "".join(f"{attack:>10}" for attack in arguments.attacks))
    table = dict[tuple[str, str], Cell]()
    for rule in arguments.rules:
        for attack in arguments.attacks:
            case = replace(
                alone,
                rule=rule,
                attack=attack,
                reputation=not arguments.by_samples,
                replayed=arguments.replayed,
                late=arguments.late,
            )
            table[rule, attack] = cell(outcomes(case), losses)
        for figure in Cell._fields:
            values = [_short(getattr(table[rule, attack], figure)) for attack in arguments.attacks]
            print(f"{rule:22} {figure:7}" + "".join(f"{value:>10}" for value in values), flush=True)
    return table


def _listed(losses: Iterable[float]) -> str:
    return ", ".join(f"{loss:.4f}" for loss in losses)


def _short(ratio: float) -> str:
    return f"{ratio:.3f}" if ratio < 100 else "lost"


if __name__ == "__main__":
    main()
