"""An evaluator that is loaded when it is first needed, and asked by one thread at a time. A shell.

Until then a member finds the others, gets to their state and applies records: loading torch and a model takes seconds.
A turn's losses and an evaluation for people run in two threads, and the model's parameters can be at one point only.
"""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from .room_service import room
from .tensors import Layout, element_count

if TYPE_CHECKING:
    import numpy as np

    from .tensors import Vector


class Loaded(Protocol):
    """An Evaluator (zeroth.py) whose layout and start are known without it."""

    def losses(self, parameters: "Vector", key: bytes, scale: "np.float32", seed: int) -> tuple[float, float]: ...

    def evaluate(self, parameters: "Vector") -> Mapping[str, float]: ...

    def generate(
        self, parameters: "Vector", prompt: bytes, count: int, temperature: float, seed: int
    ) -> bytes | str: ...


class LateEvaluator:
    """An Evaluator (zeroth.py)."""

    def __init__(
        self, layout: Layout, start: "Callable[[Vector], None]", load: Callable[[], Loaded], folder: Path
    ) -> None:
        """`start` writes the first values; `folder` is for vectors that are large."""
        self._layout = layout
        self._start = start
        self._folder = folder
        self._load = load
        self._loaded: Loaded | None = None
        self._lock = threading.Lock()

    @property
    def layout(self) -> Layout:
        return self._layout

    def start(self) -> "Vector":
        values = self.room()
        self._start(values)
        return values

    def room(self) -> "Vector":
        return room(element_count(self._layout), self._folder)

    def losses(self, parameters: "Vector", key: bytes, scale: "np.float32", seed: int) -> tuple[float, float]:
        with self._lock:
            return self._evaluator().losses(parameters, key, scale, seed)

    def evaluate(self, parameters: "Vector") -> Mapping[str, float]:
        with self._lock:
            return self._evaluator().evaluate(parameters)

    def generate(self, parameters: "Vector", prompt: bytes, count: int, temperature: float, seed: int) -> bytes | str:
        with self._lock:
            return self._evaluator().generate(parameters, prompt, count, temperature, seed)

    def _evaluator(self) -> Loaded:
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded
