"""How soon members that make up their slopes are gone: 1,000 swarms of 8 with 2 of them, without a network.

    python -m bench.zeroth_bans

A round is the method's own (`contribute`, `apply`, `is_audited`, `audit`) on a quadratic of 48 parameters; the draw
comes from a hash in the place of the next record's, and all honest members find the same, so one of them judges. The
whole engine bans them in tests/sim/test_zeroth.py. Last line: one JSON object.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Final

from blake3 import blake3

from shoal.training.checkpoint import Local
from shoal.training.method import Share, Turn
from shoal.training.ports import BytesReader
from shoal.training.scalar_codes import NEGATIVE, decoded, encode
from shoal.training.spec import Spec
from shoal.training.zeroth import Zeroth
from shoal.training.zeroth_settings import ZerothSettings
from tests.training.quadratic import Quadratic

MEMBERS: Final = tuple("abcdefgh")
LIARS: Final = ("c", "f")
ROUNDS_MAX: Final = 40
SETTINGS: Final = ZerothSettings(directions=8, lr=0.05)

Forge = Callable[[bytes, bytes, bytes], bytes]  # of codes found, of the first round's, and something random


def backwards(codes: bytes, first: bytes, random: bytes) -> bytes:
    return bytes(encode(-10 * decoded(code, SETTINGS.origin), SETTINGS.origin) for code in codes)


def constant(codes: bytes, first: bytes, random: bytes) -> bytes:
    return bytes([80] * len(codes))


def drawn(codes: bytes, first: bytes, random: bytes) -> bytes:
    return bytes(0 if code == NEGATIVE else code for code in random[: len(codes)])


def replayed(codes: bytes, first: bytes, random: bytes) -> bytes:
    return first


ATTACKS: Final[dict[str, Forge]] = {
    "-10x": backwards,
    "constant": constant,
    "random": drawn,
    "replayed": replayed,
}


def rounds_until_gone(seed: int, forge: Forge) -> int:
    """How many rounds it took until both were found out; more than ROUNDS_MAX: it was not done by then."""
    spec = Spec(creator="1" * 52, nonce=seed.to_bytes(16, "big"), method="zeroth")
    method = Zeroth(spec, SETTINGS, Quadratic())
    states, taken = [method.start(spec)[0]], list[Share]()
    first, gone = dict[str, bytes](), set[str]()
    for round_ in range(1, ROUNDS_MAX + 1):
        shares: list[Share] = []
        for member in MEMBERS:
            turn = Turn(round_, round_ - 1, member, MEMBERS, 0, float("inf"), lambda: 0.0, lambda: False)
            codes = bytes(method.contribute(states[-1], Local(), turn).payload[0])
            if member in LIARS:
                random = blake3(f"{seed}/{round_}/{member}".encode()).digest(len(codes))
                codes = forge(codes, first.setdefault(member, codes), random)
            shares.append(Share(round_, member, 128, 128, round_ - 1, BytesReader(codes)))
        record = blake3(f"{seed}/{round_}".encode()).digest()
        for share in taken:
            opinion = method.audit(states[-2], None, share, record)
            if opinion is not None and opinion < 1.0:
                gone.add(share.member)
        if gone - set(LIARS):
            raise SystemExit(f"run {seed}: an honest member was banned")
        if gone == set(LIARS):
            return round_
        states, taken = [states[-1], method.apply(states[-1], shares)[0]], shares
    return ROUNDS_MAX + 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000, help="in all, spread over the attacks (default: 1000)")
    count, began = parser.parse_args().runs, time.monotonic()
    found: dict[str, list[int]] = {name: [] for name in ATTACKS}
    for seed in range(count):
        name = sorted(ATTACKS)[seed % len(ATTACKS)]
        found[name].append(rounds_until_gone(seed, ATTACKS[name]))
        if seed % 100 == 99:
            left_s = (time.monotonic() - began) / (seed + 1) * (count - seed - 1)
            print(f"{seed + 1} of {count} runs; {left_s:.0f} s left", flush=True)
    every = [rounds for each in found.values() for rounds in each]
    result: dict[str, object] = {
        "runs": len(every),
        "within_40": sum(each <= ROUNDS_MAX for each in every) / len(every),
    }
    for name, rounds in sorted(found.items()):
        result[name] = {"median": statistics.median(rounds), "most": max(rounds)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
