"""What DiLoCo asks of an inner loop: the built-in one for GPTs (trainer.py) or a person's own (loop.py, entry.py)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from .checkpoint import Local, Moments
from .comparing import Gain
from .method import Turn
from .tensors import Layout

if TYPE_CHECKING:
    from .tensors import Vector


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """What an inner loop comes back with. `samples` 0: nothing to contribute this time."""

    parameters: "Vector"  # (n,); where there are samples they are the method's from now on, to be written over
    samples: int  # windows, or whatever the swarm counts
    moments: Moments | None
    step_s: float | None  # how long an inner step takes here
    metrics: Mapping[str, float]


class LocalTrainer(Protocol):
    @property
    def layout(self) -> Layout: ...

    def start(self) -> "Vector":
        """(n,) The first parameters."""
        ...

    def train(self, anchor: "Vector", local: Local, turn: Turn) -> Trained:
        """Train from `anchor`, which stays as it is while this runs, until the turn's deadline or step count.

        It is the shared parameters, or what this member has made of them already.
        """
        ...

    def evaluate(self, parameters: "Vector") -> Mapping[str, float]: ...

    def generate(self, parameters: "Vector", prompt: bytes, count: int, temperature: float, seed: int) -> bytes | str:
        """Bytes that continue `prompt`, or why this model writes none."""
        ...


@runtime_checkable
class Examines(LocalTrainer, Protocol):
    """One whose data are the same everywhere."""

    def gain(self, anchor: "Vector", moved: "Vector", turn: Turn, seed: int) -> Gain:
        """By how much the loss is lower with `moved`, (n,), than with `anchor`, (n,): on some of what the turn, of
        `turn.steps` steps, had to train on; and on as many windows drawn with `seed`.
        """
        ...
