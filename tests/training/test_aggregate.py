"""The mean is the samples' mean, in the order given, and nothing overflows."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shoal.training.aggregate import weighted_mean
from shoal.training.payload import VALUE_MAX, Delta, open_payload, write_payload
from shoal.training.ports import BytesReader
from shoal.training.tensors import TensorShape

COUNT = 40
LAYOUT = (TensorShape("a", (COUNT,)),)


def delta(values: np.ndarray, codec: str = "float32") -> Delta:
    opened = open_payload(BytesReader(b"".join(write_payload(codec, LAYOUT, values))), codec, LAYOUT)
    assert isinstance(opened, Delta)
    return opened


def vectors(seed: int, members: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(COUNT).astype(np.float32) for _ in range(members)]


@given(st.integers(0, 2**32), st.lists(st.integers(1, 2**24), min_size=1, max_size=16))
def test_it_is_the_mean_weighted_by_samples(seed: int, samples: list[int]) -> None:
    values = vectors(seed, len(samples))
    ours = weighted_mean([(s, delta(v)) for s, v in zip(samples, values, strict=True)], 0, COUNT)
    exact = np.average(np.array(values, np.float64), axis=0, weights=samples)
    assert np.allclose(ours, exact, rtol=0, atol=len(samples) * 2.0**-23 * np.abs(values).max())


@given(st.integers(0, 2**32), st.lists(st.integers(1, 2**24), min_size=1, max_size=8))
def test_every_operation_rounds_once(seed: int, samples: list[int]) -> None:
    """The same in plain Python: float64 holds products of 24-bit numbers exactly, so rounding it is rounding once."""
    values = vectors(seed, len(samples))
    divisor = math.gcd(*samples)
    total = np.float32(sum(samples) // divisor)
    for column in range(3):
        mean = np.float32(0)
        for s, v in zip(samples, values, strict=True):
            product = np.float32(float(np.float32(s // divisor)) * float(v[column]))
            mean = np.float32(float(mean) + float(product))
        ours = weighted_mean([(s, delta(v)) for s, v in zip(samples, values, strict=True)], 0, COUNT)
        assert ours[column] == np.float32(mean / total)


def test_pieces_are_the_bits_of_the_whole() -> None:
    layout = (TensorShape("a", (700,)),)
    values = np.random.default_rng(1).standard_normal(700).astype(np.float32)
    opened = open_payload(BytesReader(b"".join(write_payload("int8", layout, values))), "int8", layout)
    assert isinstance(opened, Delta)
    shares = [(3, opened), (5, opened)]
    parts = [weighted_mean(shares, a, b) for a, b in ((0, 256), (256, 512), (512, 700))]
    assert np.concatenate(parts).tobytes() == weighted_mean(shares, 0, 700).tobytes()


def test_the_largest_swarm_of_the_largest_values_stays_finite() -> None:
    largest = delta(np.full(COUNT, VALUE_MAX, np.float32))
    mean = weighted_mean([(2**24, largest)] * 1024, 0, COUNT)
    assert np.all(np.isfinite(mean))
    assert np.allclose(mean, VALUE_MAX)
