"""Memory for large vectors that is used again, because fresh pages are dear.

A model's next state needs two vectors while the current one is still there, and so it goes every round. Fresh ones cost
0.02 s per 100 MB, ten times as much in a virtual machine whose host takes back what is free: as long as the arithmetic
on them or longer. What is kept costs 4 bytes per element while nobody uses it.
"""

import weakref
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .tensors import Vector


class Spare:
    """The memory of up to `kept_max` vectors that nobody refers to any more. May be used from any thread."""

    def __init__(self, kept_max: int) -> None:
        self._free: deque[Vector] = deque(maxlen=kept_max)  # appending to a full one lets the oldest go

    def vector(self, count: int) -> "Vector":
        """(count,) with any values. Its memory is taken back when it and all views of it are gone."""
        import numpy as np

        try:
            memory = self._free.pop()
        except IndexError:
            memory = np.empty(count, np.float32)
        if len(memory) != count:
            memory = np.empty(count, np.float32)
        vector = np.frombuffer(memory.data, np.float32)  # views refer to it, not to `memory`: it is no array's view
        weakref.finalize(vector, self._free.append, memory).atexit = False
        return vector
