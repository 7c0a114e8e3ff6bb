"""What members that make up their slopes do to a model: 2 of 8, on the embedded GPT, without a network.

    python -m bench.zeroth_attacks [--rounds 60] [--seed 0]

For each attack: the validation loss with audits (who fails two is gone from the next round on) and with bounds alone
(samples are private), beside that of the six honest members alone along the same directions. Then what a median over
members' slopes does in place of a sum: every slope multiplies another direction, so there is nothing to agree on. Last
line: one JSON object.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import msgspec
import numpy as np
from blake3 import blake3

from shoal.training.checkpoint import Local
from shoal.training.method import Share, Turn
from shoal.training.ports import BytesReader
from shoal.training.scalar_codes import decoded, encode
from shoal.training.spec import Spec
from shoal.training.zeroth import Evaluator, Zeroth
from shoal.training.zeroth_settings import ZerothSettings

from .zeroth import prepared
from .zeroth_bans import ATTACKS, LIARS, MEMBERS, Forge

MODEL: Final = "gpt-0.2m"
HONEST: Final = tuple(member for member in MEMBERS if member not in LIARS)

Rule = Callable[[Sequence[Share]], list[Share]]


class Swarm:
    """Eight members in one process, or those of them that are given."""

    def __init__(self, spec: Spec, settings: ZerothSettings, evaluator: Evaluator, seed: int) -> None:
        self.method = Zeroth(spec, settings, evaluator)
        self.spec = spec
        self.seed = seed
        self.banned_in: dict[str, int] = {}

    def run(self, members: Sequence[str], rounds: int, forge: Forge | None = None, rule: Rule = list) -> float:
        """The validation loss in the end; infinite if the state is lost."""
        states, taken, first = [self.method.start(self.spec)[0]], list[Share](), dict[str, bytes]()
        for round_ in range(1, rounds + 1):
            shares: list[Share] = []
            for member in members:
                if member in self.banned_in:
                    continue
                turn = Turn(round_, round_ - 1, member, MEMBERS, 0, float("inf"), lambda: 0.0, lambda: False)
                codes = bytes(self.method.contribute(states[-1], Local(), turn).payload[0])
                if forge is not None and member in LIARS:
                    random = blake3(f"{self.seed}/{round_}/{member}".encode()).digest(len(codes))
                    codes = forge(codes, first.setdefault(member, codes), random)
                shares.append(Share(round_, member, 64, 64, round_ - 1, BytesReader(codes)))
            record = blake3(f"{self.seed}/{round_}".encode()).digest()
            for share in taken:
                opinion = self.method.audit(states[-2], None, share, record)
                if opinion is not None and opinion < 1.0:
                    self.banned_in.setdefault(share.member, round_)
            states, taken = [states[-1], self.method.apply(states[-1], rule(shares))[0]], shares
        loss = self.method.evaluate(states[-1])["validation_loss"]
        return loss if np.isfinite(loss) else float("inf")


def by_median(origin: int) -> Rule:
    """Each place's slopes are replaced by the members' median at that place."""

    def rule(shares: Sequence[Share]) -> list[Share]:
        codes = [share.payload.read(0, share.payload.size) for share in shares]
        medians = [float(np.median([decoded(code, origin) for code in place])) for place in zip(*codes, strict=True)]
        payload = BytesReader(bytes(encode(value, origin) for value in medians))
        return [replace(share, payload=payload) for share in shares]

    return rule


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    spec, settings, evaluator = prepared(MODEL, arguments.seed, arguments.rounds, 1)
    private = msgspec.structs.replace(settings, audit="private")
    unbounded = msgspec.structs.replace(private, bound=1024)
    began, result = time.monotonic(), dict[str, object]()

    def say(name: str, loss: float, banned: Sequence[int] = ()) -> None:
        result[name] = {"loss": loss, "banned_in": list(banned)} if banned else {"loss": loss}
        print(f"{name:28} {loss:.4f} {list(banned)} {time.monotonic() - began:.0f} s", flush=True)

    def trial(chosen: ZerothSettings, *run: object) -> tuple[float, list[int]]:
        swarm = Swarm(spec, chosen, evaluator, arguments.seed)
        loss = swarm.run(*run)  # type: ignore[arg-type]
        return loss, sorted(swarm.banned_in.values())

    say("before", evaluator.evaluate(evaluator.start())["validation_loss"])
    say("honest alone", trial(settings, HONEST, arguments.rounds)[0])
    for name, forge in sorted(ATTACKS.items()):
        say(f"{name}, audits", *trial(settings, MEMBERS, arguments.rounds, forge))
        say(f"{name}, bounds alone", trial(private, MEMBERS, arguments.rounds, forge)[0])
    say("-10x, neither", trial(unbounded, MEMBERS, arguments.rounds, ATTACKS["-10x"])[0])
    median = by_median(settings.origin)
    say("median, nobody lies", trial(private, MEMBERS, arguments.rounds, None, median)[0])
    say("median, -10x", trial(private, MEMBERS, arguments.rounds, ATTACKS["-10x"], median)[0])
    print(json.dumps(result))


if __name__ == "__main__":
    main()
