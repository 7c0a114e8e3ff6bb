"""AdamW over one flat vector, whose pieces are a model's parameters: the step that both node-run trainers share."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from .checkpoint import Local, Moments
from .diloco_settings import DilocoSettings, learning_rate
from .local_trainer import Trained
from .method import Turn
from .pace import StepRange, expected_step_s, has_time

if TYPE_CHECKING:
    from .tensors import Vector

EPSILON: Final = 1e-8  # torch's default


class Inner:
    """Parameters (n,) on a device with their gradient and AdamW's moments.

    One fused operation steps all of them. Weight decay is for all as well: the built-in models consist of matrices.
    """

    def __init__(self, parameters: "Vector", local: Local, settings: DilocoSettings, device: torch.device) -> None:
        self.flat = on_device(parameters, device)
        self.gradient = torch.zeros_like(self.flat)
        self.flat.grad = self.gradient
        self._settings = settings
        moments = local.moments
        self._step_count = torch.tensor(float(moments.step_count if moments else 0), device=device)
        self._first = on_device(moments.first, device) if moments else torch.zeros_like(self.gradient)
        self._second = on_device(moments.second, device) if moments else torch.zeros_like(self.gradient)

    def step(self, loss: Tensor, lr: float) -> float:
        """One step down `loss`, a scalar computed from the parameters as they are; returns its value."""
        self.gradient.zero_()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_([self.flat], self._settings.clip)
        self._descend(lr)
        return float(loss.detach())  # waits for the device, or the clock would see only how fast work is queued

    @torch.no_grad()
    def _descend(self, lr: float) -> None:
        """As torch.optim.AdamW(fused=True), by its function: the class imports torch's compiler, 1.9 s and 70 MB."""
        adamw(
            [self.flat],
            [self.gradient],
            [self._first],
            [self._second],
            [],
            [self._step_count],
            fused=True,
            amsgrad=False,
            beta1=self._settings.beta1,
            beta2=self._settings.beta2,
            lr=lr,
            weight_decay=self._settings.weight_decay,
            eps=EPSILON,
            maximize=False,
        )

    def result(self) -> "tuple[Vector, Moments]":
        first, second = self._first.cpu().numpy(), self._second.cpu().numpy()
        return self.flat.cpu().numpy(), Moments(int(self._step_count), first, second)


def run_turn(
    inner: Inner,
    loss: Callable[[int], Tensor],
    settings: DilocoSettings,
    rounds_max: int,
    turn: Turn,
    step_s: float | None,
    samples_per_step: int,
) -> Trained:
    """Steps until the turn's deadline or step count, or until its round is over; or exactly as many as it says.

    Args:
        loss: of the batch for the step with this number, from 0.
        step_s: how long a step took in earlier turns.
    """
    steps = settings.step_range() if turn.steps is None else StepRange(turn.steps, turn.steps, turn.steps)
    started_at = turn.clock()
    losses: list[float] = []
    while has_time(steps, len(losses), started_at, turn.clock(), turn.deadline_at, step_s):
        done = len(losses)
        if done and turn.is_over():
            break
        losses.append(inner.step(loss(done), learning_rate(settings, rounds_max, turn.round, done)))
    elapsed_s = turn.clock() - started_at
    parameters, moments = inner.result()
    samples = len(losses) * samples_per_step
    metrics = {"loss": sum(losses) / len(losses), "steps": float(len(losses)), "samples": float(samples)}
    return Trained(parameters, samples, moments, expected_step_s(len(losses), elapsed_s, step_s), metrics)


def on_device(vector: "Vector", device: torch.device) -> Tensor:
    """A copy, never the shared array itself."""
    return torch.as_tensor(vector.copy()).to(device)


def use_threads(threads: int) -> None:
    """Let torch use this many threads.

    A setting of the calling thread alone where torch is built with OpenMP, as its wheels are: so every entry sets it.
    """
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
