"""AdamW over one flat vector, whose pieces are a model's parameters: the step that both node-run trainers share."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .checkpoint import Local, Moments
from .diloco import Trained
from .diloco_settings import DilocoSettings, learning_rate
from .method import Turn
from .pace import expected_step_s, has_time

if TYPE_CHECKING:
    from .tensors import Vector


class Inner:
    """Parameters (n,) on a device with their gradient and AdamW's moments.

    One fused operation steps all of them. Weight decay is for all as well: the built-in models consist of matrices.
    """

    def __init__(self, parameters: "Vector", local: Local, settings: DilocoSettings, device: torch.device) -> None:
        self.flat = on_device(parameters, device)
        self.gradient = torch.zeros_like(self.flat)
        self._clip = settings.clip
        self.flat.grad = self.gradient
        self._optimizer = torch.optim.AdamW(
            [self.flat],
            lr=0.0,  # set before every step
            betas=(settings.beta1, settings.beta2),
            weight_decay=settings.weight_decay,
            fused=True,
        )
        if local.moments:
            self._optimizer.state[self.flat] = {
                "step": torch.tensor(float(local.moments.step_count), device=device),
                "exp_avg": on_device(local.moments.first, device),
                "exp_avg_sq": on_device(local.moments.second, device),
            }

    def step(self, loss: Tensor, lr: float) -> float:
        """One step down `loss`, a scalar computed from the parameters as they are; returns its value."""
        self.gradient.zero_()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_([self.flat], self._clip)
        self._optimizer.param_groups[0]["lr"] = lr
        self._optimizer.step()  # pyright: ignore[reportUnknownMemberType]
        return float(loss.detach())  # waits for the device, or the clock would see only how fast work is queued

    def result(self) -> "tuple[Vector, Moments]":
        state: dict[str, Any] = self._optimizer.state[self.flat]
        first, second = state["exp_avg"].cpu().numpy(), state["exp_avg_sq"].cpu().numpy()
        return self.flat.cpu().numpy(), Moments(int(state["step"]), first, second)


def run_turn(
    inner: Inner,
    loss: Callable[[int], Tensor],
    settings: DilocoSettings,
    rounds_max: int,
    turn: Turn,
    step_s: float | None,
    samples_per_step: int,
) -> Trained:
    """Steps until the turn's deadline or step count, or until its round is over.

    Args:
        loss: of the batch for the step with this number, from 0.
        step_s: how long a step took in earlier turns.
    """
    steps = settings.step_range()
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
