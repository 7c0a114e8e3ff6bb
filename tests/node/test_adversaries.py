"""Attacks are what their names say: a defence that was tried against something else was not tried."""

from statistics import NormalDist

import numpy as np
import pytest

from shoal.node.adversaries import ON_VALUES, Sight, unnoticed

SIZE = 50


def sight(attackers: int = 2, seed: int = 0) -> Sight:
    random = np.random.default_rng(seed)
    rows = random.standard_normal((9, SIZE)).astype(np.float32) + np.float32(1)
    return Sight(rows[0], tuple(rows[1:8]), rows[8], attackers, random)


def forged(name: str, seen: Sight) -> np.ndarray:
    return ON_VALUES[name](seen)


@pytest.mark.parametrize("name", ON_VALUES)
def test_each_makes_a_row_of_the_same_kind_and_leaves_what_it_saw(name: str) -> None:
    seen = sight()
    before = [row.copy() for row in (seen.own, *seen.honest, seen.first)]
    row = forged(name, seen)
    assert (row.shape, row.dtype.name) == ((SIZE,), "float32")
    assert all(np.array_equal(was, now) for was, now in zip(before, (seen.own, *seen.honest, seen.first), strict=True))
    assert not np.shares_memory(row, seen.first)
    assert np.isfinite(row).all() == (name not in ("nan", "inf"))


def test_rows_of_others_are_taken_as_they_are() -> None:
    seen = sight()
    assert np.array_equal(forged("mimic", seen), seen.honest[0])
    copied = forged("copy", seen)
    assert any(np.array_equal(copied, row) for row in seen.honest)
    assert np.array_equal(forged("replay", seen), seen.first)


def test_ones_own_row_is_turned_around_blown_up_or_made_nothing() -> None:
    seen = sight()
    assert np.array_equal(forged("signflip", seen), -seen.own)
    assert np.array_equal(forged("samples", seen), -seen.own)
    assert np.allclose(forged("huge", seen), seen.own * np.float32(1e6))
    assert not forged("zero", seen).any()
    assert np.isclose(np.linalg.norm(forged("random", seen)), np.linalg.norm(seen.own), rtol=1e-5)


@pytest.mark.parametrize(("name", "scale"), [("ipm0.5", 0.5), ("ipm10", 10.0)])
def test_inner_product_manipulation_is_the_mean_turned_around(name: str, scale: float) -> None:
    seen = sight()
    assert np.allclose(forged(name, seen), -scale * np.mean(seen.honest, axis=0), rtol=1e-5)


def test_a_little_is_enough_stays_so_many_deviations_below_the_mean() -> None:
    seen = sight(attackers=3)
    mean, deviation = np.mean(seen.honest, axis=0), np.std(seen.honest, axis=0)
    assert np.allclose(forged("alie1.5", seen), mean - 1.5 * deviation, atol=1e-5)
    assert np.allclose(forged("alie", seen), mean - unnoticed(7, 3) * deviation, atol=1e-5)
    assert unnoticed(8, 2) == 0.0
    assert unnoticed(7, 3) == NormalDist().inv_cdf(4 / 7)
    assert unnoticed(26, 24) == NormalDist().inv_cdf(24 / 26)  # the paper's example, 50 workers: about 1.43
