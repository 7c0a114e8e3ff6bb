"""How long DiLoCo takes to apply a round of 16 voters' contributions that lie in memory, and with how much memory.

    python -m bench.apply [--rules mean median] [--codec int8] [--threads 2] [--runs 3]

`trusting` is the mean where nothing is looked for (attackers = 0); each rule then with attackers = 0.2, which finds out
what each contribution shows. Of several runs the best counts. Last line, for 1 and 10 million parameters: seconds, and
the most memory that the larger takes beside contributions and both states:

    {"trusting": {"1m_s", "10m_s", "extra_mb"}, "mean": ..., ...}
"""

import argparse
import json
import time
import tracemalloc
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from shoal.training.checkpoint import Local, State
from shoal.training.codecs import CODECS
from shoal.training.diloco import Diloco
from shoal.training.diloco_settings import DilocoSettings, settings_of
from shoal.training.local_trainer import Trained
from shoal.training.method import Share, Turn
from shoal.training.payload import write_payload
from shoal.training.ports import BytesReader
from shoal.training.rules import RULES
from shoal.training.spec import Setting, Spec
from shoal.training.sweep_service import sweep_of
from shoal.training.tensors import Layout, TensorShape, element_count

if TYPE_CHECKING:
    from shoal.training.tensors import Vector

MEMBERS: Final = 16
SIZES: Final = {"1m": 1_000_000, "10m": 10_000_000}


class Still:
    """A LocalTrainer that is never asked to train."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def start(self) -> "Vector":
        return np.zeros(element_count(self.layout), np.float32)

    def train(self, anchor: "Vector", local: Local, turn: Turn) -> Trained:
        raise NotImplementedError

    def evaluate(self, parameters: "Vector") -> dict[str, float]:
        return {}

    def generate(self, parameters: "Vector", prompt: bytes, count: int, temperature: float, seed: int) -> str:
        return ""


def method(rule: str, codec: str, threads: int, layout: Layout) -> Diloco:
    trusting: dict[str, Setting] = {"rule": "mean", "attackers": 0.0}
    settings: dict[str, Setting] = trusting if rule == "trusting" else {"rule": rule}
    spec = Spec(
        creator="1" * 52, nonce=bytes(16), members_min=3, members_start=3, settings={"codec": codec, **settings}
    )
    parsed = settings_of(spec)
    assert isinstance(parsed, DilocoSettings), parsed
    return Diloco(spec, parsed, Still(layout), sweep_of(threads))


def contributions(codec: str, layout: Layout) -> list[Share]:
    random = np.random.default_rng(0)
    common = random.standard_normal(element_count(layout), np.float32)
    shares: list[Share] = []
    for place in range(MEMBERS):
        own = common + random.standard_normal(len(common), np.float32)
        payload = BytesReader(b"".join(bytes(piece) for piece in write_payload(codec, layout, own)))
        shares.append(Share(1, f"{place:02}", 1, 10_000 + 37 * place**2, 0, payload))
    return shares


def timed(made: Diloco, state: State, shares: Sequence[Share], runs: int) -> float:
    """Seconds."""
    best = float("inf")
    for _ in range(runs):
        started_at = time.perf_counter()
        made.apply(state, shares)
        best = min(best, time.perf_counter() - started_at)
    return best


def extra_bytes(made: Diloco, state: State, shares: Sequence[Share]) -> int:
    """The most that is held at a time beside the new state, whose memory is there from the runs before."""
    tracemalloc.start()
    made.apply(state, shares)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rules", nargs="+", choices=["trusting", *RULES], default=["trusting", *RULES])
    parser.add_argument("--codec", choices=sorted(CODECS), default="float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3, help="of each rule, the best of which counts")
    arguments = parser.parse_args()
    report: dict[str, dict[str, float]] = {rule: {} for rule in arguments.rules}
    for label, size in SIZES.items():
        layout = (TensorShape("w", (size,)),)
        shares = contributions(arguments.codec, layout)
        for rule in arguments.rules:
            made = method(rule, arguments.codec, arguments.threads, layout)
            state, _ = made.start(Spec(creator="1" * 52, nonce=bytes(16)))
            report[rule][f"{label}_s"] = float(f"{timed(made, state, shares, arguments.runs):.3g}")
            report[rule]["extra_mb"] = float(f"{extra_bytes(made, state, shares) / 1e6:.3g}")
            print(f"{label:>3} {rule:22} {report[rule]}", flush=True)
        del shares
    print(json.dumps(report))


if __name__ == "__main__":
    main()
