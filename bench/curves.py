"""DiLoCo against one member alone and against synchronous training, in one process, over seeds.

    python -m bench.curves [--seeds 3] [--members 4] [--rounds 12] [--set outer_lr=0.7] ...

Prints the validation loss (nats per byte) of each after the last round, and one line of JSON at the end.
"""

import argparse
import json
import math
from collections.abc import Iterator

from shoal.training.baselines import alone, synchronous
from shoal.training.diloco import Diloco
from shoal.training.diloco_settings import parse_settings
from shoal.training.method import Share, Turn
from shoal.training.methods import MemberOptions, gpt_trainer
from shoal.training.ports import BytesReader
from shoal.training.spec import Setting, Spec


def swarm(spec: Spec, options: MemberOptions, members: tuple[str, ...]) -> Iterator[float]:
    """Validation loss after each round of a swarm in which everybody contributes to every round."""
    settings, trainer = parse_settings(spec.settings), gpt_trainer(spec, options)
    if isinstance(settings, str) or isinstance(trainer, str):
        raise SystemExit(f"{settings if isinstance(settings, str) else trainer}")
    method = Diloco(spec, settings, trainer)
    state, fresh = method.start(spec)
    locals_ = dict.fromkeys(members, fresh)
    for round_ in range(1, spec.rounds_max + 1):
        shares: list[Share] = []
        for index, member in enumerate(members):
            seed = (spec.seed << 32) + (round_ << 8) + index
            turn = Turn(round_, round_ - 1, member, members, seed, math.inf, lambda: 0.0, lambda: False)
            work = method.contribute(state, locals_[member], turn)
            payload = BytesReader(b"".join(work.payload))
            problem = method.check(spec, round_, member, work.samples, payload)
            if problem:
                raise SystemExit(problem)
            shares.append(Share(round_, member, work.samples, work.samples, round_ - 1, payload))
            locals_[member] = method.settle(work.local, state, True)
        state, _ = method.apply(state, shares)
        yield method.evaluate(state)["validation_loss"]


def parse_setting(text: str) -> tuple[str, Setting]:
    """ "name=value" with a JSON value, or a bare word."""
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--model", default="gpt-0.8m")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=["alone", "diloco", "synchronous"])
    parser.add_argument("--set", type=parse_setting, action="append", default=[], metavar="NAME=VALUE")
    arguments = parser.parse_args()
    options = MemberOptions(device=arguments.device, threads=arguments.threads)
    members = tuple(f"member-{index}" for index in range(arguments.members))
    finals: dict[str, list[float]] = {}
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        spec = Spec(
            creator="1" * 52,
            nonce=bytes(16),
            seed=seed,
            model=arguments.model,
            rounds_max=arguments.rounds,
            settings={"validation_windows": 256, **dict(arguments.set)},
        )
        runs = {
            "alone": alone(spec, options, arguments.rounds),
            "diloco": swarm(spec, options, members),
            "synchronous": synchronous(spec, options, len(members), arguments.rounds),
        }
        for name, run in runs.items():
            if arguments.only in (None, name):
                losses = list(run)
                finals.setdefault(name, []).append(losses[-1])
                print(f"seed {seed} {name:12}", " ".join(f"{loss:.3f}" for loss in losses), flush=True)
    print(json.dumps({name: [round(loss, 4) for loss in losses] for name, losses in finals.items()}))


if __name__ == "__main__":
    main()
