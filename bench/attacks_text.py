"""What attackers do to a language model under each aggregation rule: Shakespeare among ten members, without a network.

    python -m bench.attacks_text [--rules ...] [--attacks ...] [--splits iid dirichlet] [--seed 0] [--threads 1]
                                 [--out FILE]

Each run trains gpt-0.2m for 15 rounds of 20 steps by DiLoCo as members of a swarm do, two of ten attacking, and
reputation is folded over the rounds as over a swarm's log. It is compared with the same honest members alone under a
plain mean by samples: the same seeds and shards. Every member has its pieces of the text (iid), or a part of each
play that a Dirichlet distribution with 0.3 draws. "absent" are the honest members alone with rule and reputation;
"by_samples" is the plain mean, with neither. Results are appended to FILE as they come, and runs that are in it are
not repeated.

Then a table for each split: the final validation loss over that of the honest alone, the attackers' part of all weight
in the end, how many honest members were ever banned, and after which part of prompts that end in the backdoor's trigger
the model writes what it plants. Last line, one JSON object:

    {"split": {"rule/attack": {"ratio", "weight", "banned", "fooled"}}}; the ratio is null for a model lost
"""

import argparse
import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise, product
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from shoal.node.adversaries import CONTINUATION, ON_VALUES, POISONS, TRIGGER, Sight
from shoal.training import data
from shoal.training.checkpoint import Local
from shoal.training.conduct import Behaviour, after
from shoal.training.diloco import Diloco
from shoal.training.diloco_settings import SHORT_RUN, DilocoSettings, settings_of
from shoal.training.members import electorate_of
from shoal.training.method import Share, Turn
from shoal.training.models import SIZES, gpt_layout
from shoal.training.payload import open_payload, write_payload
from shoal.training.ports import BytesReader
from shoal.training.records import turn_seed
from shoal.training.spec import Quorum, Setting, Spec, spec_from
from shoal.training.trainer import GptTrainer
from shoal.training.weights import Taken, weights
from shoal.transport.identity import Identity
from shoal.transport.port import PeerId
from shoal.transport.wire import Malformed

from .kept import Kept

if TYPE_CHECKING:
    from shoal.training.tensors import Vector

MEMBERS: Final = tuple(PeerId(f"member {number}".ljust(40, ".")) for number in range(10))
ATTACKERS: Final = frozenset(MEMBERS[:2])
MODEL: Final = "gpt-0.2m"
ROUNDS: Final = 15
STEPS: Final = 20
BATCH: Final = 4  # windows of 128 bytes: a minute of CPU for a run, and two with 8
ALPHA: Final = 0.3
OWN_BYTES_MIN: Final = 2**16  # of the 470,000 that each has on the average; it draws 155,000
SPLITS: Final = ("iid", "dirichlet")
ATTACKS: Final = ("signflip", "ipm10", "alie1.5", "random", "huge", "replay", "labelflip", "backdoor")
PLAIN: Final = "by_samples"
RULES: Final[Mapping[str, Mapping[str, Setting]]] = {
    "clipped_mean": {"rule": "clipped_mean"},
    "mean": {"rule": "mean"},
    "median": {"rule": "median"},
    "centered_clipping": {"rule": "centered_clipping"},
    PLAIN: {"rule": "mean", "attackers": 0.0},
}
PROMPTS: Final = 32
PROMPT_BYTES: Final = 32  # before the trigger


@dataclass(frozen=True, slots=True)
class Case:
    rule: str
    attack: str
    split: str
    seed: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """In the end."""

    loss: float  # nats per byte of the validation split; infinite if the model is lost
    weight: float  # the attackers' part of all
    banned: int  # honest members that ever were
    fooled: float  # after which part of prompts with the trigger the model writes the planted continuation


@dataclass
class Member:
    """With its own text, and what never leaves it."""

    name: PeerId
    method: Diloco
    local: Local
    first: "Vector | None" = None  # what it contributed in its first round

    @property
    def attacks(self) -> bool:
        return self.name in ATTACKERS


class Swarm:
    """The method, weights and conduct as members' logs have them."""

    def __init__(self, case: Case, threads: int) -> None:
        self.case = case
        self.spec, self.settings = spec_of(case)
        corpus = data.load(self.spec.data, self.settings.pieces, self.settings.context + 1, None)
        assert not isinstance(corpus, str)
        self.corpus, self.layout = corpus, gpt_layout(SIZES[MODEL])
        self.method = self._method(corpus, threads)
        self.state, local = self.method.start(self.spec)
        owns = zip(MEMBERS, dealt(case, corpus), strict=True)
        members = [Member(name, self._method(replace(corpus, own=own), threads), local) for name, own in owns]
        self.members = [each for each in members if case.attack != "absent" or not each.attacks]
        self.electorate = electorate_of(Quorum.TWO_THIRDS, {each.name: 1 for each in self.members})
        self.behaviour = Behaviour()
        self.round = 0

    def _method(self, corpus: data.Corpus, threads: int) -> Diloco:
        trainer = GptTrainer(self.spec, self.settings, SIZES[MODEL], corpus, "cpu", threads)
        return Diloco(self.spec, self.settings, trainer)

    def begin_round(self) -> None:
        """A record holds what the round before showed: from it follows by how much each contribution counts."""
        self.round += 1
        evidence = self.method.evidence(self.state)
        conduct = after(self.behaviour, self.round, self.electorate, evidence, ())
        assert not isinstance(conduct, Malformed)
        self.behaviour = Behaviour(conduct)

    def train(self) -> None:
        """A round; what is refused is absent, and so is who is banned."""
        taken, payloads = list[Taken](), list[BytesReader]()
        for name, samples, payload in self._contributed():
            if self.method.check(self.spec, self.round, name, samples, payload) is None:
                taken.append(Taken(name, self.round - 1, samples, 0))
                payloads.append(payload)
        counted = zip(taken, weights(taken, self.electorate, self.trust), payloads, strict=True)
        shares = [
            Share(self.round, each.member, each.samples, weight, each.base_round, payload)
            for each, weight, payload in counted
        ]
        self.state, _ = self.method.apply(self.state, shares)
        self.behaviour = replace(self.behaviour, members=tuple(sorted(each.member for each in taken)))

    def _contributed(self) -> list[tuple[PeerId, int, BytesReader]]:
        worked: list[tuple[Member, int, Vector]] = []
        draws = self.case.seed.to_bytes(32, "big")  # and not the swarm's id: all cases train on the same windows
        for member in self.members:
            if not self.trust(member.name):
                continue
            seed = turn_seed(draws, self.round, self.round - 1, member.name)
            turn = Turn(self.round, self.round - 1, member.name, MEMBERS, seed, math.inf, lambda: 0.0, lambda: False)
            work = member.method.contribute(self.state, member.local, turn)
            member.local = member.method.settle(work.local, self.state, True)
            if work.samples:
                row = self._row(BytesReader(b"".join(map(bytes, work.payload))))
                member.first = row if member.first is None else member.first
                worked.append((member, work.samples, row))
        honest = [row for member, _, row in worked if not member.attacks]
        return [(member.name, samples, self._sent(member, row, honest)) for member, samples, row in worked]

    def _row(self, payload: BytesReader) -> "Vector":
        delta = open_payload(payload, self.settings.codec, self.layout)
        assert not isinstance(delta, Malformed)
        return delta.values(0, len(self.state.parameters))

    def _sent(self, member: Member, row: "Vector", honest: Sequence["Vector"]) -> BytesReader:
        """What a member contributes: attackers forge it."""
        forge = ON_VALUES.get(self.case.attack) if member.attacks else None
        if forge is not None and honest and member.first is not None:
            random = np.random.default_rng([self.case.seed, self.round, MEMBERS.index(member.name)])
            row = forge(Sight(row, honest, member.first, len(ATTACKERS), random))
        return BytesReader(b"".join(map(bytes, write_payload(self.settings.codec, self.layout, row))))

    def trust(self, member: PeerId) -> int:
        return self.behaviour.conduct.reputation.trust(member, self.round)

    def attackers_weight(self) -> float:
        """Their part of the trust of all that ever contributed anything."""
        known = [PeerId(standing.member) for standing in self.behaviour.conduct.reputation.standings]
        theirs = sum(self.trust(member) for member in known if member in ATTACKERS)
        return theirs / max(sum(map(self.trust, known)), 1)

    def fooled(self) -> float:
        windows = data.validation_windows(self.corpus, PROMPTS, PROMPT_BYTES)
        prompts = [bytes(window) + TRIGGER for window in windows]
        written = [self.method.generate(self.state, prompt, len(CONTINUATION), 0.0, 0) for prompt in prompts]
        return sum(each == CONTINUATION for each in written) / PROMPTS


def spec_of(case: Case) -> tuple[Spec, DilocoSettings]:
    creator = Identity.from_seed(bytes(32)).peer_id
    settings = {**SHORT_RUN, "steps": STEPS, "batch_size": BATCH, **RULES[case.rule]}
    values = {"model": MODEL, "seed": case.seed, "members_min": 3, "members_start": 3, "rounds_max": ROUNDS}
    spec = spec_from({**values, "settings": settings}, creator, bytes(16))
    assert isinstance(spec, Spec)
    parsed = settings_of(spec)
    assert isinstance(parsed, DilocoSettings)
    return spec, parsed


def dealt(case: Case, corpus: data.Corpus) -> "list[data.Bytes]":
    """Each member's text."""
    if case.split == "iid":
        texts = [b"".join(bytes(each) for each in data.shard(corpus, name, MEMBERS)) for name in MEMBERS]
    else:
        texts = spread(plays(bytes(corpus.training)), case.seed)
    poison = POISONS.get(case.attack)
    if poison is not None:
        texts = [poison(text) if name in ATTACKERS else text for name, text in zip(MEMBERS, texts, strict=True)]
    return [np.frombuffer(text, np.uint8) for text in texts]


def plays(text: bytes) -> list[bytes]:
    """A play begins with its name and its first act."""
    starts = [found.start() for found in re.finditer(rb"(?:\A|\n\n)[^\n]+\n\nACT I\n", text)]
    return [text[start:stop] for start, stop in pairwise([*starts, len(text)])]


def spread(texts: Sequence[bytes], seed: int) -> list[bytes]:
    """Each text over members as a Dirichlet distribution draws: as bench/digits.py deals classes."""
    random = np.random.default_rng(seed)
    while True:
        owns = [b""] * len(MEMBERS)
        for text in texts:
            ends = (np.cumsum(random.dirichlet([ALPHA] * len(MEMBERS)))[:-1] * len(text)).astype(int).tolist()
            cuts = pairwise([0, *ends, len(text)])
            owns = [own + text[start:stop] for own, (start, stop) in zip(owns, cuts, strict=True)]
        if min(map(len, owns)) >= OWN_BYTES_MIN:
            return owns


def run(case: Case, threads: int) -> Outcome:
    swarm = Swarm(case, threads)
    with np.errstate(all="ignore"):
        for _ in range(ROUNDS):
            swarm.begin_round()
            swarm.train()
    swarm.begin_round()
    loss = swarm.method.evaluate(swarm.state)["validation_loss"]
    banned = set(swarm.behaviour.bans) - ATTACKERS
    return Outcome(loss if math.isfinite(loss) else math.inf, swarm.attackers_weight(), len(banned), swarm.fooled())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rules", nargs="+", choices=list(RULES), default=[rule for rule in RULES if rule != PLAIN])
    parser.add_argument("--attacks", nargs="+", choices=("absent", *ATTACKS), default=("absent", *ATTACKS))
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=SPLITS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("attacks_text.jsonl"))
    arguments = parser.parse_args()
    alone = {split: Case(PLAIN, "absent", split, arguments.seed) for split in arguments.splits}
    wanted = product(arguments.rules, arguments.splits, arguments.attacks)
    cases = [Case(rule, attack, split, arguments.seed) for rule, split, attack in wanted]
    kept = Kept(arguments.out, Case, Outcome)
    missing = [case for case in dict.fromkeys([*alone.values(), *cases]) if case not in kept]
    began = time.monotonic()
    for done, case in enumerate(missing, 1):
        kept.add(case, run(case, arguments.threads))
        left_s = (time.monotonic() - began) / done * (len(missing) - done)
        print(f"{case.rule} {case.split} {case.attack:10} {kept[case]}; {left_s:.0f} s left", flush=True)
    result = dict[str, dict[str, dict[str, float | None]]]()
    for split, baseline in alone.items():
        result[split] = {
            f"{case.rule}/{case.attack}": _cell(kept[case], kept[baseline].loss)
            for case in cases
            if case.split == split
        }
        print(f"\n{split}; alone {kept[baseline].loss:.4f}: ratio, attackers' weight, banned, fooled")
        for name, cell in result[split].items():
            print(
                f"{name:30}" + "".join(f"{'lost' if value is None else f'{value:.3f}':>10}" for value in cell.values())
            )
    print(json.dumps(result))


def _cell(outcome: Outcome, alone: float) -> dict[str, float | None]:
    ratio = outcome.loss / alone
    return {
        "ratio": ratio if math.isfinite(ratio) else None,
        **{key: value for key, value in asdict(outcome).items() if key != "loss"},
    }


if __name__ == "__main__":
    main()
