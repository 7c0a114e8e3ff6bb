"""What late work is worth: two of five members are cut off, or all of them from one another, for three rounds; or one
of them works three turns in the time of the others' one.

    python -m bench.stale [--seeds 3] [--rounds 12] [--set outer_lr=0.7] ...

Those who are cut off go on by themselves, and contribute to three rounds from one and the same state. Then all of it is
taken at once, by several rules. Prints the validation loss (nats per byte) after that round and each later one, and one
line of JSON at the end: per rule and seed the first and the last of these.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from shoal.training.checkpoint import Local, State
from shoal.training.diloco import Diloco
from shoal.training.diloco_settings import SHORT_RUN, parse_settings
from shoal.training.method import Share, Turn
from shoal.training.methods import MemberOptions, gpt_trainer
from shoal.training.ports import BytesReader
from shoal.training.spec import Setting, Spec

from .curves import parse_setting

MEMBERS: Final = tuple(f"member-{index}" for index in range(5))
CONNECTED, CUT_OFF = MEMBERS[:3], MEMBERS[3:]
CUT_AFTER: Final = 4  # rounds
CUT_ROUNDS: Final = 3
SMALL: Final[Mapping[str, Setting]] = {"steps": 20, "batch_size": 4, "context": 64, "validation_windows": 128}

Rule = Callable[[int], int]  # from staleness to weight per sample
RULES: Final[Mapping[str, Rule]] = {
    "dropped": lambda staleness: 0 if staleness else 8,
    "1": lambda staleness: 8,
    "1/(1+s)": lambda staleness: 8 // (1 + staleness),
    "1/2^s": lambda staleness: 8 // 2**staleness,
}


@dataclass(frozen=True)
class Swarm:
    """Five members, as far as they have come."""

    method: Diloco
    seed: int
    state: State
    locals: Mapping[str, Local]

    def work(self, round_: int, members: Sequence[str] = MEMBERS) -> "tuple[Swarm, list[Share]]":
        """These members' contributions to a round, from the state as it is; and the swarm that has made them."""
        shares: list[Share] = []
        locals_ = dict(self.locals)
        for member in members:
            seed = (self.seed << 32) + (round_ << 8) + MEMBERS.index(member)
            turn = Turn(round_, round_ - 1, member, MEMBERS, seed, math.inf, lambda: 0.0, lambda: False)
            work = self.method.contribute(self.state, locals_[member], turn)
            locals_[member] = work.local
            payload = BytesReader(b"".join(work.payload))
            shares.append(Share(round_, member, work.samples, 0, self.state.round, payload))
        return replace(self, locals=locals_), shares

    def close(self, shares: Sequence[Share], rule: Rule = RULES["1"], members: Sequence[str] = MEMBERS) -> "Swarm":
        """These taken, and these members gone over to the state after it."""
        newest = self.state.round
        state, _ = self.method.apply(
            self.state, [replace(each, weight=each.samples * rule(newest - each.base_round)) for each in shares]
        )
        settled = {member: self.method.settle(self.locals[member], state, True) for member in members}
        return replace(self, state=state, locals={**self.locals, **settled})

    def loss(self) -> float:
        return self.method.evaluate(self.state)["validation_loss"]


def founded(spec: Spec) -> Swarm:
    settings, trainer = parse_settings(spec.settings), gpt_trainer(spec, MemberOptions())
    if isinstance(settings, str) or isinstance(trainer, str):
        raise SystemExit(f"{settings if isinstance(settings, str) else trainer}")
    method = Diloco(spec, settings, trainer)
    state, fresh = method.start(spec)
    return Swarm(method, spec.seed, state, dict.fromkeys(MEMBERS, fresh))


def go_on(swarm: Swarm, rounds: int, late: Sequence[Share] = (), rule: Rule = RULES["1"]) -> Iterator[float]:
    """Losses after so many rounds, of which the first takes `late`, too."""
    for round_ in range(swarm.state.round + 1, swarm.state.round + rounds + 1):
        swarm, shares = swarm.work(round_)
        swarm = swarm.close([*shares, *late], rule)
        late = ()
        yield swarm.loss()


def apart(shares: Sequence[Share]) -> list[Share]:
    """The same contributions, each a member's of its own, so that none is added to another."""
    return [replace(each, member=f"{each.member}/{each.turn_round}") for each in shares]


def two_cut_off(swarm: Swarm, rounds: int) -> Iterator[tuple[str, list[float]]]:
    """Three members close rounds; the other two come back with what they did alone, from a state three rounds old."""
    late: list[Share] = []
    alone = swarm
    for round_ in range(CUT_AFTER + 1, CUT_AFTER + CUT_ROUNDS + 1):
        alone, shares = alone.work(round_, CUT_OFF)
        late += shares
        swarm, shares = swarm.work(round_, CONNECTED)
        swarm = swarm.close(shares, members=CONNECTED)
    back = {member: swarm.method.settle(alone.locals[member], swarm.state, False) for member in CUT_OFF}
    swarm, left = replace(swarm, locals={**swarm.locals, **back}), rounds - CUT_AFTER - CUT_ROUNDS
    for name, rule in RULES.items():
        yield f"two cut off, {name}", list(go_on(swarm, left, late, rule))
    yield "two cut off, apart, 1/(1+s)", list(go_on(swarm, left, apart(late), RULES["1/(1+s)"]))


def none_connected(swarm: Swarm, rounds: int) -> Iterator[tuple[str, list[float]]]:
    """Nobody can close a round; then one takes all that was done meanwhile."""
    taken: list[Share] = []
    for round_ in range(CUT_AFTER + 1, CUT_AFTER + CUT_ROUNDS + 1):
        swarm, shares = swarm.work(round_)
        taken += shares
    for name, shares in {"added up": taken, "apart": apart(taken)}.items():
        closed = swarm.close(shares)
        yield f"none connected, {name}", [closed.loss(), *go_on(closed, rounds - CUT_AFTER - CUT_ROUNDS)]


def one_goes_on(swarm: Swarm, rounds: int) -> Iterator[tuple[str, list[float]]]:
    """Nobody can close a round, and all but one rest after a turn; then one takes all that was done meanwhile."""
    swarm, taken = swarm.work(CUT_AFTER + 1)
    for round_ in range(CUT_AFTER + 2, CUT_AFTER + CUT_ROUNDS + 1):
        swarm, shares = swarm.work(round_, MEMBERS[:1])
        taken += shares
    cut = [replace(each, samples=each.samples // CUT_ROUNDS) if each.member == MEMBERS[0] else each for each in taken]
    for name, shares in {"whole": taken, "as the others'": cut, "first turns": taken[: len(MEMBERS)]}.items():
        closed = swarm.close(shares)
        yield f"one goes on, {name}", [closed.loss(), *go_on(closed, rounds - CUT_AFTER - CUT_ROUNDS)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--model", default="gpt-0.2m")
    parser.add_argument("--set", type=parse_setting, action="append", default=[], metavar="NAME=VALUE")
    arguments = parser.parse_args()
    settings = {**SMALL, **SHORT_RUN, **dict(arguments.set)}
    found: dict[str, list[tuple[float, float]]] = {}
    for seed in range(arguments.seeds):
        swarm = founded(
            Spec(
                creator="1" * 52,
                nonce=bytes(16),
                seed=seed,
                model=arguments.model,
                rounds_max=arguments.rounds,
                settings=settings,
            )
        )
        for round_ in range(1, CUT_AFTER + 1):
            swarm, shares = swarm.work(round_)
            swarm = swarm.close(shares)
        print(f"seed {seed} {'before':30} {swarm.loss():.3f}", flush=True)
        for scenario in (two_cut_off, none_connected, one_goes_on):
            for name, losses in scenario(swarm, arguments.rounds):
                found.setdefault(name, []).append((round(losses[0], 4), round(losses[-1], 4)))
                print(f"seed {seed} {name:30}", " ".join(f"{loss:.3f}" for loss in losses), flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
