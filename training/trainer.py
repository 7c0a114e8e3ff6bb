"""The built-in inner loop: AdamW on a GPT, over windows of bytes.

Runs in a worker thread and changes nothing outside of it but that thread's number of torch threads. It need not give
the same bits on different machines, and does on the same machine with the same number of threads (on CPUs), so that a
seeded testnet repeats.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from . import data, gpt
from .checkpoint import Local
from .comparing import Gain
from .diloco_settings import DilocoSettings
from .inner import Inner, on_device, run_turn, use_threads
from .local_trainer import Trained
from .method import Turn
from .models import GptSize, gpt_layout, gpt_start
from .spec import Spec
from .tensors import Layout

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from .tensors import Vector

EVALUATION_BATCH = 16  # windows at once; memory: evaluation never needs more than training does
EXAMINED_MAX = 16  # windows: by so many honest work and other can mostly be told apart (docs/decisions.md)


class GptTrainer:
    """Examines (local_trainer.py)."""

    def __init__(
        self, spec: Spec, settings: DilocoSettings, size: GptSize, corpus: data.Corpus, device: str, threads: int
    ) -> None:
        self._spec = spec
        self._settings = settings
        self._size = size
        self._corpus = corpus
        self._device = torch.device(device)
        self._threads = threads

    @property
    def layout(self) -> Layout:
        return gpt_layout(self._size)

    def start(self) -> "Vector":
        return gpt_start(self._size, self._spec.seed)

    def train(self, anchor: "Vector", local: Local, turn: Turn) -> Trained:
        settings = self._settings
        use_threads(self._threads)
        inner = Inner(anchor, local, settings, self._device)
        model = gpt.Gpt(self._size, inner.flat, inner.gradient)
        texts = data.shard(self._corpus, turn.member, turn.members)

        def loss(step: int) -> Tensor:
            windows = data.batch(texts, turn.seed, step, settings.batch_size, settings.context + 1)
            with self._autocast():
                return gpt.loss(model, self._tokens(windows))

        trained = run_turn(inner, loss, settings, self._spec.rounds_max, turn, local.step_s, settings.batch_size)
        tokens = float(trained.samples * settings.context)
        return replace(trained, metrics={**trained.metrics, "tokens": tokens})

    def evaluate(self, parameters: "Vector") -> Mapping[str, float]:
        """{"validation_loss": nats per byte} over windows spread evenly over the validation split."""
        use_threads(self._threads)
        settings = self._settings
        windows = data.validation_windows(self._corpus, settings.validation_windows, settings.context + 1)
        return {"validation_loss": self._loss(parameters, windows)}

    def gain(self, anchor: "Vector", moved: "Vector", turn: Turn, seed: int) -> Gain:
        """On a 24th of the turn's windows, of either kind, which takes a 24th of its time; or on a few."""
        use_threads(self._threads)
        length, steps = self._settings.context + 1, turn.steps or 1
        texts = data.shard(self._corpus, turn.member, turn.members)
        count = min(max(steps * self._settings.batch_size // 24, 4), EXAMINED_MAX)
        picks = [(place * steps // count, place % self._settings.batch_size) for place in range(count)]
        own = np.stack([data.batch(texts, turn.seed, step, row + 1, length)[row] for step, row in picks])
        other = data.batch([self._corpus.training], seed, 0, count, length)
        losses = [[self._loss(each, windows) for windows in (own, other)] for each in (anchor, moved)]
        return Gain(*(before - after for before, after in zip(*losses, strict=True)))

    def generate(self, parameters: "Vector", prompt: bytes, count: int, temperature: float, seed: int) -> bytes | str:
        use_threads(self._threads)
        model = gpt.Gpt(self._size, on_device(parameters, self._device))
        generator = torch.Generator().manual_seed(seed)
        return gpt.generate(model, prompt, count, self._settings.context, temperature, generator)

    def _loss(self, parameters: "Vector", windows: "data.Bytes") -> float:
        """Nats per byte."""
        model = gpt.Gpt(self._size, on_device(parameters, self._device))
        total = 0.0
        with torch.no_grad(), self._autocast():
            for start in range(0, len(windows), EVALUATION_BATCH):
                part = self._tokens(windows[start : start + EVALUATION_BATCH])
                total += float(gpt.loss(model, part)) * len(part)
        return total / len(windows)

    def _tokens(self, windows: "data.Bytes") -> Tensor:
        return torch.as_tensor(windows).to(self._device, torch.int64)

    def _autocast(self) -> "AbstractContextManager[Any]":
        if self._device.type == "cuda":
            return torch.autocast("cuda", torch.bfloat16)
        return nullcontext()
