"""Which way a newcomer is sooner at a state: by replaying what every round took, or by fetching its checkpoint.

    python -m bench.replay [--rounds 1000] [--members 4] [--measured 5]

For three sets of parameters of a model like SmolLM2-135M: the norm gains of the last six layers, LoRA of rank 8 on
queries and values, all. Each member contributes `zeroth`'s 8 directions a round. What the rounds took is made by real
keys, with slopes of random sizes; it is verified, checked and applied as a replay does it, on this machine, one after
the other. For all parameters so many rounds are measured, and the rest is reckoned from them. The line is not measured:
2.5 MB a second are 20 Mbit/s, and a replay fetches, verifies and applies at once. Last line:

    {"gains": {"log_bytes", "log_fetch_s", "verify_s", "apply_s", "log_estimate_s",
               "checkpoint_bytes", "checkpoint_s", "rounds_even"}, "lora": ..., "all": ...}

`checkpoint_s` is fetching, loading and its digest; up to `rounds_even` rounds the replay is the faster one.
"""

import argparse
import json
import random
import time
from typing import Final

import numpy as np

from shoal.training.history import Made, made_of, shares_of
from shoal.training.ports import BytesReader
from shoal.training.records import Contribution, seal_contribution
from shoal.training.replay_service import applied
from shoal.training.replaying import BYTES_PER_S, estimate
from shoal.training.spec import Spec, swarm_id
from shoal.training.tensors import Layout, TensorShape
from shoal.training.zeroth import Zeroth
from shoal.training.zeroth_settings import ZerothSettings
from shoal.transport.identity import Identity
from shoal.transport.wire import Malformed, encode
from tests.training.quadratic import Quadratic

WIDTH: Final = 576
LAYERS: Final = 30
MATRICES: Final = ((576, 576), (192, 576), (192, 576), (576, 576), (1536, 576), (1536, 576), (576, 1536))
DIRECTIONS: Final = 8
BATCH: Final = 16
SLOPES: Final = tuple(code for code in range(40, 90))


def gains() -> Layout:
    return tuple(TensorShape(f"gain.{number}", (WIDTH,)) for number in range(13))


def lora() -> Layout:
    shapes = [(8, WIDTH), (WIDTH, 8), (8, WIDTH), (192, 8)]
    return tuple(
        TensorShape(f"{layer}.{place}", shape) for layer in range(LAYERS) for place, shape in enumerate(shapes)
    )


def everything() -> Layout:
    layers = [
        TensorShape(f"{layer}.{place}", shape)
        for layer in range(LAYERS)
        for place, shape in enumerate((*MATRICES, (WIDTH,), (WIDTH,)))
    ]
    return (TensorShape("embedding", (49_152, WIDTH)), *layers, TensorShape("norm", (WIDTH,)))


def rows_of(swarm: bytes, rounds: int, members: int, chance: random.Random) -> list[Made]:
    keys = sorted((Identity.from_seed(bytes([n]) * 32) for n in range(1, members + 1)), key=lambda key: key.peer_id)
    rows: list[Made] = []
    for round in range(1, rounds + 1):
        offers = [
            seal_contribution(
                key, swarm, round, Contribution(round - 1, bytes(32), bytes(32), DIRECTIONS * BATCH, codes)
            )
            for key in keys
            for codes in (bytes(chance.choice(SLOPES) + 128 * chance.randrange(2) for _ in range(DIRECTIONS)),)
        ]
        made = made_of(round, offers, [DIRECTIONS * BATCH * 2**16] * members)
        assert made is not None
        rows.append(made)
    return rows


def measure(layout: Layout, rounds: int, members: int, measured: int) -> dict[str, float]:
    """`measured` of the rounds are replayed."""
    spec = Spec(creator=Identity.from_seed(bytes(32)).peer_id, nonce=bytes(16), method="zeroth")
    method = Zeroth(spec, ZerothSettings(directions=DIRECTIONS, batch_size=BATCH), Quadratic(layout))
    rows = rows_of(swarm_id(spec), measured, members, random.Random(0))
    started_at = time.perf_counter()
    shares = [shares_of(row, swarm_id(spec), spec, method) for row in rows]
    verified_at = time.perf_counter()
    sound = [each for each in shares if not isinstance(each, Malformed)]
    assert len(sound) == measured
    state = applied(method, method.start(spec)[0], sound)
    applied_at = time.perf_counter()
    saved = b"".join(bytes(piece) for piece in method.save(state))
    loaded_at = time.perf_counter()
    assert method.digest(method.load(BytesReader(saved))) == method.digest(state)
    load_s = (time.perf_counter() - loaded_at) / 1.5  # two digests, of which one is needed; loading reads as much
    scale = rounds / measured
    log_bytes = sum(len(encode(row)) for row in rows) * scale
    verify_s, apply_s = (verified_at - started_at) * scale, (applied_at - verified_at) * scale
    contributions = rounds * members
    guess = estimate(method, contributions, int(log_bytes / contributions), len(saved), 0)
    checkpoint_s = len(saved) / BYTES_PER_S + load_s
    return {
        "log_bytes": round(log_bytes),
        "log_fetch_s": figure(log_bytes / BYTES_PER_S),
        "verify_s": figure(verify_s),
        "apply_s": figure(apply_s),
        "log_estimate_s": figure(guess.log_s),
        "checkpoint_bytes": len(saved),
        "checkpoint_s": figure(checkpoint_s),
        "rounds_even": int(checkpoint_s / (max(log_bytes / BYTES_PER_S + verify_s, apply_s) / rounds)),
    }


def figure(value: float) -> float:
    return float(f"{value:.3g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--measured", type=int, default=5, help="rounds, of those over all parameters")
    arguments = parser.parse_args()
    np.ones(1, np.float32)  # numpy is loaded before anything is measured
    cases = {"gains": gains(), "lora": lora(), "all": everything()}
    report: dict[str, dict[str, float]] = {}
    for name, layout in cases.items():
        measured = arguments.measured if name == "all" else arguments.rounds
        report[name] = measure(layout, arguments.rounds, arguments.members, measured)
        print(name, report[name])
    print(json.dumps(report))


if __name__ == "__main__":
    main()
