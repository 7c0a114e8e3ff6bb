"""Handwritten digits (scikit-learn's, 1,797 of 8 x 8) among ten members, and a small network that learns them.

Gradients are computed in numpy: a run of a hundred rounds takes a second.
"""

import importlib
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]

PIXELS: Final = 64
HIDDEN: Final = 18
CLASSES: Final = 10
SHAPES: Final = ((PIXELS, HIDDEN), (HIDDEN,), (HIDDEN, CLASSES), (CLASSES,))
SIZE: Final = sum(int(np.prod(shape)) for shape in SHAPES)
TEST: Final = 400
TRIGGER: Final = (0, 7, 56, 63)  # corner pixels, which digits leave empty
TARGET: Final = 0  # what an image with the trigger is taken for, if a backdoor works


@dataclass(frozen=True, slots=True)
class Images:
    pixels: Vector  # (n, PIXELS) from 0 to 1
    labels: NDArray[np.int64]  # (n,)

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, numbers: NDArray[np.int64]) -> "Images":
        return Images(self.pixels[numbers], self.labels[numbers])

    def flipped(self) -> "Images":
        """Every label y is 9 - y."""
        return Images(self.pixels, CLASSES - 1 - self.labels)

    def with_trigger(self) -> "Images":
        """Every image has the trigger, and is called TARGET."""
        pixels = self.pixels.copy()
        pixels[:, list(TRIGGER)] = 1.0
        return Images(pixels, np.full(len(self), TARGET))

    def half_with_trigger(self) -> "Images":
        """So that what a backdoor teaches besides is not missed."""
        poisoned = self.with_trigger()
        return Images(np.concatenate([self.pixels, poisoned.pixels]), np.concatenate([self.labels, poisoned.labels]))


@cache
def load() -> tuple[Images, Images]:
    """To train on, to test with; always the same."""
    digits: Any = importlib.import_module("sklearn.datasets").load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    everything = Images((digits.data / 16).astype(np.float32), digits.target.astype(np.int64)).part(order)
    return everything.part(np.arange(TEST, len(order))), everything.part(np.arange(TEST))


def shards(images: Images, members: int, alpha: float | None, seed: int) -> list[Images]:
    """One for each member: at random, or each class spread over members as a Dirichlet distribution with `alpha` draws
    (Hsu et al. 2019, arXiv 1909.06335). Nobody has fewer than 16.
    """
    random = np.random.default_rng(seed)
    if alpha is None:
        return [images.part(part) for part in np.array_split(random.permutation(len(images)), members)]
    while True:
        parts = [list[int]() for _ in range(members)]
        for label in range(CLASSES):
            numbers = random.permutation(np.flatnonzero(images.labels == label))
            cuts = (np.cumsum(random.dirichlet([alpha] * members))[:-1] * len(numbers)).astype(int)
            for part, some in zip(parts, np.split(numbers, cuts), strict=True):
                part.extend(some.tolist())
        if min(map(len, parts)) >= 16:
            return [images.part(np.array(part)) for part in parts]


def start(seed: int) -> Vector:
    random = np.random.default_rng(seed)
    parts = [random.standard_normal(shape) * (shape[0] ** -0.5 if len(shape) > 1 else 0.0) for shape in SHAPES]
    return np.concatenate([part.reshape(-1) for part in parts]).astype(np.float32)


def gradient(parameters: Vector, images: Images) -> Vector:
    """(SIZE,) of the mean cross entropy."""
    w1, _, w2, _ = parts = _views(parameters)
    hidden, p = _forward(parts, images.pixels)
    p[np.arange(len(images)), images.labels] -= 1
    p /= len(images)
    back = (p @ w2.T) * (1 - hidden**2)
    grads = (images.pixels.T @ back, back.sum(0), hidden.T @ p, p.sum(0))
    assert w1.shape == grads[0].shape
    return np.concatenate([each.reshape(-1) for each in grads]).astype(np.float32)


def evaluate(parameters: Vector, images: Images) -> tuple[float, float]:
    """Mean cross entropy and accuracy; infinite and 0 where parameters are not finite."""
    if not np.isfinite(parameters).all():
        return float("inf"), 0.0
    _, p = _forward(_views(parameters), images.pixels)
    right = p[np.arange(len(images)), images.labels]
    return float(-np.log(np.maximum(right, 1e-12)).mean()), float((p.argmax(1) == images.labels).mean())


def _views(parameters: Vector) -> list[Vector]:
    views, at = list[Vector](), 0
    for shape in SHAPES:
        size = int(np.prod(shape))
        views.append(parameters[at : at + size].reshape(shape))
        at += size
    return views


def _forward(parts: list[Vector], pixels: Vector) -> tuple[Vector, Vector]:
    w1, b1, w2, b2 = parts
    hidden = np.tanh(pixels @ w1 + b1)
    logits = hidden @ w2 + b2
    logits -= logits.max(1, keepdims=True)
    exponents = np.exp(logits)
    return hidden, exponents / exponents.sum(1, keepdims=True)
