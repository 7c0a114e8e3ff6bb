"""The built-in inner loop: AdamW on a GPT, over windows of bytes.

Runs in a worker thread and changes nothing outside of it but that thread's number of torch threads. It need not give
the same bits on different machines, and does on the same machine with the same number of threads (on CPUs), so that a
seeded testnet repeats.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import data, gpt
from .checkpoint import Local, Moments
from .diloco import Trained
from .diloco_settings import DilocoSettings, learning_rate
from .method import Turn
from .models import GptSize, gpt_layout, gpt_start
from .pace import expected_step_s, has_time
from .spec import Spec
from .tensors import Layout

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from .tensors import Vector

EVALUATION_BATCH = 16  # windows at once; memory: evaluation never needs more than training does


class GptTrainer:
    """A LocalTrainer (diloco.py)."""

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
        settings, steps = self._settings, self._settings.step_range()
        self._use_threads()
        flat = self._to_device(anchor)
        flat.grad = torch.zeros_like(flat)
        model = gpt.Gpt(self._size, flat, flat.grad)
        optimizer = _optimizer(flat, self._moments(local), settings)
        texts = data.shard(self._corpus, turn.member, turn.members)
        losses: list[Tensor] = []
        started_at = turn.clock()
        done = 0
        while has_time(steps, done, started_at, turn.clock(), turn.deadline_at, local.step_s):
            if done and turn.is_over():
                break
            windows = data.batch(texts, turn.seed, done, settings.batch_size, settings.context + 1)
            flat.grad.zero_()
            with self._autocast():
                value = gpt.loss(model, torch.from_numpy(windows).to(self._device, torch.int64))
            torch.autograd.backward(value)
            torch.nn.utils.clip_grad_norm_([flat], settings.clip)
            optimizer.param_groups[0]["lr"] = learning_rate(settings, self._spec.rounds_max, turn.round, done)
            optimizer.step()
            losses.append(value.detach())
            done += 1
        parameters = flat.cpu().numpy()  # waits for the device
        elapsed_s = turn.clock() - started_at
        tokens = done * settings.batch_size * settings.context
        metrics = {
            "loss": float(torch.stack(losses).mean()),
            "steps": float(done),
            "tokens": float(tokens),
            "tokens_per_s": tokens / elapsed_s if elapsed_s > 0 else 0.0,
        }
        step_s = expected_step_s(done, elapsed_s, local.step_s)
        return Trained(parameters, done * settings.batch_size, _moments_of(optimizer, flat), step_s, metrics)

    def evaluate(self, parameters: "Vector") -> Mapping[str, float]:
        """{"validation_loss": nats per byte} over windows spread evenly over the validation split."""
        self._use_threads()
        model = gpt.Gpt(self._size, self._to_device(parameters))
        settings = self._settings
        windows = data.validation_windows(self._corpus, settings.validation_windows, settings.context + 1)
        total = 0.0
        with torch.no_grad(), self._autocast():
            for start in range(0, len(windows), EVALUATION_BATCH):
                part = torch.from_numpy(windows[start : start + EVALUATION_BATCH]).to(self._device, torch.int64)
                total += float(gpt.loss(model, part)) * len(part)
        return {"validation_loss": total / len(windows)}

    def generate(self, parameters: "Vector", prompt: bytes, count: int, temperature: float, seed: int) -> bytes | str:
        self._use_threads()
        model = gpt.Gpt(self._size, self._to_device(parameters))
        generator = torch.Generator().manual_seed(seed)
        return gpt.generate(model, prompt, count, self._settings.context, temperature, generator)

    def _use_threads(self) -> None:
        # Of the calling thread alone where torch is built with OpenMP, as its wheels are: so every entry sets it.
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)

    def _to_device(self, vector: "Vector") -> Tensor:
        """A copy, never the shared array itself."""
        return torch.from_numpy(vector.copy()).to(self._device)

    def _moments(self, local: Local) -> tuple[Tensor, Tensor, int] | None:
        if local.moments is None:
            return None
        return self._to_device(local.moments.first), self._to_device(local.moments.second), local.moments.step_count

    def _autocast(self) -> "AbstractContextManager[Any]":
        if self._device.type == "cuda":
            return torch.autocast("cuda", torch.bfloat16)
        return nullcontext()


def _optimizer(flat: Tensor, moments: tuple[Tensor, Tensor, int] | None, settings: DilocoSettings) -> torch.optim.AdamW:
    """AdamW over the flat vector: one fused operation, and every tensor is a matrix, so weight decay is for all."""
    optimizer = torch.optim.AdamW(
        [flat],
        lr=torch.inf,  # set before every step
        betas=(settings.beta1, settings.beta2),
        weight_decay=settings.weight_decay,
        fused=True,
    )
    if moments:
        first, second, step_count = moments
        step = torch.tensor(float(step_count), device=flat.device)
        optimizer.state[flat] = {"step": step, "exp_avg": first, "exp_avg_sq": second}
    return optimizer


def _moments_of(optimizer: torch.optim.AdamW, flat: Tensor) -> Moments:
    state = optimizer.state[flat]
    return Moments(int(state["step"]), state["exp_avg"].cpu().numpy(), state["exp_avg_sq"].cpu().numpy())
