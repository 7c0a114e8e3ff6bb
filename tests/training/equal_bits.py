"""A program for test_equal_bits.py: prints digests of all that members must compute to the same bits.

It imports torch first, as a member that trains does: its libraries may change how the processor rounds or flushes.
"""

import os
import sys
from collections.abc import Callable, Sequence

import numpy as np
import torch
from blake3 import blake3

from shoal.training.averaging import centered_clipping, clipped_mean, geometric_median, mean
from shoal.training.checkpoint import State
from shoal.training.codecs import CODECS, TINY, flush_tiny
from shoal.training.diloco import Diloco
from shoal.training.diloco_settings import parse_settings, settings_of
from shoal.training.directions import add_sums, direction_key, perturbed, signs, step
from shoal.training.flag import flag_aggregator
from shoal.training.local_trainer import Trained
from shoal.training.method import Share
from shoal.training.models import SIZES, gpt_start, uniform
from shoal.training.order_statistics import CoordinateMedian, TrimmedMean, WeightedMedian, WeightedTrimmedMean
from shoal.training.payload import write_payload
from shoal.training.ports import BytesReader
from shoal.training.rows import Row, Sweep, Weighted
from shoal.training.rules import RULES
from shoal.training.selecting import krum, least_diameter, multi_krum, nearest_mixing
from shoal.training.spec import Spec
from shoal.training.sweep_service import ThreadedSweep
from shoal.training.tensors import Layout, TensorShape, element_count
from tests.training.rows_in_memory import InMemory, weighted, whole

COUNT = 2**18 + 12_345  # more than one piece, and a last block that is not full
LAYOUT = (TensorShape("a", (COUNT,)),)
WEIGHTS = (1, 1, 400, 1_000_000, 2**42 + 1)
MANY = (TensorShape("gain", (576,)), TensorShape("matrix", (COUNT - 577,)), TensorShape("scalar", ()))
KEYS = [direction_key(bytes(32), 1, 0, str(index // 8), index % 8) for index in range(21)]  # the last group is not full


class NoTrainer:
    """A LocalTrainer of which only the layout and the start are used."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def start(self) -> np.ndarray:
        return uniform("start", element_count(self.layout), 0.1)

    def train(self, anchor: np.ndarray, local: object, turn: object) -> Trained:
        raise NotImplementedError

    def evaluate(self, parameters: np.ndarray) -> dict[str, float]:
        return {}

    def generate(self, parameters: np.ndarray, prompt: bytes, count: int, temperature: float, seed: int) -> str:
        return ""


def rough(label: str) -> np.ndarray:
    """Values of all sizes: ordinary ones, zeros, some that cancel, denormals and the smallest normal numbers."""
    values = uniform(label, COUNT, 1e-3)
    values[::11] = 0
    exponents = np.arange(COUNT // 7 + 1, dtype=np.int32) % 150 - 149  # 2^-149 ... 2^0
    values[::7] = np.ldexp(np.float32(1.5), exponents)[: len(values[::7])]
    return values


def contributions(round_: int) -> list[np.ndarray]:
    """By weight, two of each member's. Where the others have zeros the first two cancel but for a last bit: their mean
    is denormal.
    """
    first, *others = (rough(f"{round_}/{index}") for index in range(len(WEIGHTS) - 1))
    for values in others:
        values[::14] = 0
    return [first, np.nextafter(-first, np.float32(0)), *others]


def rounds(codec: str, count: int) -> bytes:
    spec = Spec(creator="1" * 52, nonce=bytes(16), settings={"attackers": 0.0, "codec": codec, "rule": "mean"})
    settings = parse_settings(spec.settings)
    assert not isinstance(settings, str)
    method = Diloco(spec, settings, NoTrainer(LAYOUT))
    state, _ = method.start(spec)
    for round_ in range(1, count + 1):
        shares = [
            Share(
                round_ + index,
                str(index // 2),
                1,
                weight,
                round_ - 1,
                BytesReader(b"".join(write_payload(codec, LAYOUT, values))),
            )
            for index, (weight, values) in enumerate(zip(WEIGHTS, contributions(round_), strict=True))
        ]
        assert all(method.check(spec, round_, share.member, share.samples, share.payload) is None for share in shares)
        state, _ = method.apply(state, shares)
        assert isinstance(state, State)
    return method.digest(state)


def steps() -> bytes:
    """Of scales that are too small to count, that are as small as can be and all but cancel, and of ordinary ones."""
    tiny = np.float32(TINY)
    values = flush_tiny(rough("step"))
    after: list[bytes] = []
    for scales in (
        [np.float32(1e-40)],
        [tiny, -np.nextafter(tiny, np.float32(1))],
        [np.float32(0.01 / (index + 3)) for index in range(len(KEYS))],
    ):
        step(values, MANY, list(zip(KEYS, scales, strict=False)), values)
        after.append(values.tobytes())
    return b"".join(after)


def sums() -> np.ndarray:
    totals = np.arange(COUNT, dtype=np.int64)
    add_sums(totals, MANY, [(key, 3**index * (-1) ** index) for index, key in enumerate(KEYS)])
    return totals


def perturbations() -> np.ndarray:
    values = flush_tiny(rough("perturbed"))
    out = np.empty_like(values)
    perturbed(values[:1_001], KEYS[0], 0, np.float32(0.01), out[:1_001])
    perturbed(values[1_001:], KEYS[0], 2**32, np.float32(-0.003), out[1_001:], start=77)
    return out


def mixed_median(rows: Sequence[Weighted], size: int, sweep: Sweep) -> Row:
    return geometric_median(nearest_mixing(rows, 2, size, sweep), size, sweep)


SWEEP = ThreadedSweep(int(os.environ.get("OMP_NUM_THREADS", "3")))  # as many threads as torch has
START = InMemory(flush_tiny(uniform("previous", COUNT, 1e-4)))
COMBINED: dict[str, Callable[[Sequence[Weighted], int, Sweep], Row]] = {
    "mean": mean,
    "clipped mean": clipped_mean,
    "geometric median": geometric_median,
    "centered clipping": lambda rows, size, sweep: centered_clipping(rows, START, 3, size, sweep),
    "krum": lambda rows, size, sweep: krum(rows, 2, size, sweep),
    "multi-krum": lambda rows, size, sweep: multi_krum(rows, 2, size, sweep),
    "least diameter": lambda rows, size, sweep: least_diameter(rows, 2, size, sweep),
    "mixed geometric median": mixed_median,
    "flag aggregator": flag_aggregator,
}


def combination(name: str) -> bytes:
    """Of a rule with the rows' own weights: rows of which the first two all but
    cancel, one of another scale, and one that is nearly another.
    """
    vectors = [flush_tiny(rough(f"row/{index}")) for index in range(9)]
    vectors[1] = np.nextafter(-vectors[0], np.float32(0))
    vectors[2] *= np.float32(2**20)
    vectors[3] = np.nextafter(vectors[4], np.float32(0))
    weights = (3, 5, 1, 4, 4, 5, 4, 3, 5)
    rows = weighted([flush_tiny(vector) for vector in vectors], weights)
    return whole(COMBINED[name](rows, COUNT, SWEEP), COUNT, SWEEP).tobytes()


SMALL = 2**15 + 12_345


def ruled(rule: str) -> bytes:
    """Of DiLoCo's state after rounds of nine voters and two others, and one of few voters; with what they showed."""
    layout = (TensorShape("a", (SMALL,)),)
    spec = Spec(creator="1" * 52, nonce=bytes(16), members_min=3, members_start=3, settings={"rule": rule})
    settings = settings_of(spec)
    assert not isinstance(settings, str), settings
    method = Diloco(spec, settings, NoTrainer(layout), SWEEP)
    state, _ = method.start(spec)
    for round_, members in ((1, 11), (2, 11), (3, 2)):
        vectors = [rough(f"{round_}/{index}")[:SMALL] for index in range(members)]
        vectors[1] = np.nextafter(-vectors[0], np.float32(0))
        payloads = [BytesReader(b"".join(write_payload("float32", layout, vector))) for vector in vectors]
        shares = [
            Share(round_, f"{index:02}", 1, 1000 + index**2, round_ - 1, payload, is_voters=index < 9)
            for index, payload in enumerate(payloads)
        ]
        state, _ = method.apply(state, shares)
    return method.digest(state)


COORDINATEWISE: dict[str, Callable[[Sequence[Weighted]], Row]] = {
    "median": CoordinateMedian,
    "trimmed mean": lambda rows: TrimmedMean(rows, 2),
    "weighted median": WeightedMedian,
    "weighted trimmed mean": lambda rows: WeightedTrimmedMean(rows, 2),
}


def coordinatewise(name: str) -> bytes:
    """Of rows of which every second is the opposite of the one before, but for a last bit: what lies in the middle all
    but cancels, and zeros have both signs.
    """
    vectors: list[np.ndarray] = []
    for index in range(5):
        vector = flush_tiny(rough(f"row/{index}"))
        vectors += [vector, flush_tiny(np.nextafter(-vector, np.float32(0)))]
        vectors[-1][::11] = -0.0
    return whole(COORDINATEWISE[name](weighted(vectors, 2 * (3, 5, 1, 4, 6))), COUNT, SWEEP).tobytes()


def main() -> None:
    flushes = len(sys.argv) > 1 and sys.argv[1] == "flush"
    if flushes and not torch.set_flush_denormal(True):
        raise SystemExit("this processor cannot flush denormals")
    print("start", blake3(gpt_start(SIZES["gpt-0.2m"], 1).tobytes()).hexdigest())
    for codec in sorted(CODECS):
        print(codec, "encode", blake3(b"".join(write_payload(codec, LAYOUT, uniform("x", COUNT, 1.0)))).hexdigest())
        print(codec, "rounds", rounds(codec, 3).hex())
    print("directions signs", blake3(b"".join(signs(key, 5, 333, 99_999).tobytes() for key in KEYS)).hexdigest())
    print("directions step", blake3(steps()).hexdigest())
    print("directions add_sums", blake3(sums().astype("<i8").tobytes()).hexdigest())
    print("directions perturbed", blake3(perturbations().tobytes()).hexdigest())
    for name in COMBINED:
        print(name, blake3(combination(name)).hexdigest())
    for name in COORDINATEWISE:
        print(name, blake3(coordinatewise(name)).hexdigest())
    for rule in RULES:
        print("diloco", rule, ruled(rule).hex())


if __name__ == "__main__":
    main()
