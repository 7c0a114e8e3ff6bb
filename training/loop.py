"""An inner loop that a person's own script runs: any torch model, any optimizer, DiLoCo around it.

Two threads meet here. The engine's worker calls `LoopTrainer.train` with the anchor of a turn; the script, in its own
thread, calls `Outer.step()` after each of its optimizer's steps. When the turn has had its steps, the script's thread
hands over its parameters and waits for the next anchor. Neither thread touches the other's tensors: numpy copies cross.

Shared are the model's float32 parameters that require gradients. The optimizer's moments stay in the script, as DiLoCo
wants it; buffers (such as running means) stay local too.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

import torch
from torch import nn

from .checkpoint import Local
from .diloco_settings import DilocoSettings
from .local_trainer import Trained
from .method import Turn
from .pace import expected_step_s, has_time
from .tensors import Layout, TensorShape, layout_digest, views

if TYPE_CHECKING:
    from .tensors import Vector

CUSTOM_PREFIX = "custom:"  # then the layout's digest in hex
WAIT_S = 1.0  # on Windows Ctrl-C reaches a thread only between waits
POLL_S = 0.1  # how soon the engine's thread notices that its round closed while the script is busy


class SwarmEnded(Exception):
    """The swarm is over for this script: finished, left, or the node stopped. Its text says which."""


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    """One turn, given to the script."""

    anchor: "Vector"
    turn: Turn
    step_s: float | None


class LoopTrainer:
    """The engine's side: a LocalTrainer (local_trainer.py)."""

    def __init__(
        self,
        layout: Layout,
        first: "Vector",
        settings: DilocoSettings,
        evaluate: Callable[["Vector"], Mapping[str, float]] | None = None,
    ) -> None:
        self._layout = layout
        self._first = first
        self._settings = settings
        self._evaluate = evaluate
        self._changed = threading.Condition()
        self._task: _Task | None = None  # what the script works on, or should
        self._result: Trained | None = None  # of that task
        self._ended: str | None = None

    @property
    def layout(self) -> Layout:
        return self._layout

    @property
    def settings(self) -> DilocoSettings:
        return self._settings

    def start(self) -> "Vector":
        return self._first

    def train(self, anchor: "Vector", local: Local, turn: Turn) -> Trained:
        """Have the script do the turn. No samples if it did not come back before the round was over."""
        with self._changed:
            self._task, self._result = _Task(anchor, turn, local.step_s), None
            self._changed.notify_all()
            while self._result is None and self._ended is None and not turn.is_over():
                self._changed.wait(POLL_S)
            result, self._task, self._result = self._result, None, None
        return result or Trained(anchor, 0, None, local.step_s, {})

    def evaluate(self, parameters: "Vector") -> Mapping[str, float]:
        return self._evaluate(parameters) if self._evaluate else {}

    def generate(self, parameters: "Vector", prompt: bytes, count: int, temperature: float, seed: int) -> bytes | str:
        return "this swarm trains a model of your own script: only that script can make it write"

    def end(self, reason: str) -> None:
        """Let go of both threads; `Outer.step` raises SwarmEnded(reason) from now on."""
        with self._changed:
            self._ended = self._ended or reason
            self._changed.notify_all()

    def next_task(self) -> _Task:
        """For the script's side: wait for the next turn.

        Raises:
            SwarmEnded: there will be none.
        """
        with self._changed:
            while self._task is None or self._result is not None:
                if self._ended is not None:
                    raise SwarmEnded(self._ended)
                self._changed.wait(WAIT_S)
            return self._task

    def hand_over(self, task: _Task, result: Trained) -> None:
        """For the script's side: the task is done. Too late a result is dropped."""
        with self._changed:
            if self._task is task:
                self._result = result
                self._changed.notify_all()


class Outer:
    """The script's side: `with swarm.diloco(model, optimizer) as outer`, and `outer.step()` after `optimizer.step()`.

    On entering, the model's parameters become the swarm's. `step` returns at once but at the end of a turn, when it
    waits for the swarm and puts the parameters of the next into the model, in place: the swarm's new ones, or, while
    rounds cannot be closed, those it had.
    """

    def __init__(self, trainer: LoopTrainer, model: nn.Module) -> None:
        self._trainer = trainer
        self._model = model
        self._task: _Task | None = None
        self._started_at = 0.0
        self._steps = 0
        self._samples = 0

    @property
    def round(self) -> int:
        """The round being worked on, from 1."""
        return self._task.turn.round if self._task else 0

    def __enter__(self) -> "Outer":
        self._begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._trainer.end("the script left its training loop")

    def step(self, samples: int = 1) -> None:
        """Say that an inner step over `samples` samples is done.

        Raises:
            SwarmEnded: there are no more rounds; the model holds what it had after its last step.
        """
        task = self._task
        if task is None:
            raise RuntimeError("call outer.step() inside of the with block")
        self._steps += 1
        self._samples += samples
        turn, steps = task.turn, self._trainer.settings.step_range()
        now = turn.clock()
        goes_on = has_time(steps, self._steps, self._started_at, now, turn.deadline_at, task.step_s)
        if goes_on and not turn.is_over():
            return
        step_s = expected_step_s(self._steps, now - self._started_at, task.step_s)
        metrics = {"steps": float(self._steps), "samples": float(self._samples)}
        self._trainer.hand_over(task, Trained(parameters_of(self._model), self._samples, None, step_s, metrics))
        self._begin()

    def end(self, reason: str) -> None:
        """From any thread: there will be no more rounds. `step` then raises SwarmEnded(reason)."""
        self._trainer.end(reason)

    def _begin(self) -> None:
        task = self._trainer.next_task()
        place(task.anchor, self._trainer.layout, self._model)
        self._task, self._steps, self._samples, self._started_at = task, 0, 0, task.turn.clock()


def model_layout(model: nn.Module) -> Layout | str:
    """The layout of what a swarm would share of `model`, or why it cannot."""
    shared = _shared(model)
    if not shared:
        return "the model has no parameters that require gradients"
    for name, parameter in shared.items():
        if parameter.dtype != torch.float32:
            return f"parameter {name} is {parameter.dtype}: keep parameters in float32 and use torch.autocast"
    return tuple(TensorShape(name, tuple(parameter.shape)) for name, parameter in shared.items())


def custom_name(layout: Layout) -> str:
    """The spec's name for a model that scripts bring: any model with these tensors fits."""
    return CUSTOM_PREFIX + layout_digest(layout).hex()


def parameters_of(model: nn.Module) -> "Vector":
    """(n,) A copy of the shared parameters, on the CPU."""
    flat = torch.cat([parameter.detach().flatten().cpu() for parameter in _shared(model).values()])
    return flat.numpy()


@torch.no_grad()
def place(parameters: "Vector", layout: Layout, model: nn.Module) -> None:
    """Copy `parameters` (n,) into the model, in place, so that optimizers keep their hold of its tensors."""
    shared = _shared(model)
    for name, values in views(layout, parameters).items():
        shared[name].copy_(torch.as_tensor(values.copy()))


def _shared(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
