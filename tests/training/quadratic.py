"""An Evaluator without a network: the distance to a target, on noisy samples."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from shoal.training.directions import perturbed
from shoal.training.tensors import Layout, TensorShape, element_count

LAYOUT: Layout = (TensorShape("a", (5, 7)), TensorShape("b", (13,)))
COUNT = 48


@dataclass
class Quadratic:
    """Half the squared distance to 1, per coordinate with the same curvature, plus noise that a sample brings.

    `skew` is what this machine's arithmetic adds to each loss, relatively.
    """

    layout: Layout = LAYOUT
    noise: float = 0.1
    skew: float = 0.0
    asked: list[int] = field(default_factory=list[int])

    def start(self) -> np.ndarray:
        return np.zeros(element_count(self.layout), np.float32)

    def room(self) -> np.ndarray:
        return np.empty(element_count(self.layout), np.float32)

    def losses(self, parameters: np.ndarray, key: bytes, scale: np.float32, seed: int) -> tuple[float, float]:
        self.asked.append(seed)
        drawn = np.random.default_rng(seed).standard_normal(len(parameters)) * self.noise
        found: list[float] = []
        for sign in (scale, -scale):
            there = np.empty_like(parameters)
            begin = 0
            for tensor, part in enumerate(self.layout):
                stop = begin + math.prod(part.shape)
                perturbed(parameters[begin:stop], key, tensor, np.float32(sign), there[begin:stop])
                begin = stop
            away = there.astype(np.float64) - 1 - drawn
            found.append(float(away @ away) / 2 * (1 + self.skew * (1 if sign > 0 else -1)))
        return found[0], found[1]

    def evaluate(self, parameters: np.ndarray) -> Mapping[str, float]:
        return {"validation_loss": float(((parameters.astype(np.float64) - 1) ** 2).sum() / 2)}

    def generate(self, parameters: np.ndarray, prompt: bytes, count: int, temperature: float, seed: int) -> bytes | str:
        return "a quadratic writes nothing"
