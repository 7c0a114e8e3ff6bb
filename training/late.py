"""An inner loop that is loaded when it is first needed, for loading torch takes longer than fetching a state of 100 MB:
until then a member finds the others, gets to their state and applies records without it.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from .checkpoint import Local
from .comparing import Gain
from .local_trainer import Examines, Trained
from .method import Turn
from .tensors import Layout

if TYPE_CHECKING:
    from .tensors import Vector


class LateTrainer:
    """Examines (local_trainer.py). `load` is called for each piece of work: modules are loaded once anyway."""

    def __init__(self, layout: Layout, start: "Callable[[], Vector]", load: Callable[[], Examines]) -> None:
        self._layout = layout
        self._start = start
        self._load = load

    @property
    def layout(self) -> Layout:
        return self._layout

    def start(self) -> "Vector":
        return self._start()

    def train(self, anchor: "Vector", local: Local, turn: Turn) -> Trained:
        return self._load().train(anchor, local, turn)

    def evaluate(self, parameters: "Vector") -> Mapping[str, float]:
        return self._load().evaluate(parameters)

    def gain(self, anchor: "Vector", moved: "Vector", turn: Turn, seed: int) -> Gain:
        return self._load().gain(anchor, moved, turn, seed)

    def generate(self, parameters: "Vector", prompt: bytes, count: int, temperature: float, seed: int) -> bytes | str:
        return self._load().generate(parameters, prompt, count, temperature, seed)
