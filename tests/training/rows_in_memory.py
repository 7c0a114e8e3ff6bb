"""Rows for tests of rules, and ways of going over them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from shoal.training.rows import Row, Sweep, Weighted, one_by_one, placed

if TYPE_CHECKING:
    from shoal.training.tensors import Vector

Part = TypeVar("Part")


@dataclass(frozen=True, eq=False)
class InMemory:
    """A Row that is all there."""

    whole: "Vector"

    def values(self, start: int, stop: int, out: "Vector | None" = None) -> "Vector":
        return placed(self.whole[start:stop].copy(), out)


def in_pieces(length: int, threads: int = 1) -> Sweep:
    """A Sweep by pieces of `length` values."""

    def sweep(part: Callable[[int, int], Part], size: int) -> Iterator[Part]:
        def piece(start: int) -> Part:
            return part(start, min(start + length, size))

        with ThreadPoolExecutor(threads) as pool:
            yield from pool.map(piece, range(0, size, length))

    return sweep


def rows_of(vectors: Iterable[np.ndarray]) -> list[InMemory]:
    return [InMemory(vector.astype(np.float32)) for vector in vectors]


def weighted(vectors: Iterable[np.ndarray], weights: Sequence[int] | None = None) -> list[Weighted]:
    """With weights, or with a weight of 1 each."""
    rows = rows_of(vectors)
    return [Weighted(row, weight) for row, weight in zip(rows, weights or [1] * len(rows), strict=True)]


def whole(row: Row, size: int, sweep: Sweep = one_by_one) -> "Vector":
    """(size,): all of a row."""
    return np.concatenate(list(sweep(row.values, size)))


def normal(seed: int, *shape: int) -> np.ndarray:
    """float32."""
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
