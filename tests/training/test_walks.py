"""Contributions of one member are added up or averaged; the mean is weighted, in the order given; nothing overflows."""

import math
from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shoal.training.method import WEIGHT_MAX
from shoal.training.payload import VALUE_MAX, Delta, open_payload, write_payload
from shoal.training.ports import BytesReader
from shoal.training.rows import Weighted
from shoal.training.tensors import TensorShape
from shoal.training.walks import Contributor, Walk, mean_of

COUNT = 40
LAYOUT = (TensorShape("a", (COUNT,)),)
WEIGHTS = st.integers(1, WEIGHT_MAX)


def delta(values: np.ndarray, codec: str = "float32") -> Delta:
    opened = open_payload(BytesReader(b"".join(write_payload(codec, LAYOUT, values))), codec, LAYOUT)
    assert isinstance(opened, Delta)
    return opened


def vectors(seed: int, members: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(COUNT).astype(np.float32) for _ in range(members)]


def weighted_mean(walks: Sequence[tuple[int, Sequence[Delta]]], start: int, stop: int) -> np.ndarray:
    return mean_of([Weighted(Walk(tuple(deltas)), weight) for weight, deltas in walks]).values(start, stop)


@given(st.integers(0, 2**32), st.lists(WEIGHTS, min_size=1, max_size=16))
def test_it_is_the_weighted_mean(seed: int, weights: list[int]) -> None:
    values = vectors(seed, len(weights))
    ours = weighted_mean([(w, [delta(v)]) for w, v in zip(weights, values, strict=True)], 0, COUNT)
    exact = np.average(np.array(values, np.float64), axis=0, weights=weights)
    assert np.allclose(ours, exact, rtol=0, atol=2 * len(weights) * 2.0**-23 * np.abs(values).max())


@given(st.integers(0, 2**32), st.lists(WEIGHTS, min_size=1, max_size=8))
def test_every_operation_rounds_once(seed: int, weights: list[int]) -> None:
    """The same in plain Python: float64 holds products of 24-bit numbers exactly, so rounding it is rounding once."""
    values = vectors(seed, len(weights))
    divisor = math.gcd(*weights)
    total = nearest_float32(sum(weights) // divisor)
    for column in range(3):
        mean = np.float32(0)
        for w, v in zip(weights, values, strict=True):
            product = np.float32(float(nearest_float32(w // divisor)) * float(v[column]))
            mean = np.float32(float(mean) + float(product))
        ours = weighted_mean([(w, [delta(v)]) for w, v in zip(weights, values, strict=True)], 0, COUNT)
        assert ours[column] == np.float32(mean / total)


def nearest_float32(number: int) -> np.float32:
    """By integers alone, half to even."""
    cut = max(number.bit_length() - 24, 0)
    kept, rest = number >> cut, number & ((1 << cut) - 1)
    if cut and (rest > 1 << (cut - 1) or (rest == 1 << (cut - 1) and kept % 2)):
        kept += 1
    return np.float32(math.ldexp(kept, cut))  # 24 bits: exact


def test_weights_are_told_apart_as_far_as_float32_does() -> None:
    """2^24 + 1 is halfway between two float32, and goes to the even one; 2^24 + 3 to the one above."""
    one, none = delta(np.ones(COUNT, np.float32)), delta(np.zeros(COUNT, np.float32))
    for weight, nearest in ((2**24 + 1, 2**24), (2**24 + 3, 2**24 + 4)):
        mean = weighted_mean([(weight, [one]), (2, [none])], 0, COUNT)
        assert mean[0] == np.float32(nearest) / nearest_float32(weight + 2)


@given(st.integers(0, 2**32), st.lists(WEIGHTS, min_size=3, max_size=3))
def test_the_parts_of_a_walk_are_added_up_and_have_its_weight_once(seed: int, weights: list[int]) -> None:
    parts = [[delta(v) for v in vectors(seed + index, count)] for index, count in enumerate((1, 3, 2))]
    ours = weighted_mean(list(zip(weights, parts, strict=True)), 0, COUNT)
    ends = [np.sum([part.values(0, COUNT).astype(np.float64) for part in walk], axis=0) for walk in parts]
    assert np.allclose(ours, np.average(ends, axis=0, weights=weights), atol=1e-5)


def test_pieces_are_the_bits_of_the_whole() -> None:
    layout = (TensorShape("a", (700,)),)
    values = np.random.default_rng(1).standard_normal(700).astype(np.float32)
    opened = open_payload(BytesReader(b"".join(write_payload("int8", layout, values))), "int8", layout)
    assert isinstance(opened, Delta)
    walks = [(3, [opened]), (5, [opened, opened])]
    parts = [weighted_mean(walks, a, b) for a, b in ((0, 256), (256, 512), (512, 700))]
    assert np.concatenate(parts).tobytes() == weighted_mean(walks, 0, 700).tobytes()


def test_the_largest_swarm_of_the_largest_values_stays_finite() -> None:
    largest = delta(np.full(COUNT, VALUE_MAX, np.float32))
    mean = weighted_mean([(WEIGHT_MAX, [largest])] * 1023 + [(WEIGHT_MAX - 1, [largest])], 0, COUNT)
    assert np.all(np.isfinite(mean))
    assert np.allclose(mean, VALUE_MAX, rtol=1e-4)


def test_a_member_is_one_row_that_weighs_as_much_as_its_walks() -> None:
    old, new, newer = (delta(values) for values in vectors(1, 3))
    walks = Weighted(Walk((old,)), 3), Weighted(Walk((new, newer)), 9)
    member = Contributor("a", True, walks)
    expected = (old.values(0, COUNT) + 3 * (new.values(0, COUNT) + newer.values(0, COUNT))) / 4
    assert member.weight == 12
    assert np.allclose(member.row().values(0, COUNT), expected, rtol=1e-6)
    assert Contributor("a", True, walks[:1]).row() is walks[0].row
