"""The embedded byte-level GPT's losses at perturbed parameters: zeroth-order training that needs no download.

A direction's windows are drawn from the whole training text, by its seed: anybody can draw them again. (Not so where
a member trains on a text of its own.)
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from . import data, gpt
from .evaluator_settings import EvaluatorSettings
from .inner import use_threads
from .models import GptSize, gpt_layout
from .perturbing import Perturbing, Point
from .tensors import element_count

if TYPE_CHECKING:
    from .tensors import Vector

EVALUATION_BATCH: Final = 16  # windows at once


class GptEvaluator:
    """What LateEvaluator (late_evaluator_service.py) asks, one thread at a time: all parameters are trained."""

    def __init__(
        self, size: GptSize, corpus: data.Corpus, settings: EvaluatorSettings, device: str, threads: int
    ) -> None:
        self._corpus = corpus
        self._settings = settings
        self._device = torch.device(device)
        self._threads = threads
        # What is not touched takes no memory: the parameters go before anything is written into them.
        layout = gpt_layout(size)
        self._model = gpt.Gpt(size, torch.empty(element_count(layout), device=self._device))
        self._perturbing = Perturbing(self._model, layout)

    def losses(self, parameters: "Vector", key: bytes, scale: np.float32, seed: int) -> tuple[float, float]:
        """Mean loss in nats per byte at parameters + scale z and at parameters - scale z, over `batch_size` windows
        that `seed` (64 bits) draws from the training text, or from the member's own.
        """
        settings = self._settings
        corpus = self._corpus
        text = corpus.training if corpus.own is None else corpus.own
        windows = data.batch([text], seed, 0, settings.batch_size, settings.context + 1)
        plus, minus = (self._loss(Point(parameters, key, each), windows) for each in (scale, -scale))
        return plus, minus

    def evaluate(self, parameters: "Vector") -> Mapping[str, float]:
        """{"validation_loss": nats per byte} over windows spread evenly over the validation split."""
        settings = self._settings
        windows = data.validation_windows(self._corpus, settings.validation_windows, settings.context + 1)
        return {"validation_loss": self._loss(Point(parameters), windows)}

    def generate(self, parameters: "Vector", prompt: bytes, count: int, temperature: float, seed: int) -> bytes | str:
        use_threads(self._threads)
        chosen = torch.Generator().manual_seed(seed)
        with self._perturbing.at(Point(parameters)):
            return gpt.generate(self._model, prompt, count, self._settings.context, temperature, chosen)

    @torch.no_grad()
    def _loss(self, point: Point, windows: "data.Bytes") -> float:
        """In float32 throughout: a difference of two losses that are nearly equal drowns in bfloat16's rounding."""
        use_threads(self._threads)
        torch.set_float32_matmul_precision("highest")  # no TF32, whoever asked for it
        total = 0.0
        with self._perturbing.at(point):
            for first in range(0, len(windows), EVALUATION_BATCH):
                part = torch.as_tensor(windows[first : first + EVALUATION_BATCH]).to(self._device, torch.int64)
                total += float(gpt.loss(self._model, part)) * len(part)
        return total / len(windows)
