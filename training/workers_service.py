"""Where a method's functions run, so that the network never waits for them. A shell."""

import time
from collections.abc import Callable
from typing import Protocol, TypeVar

import trio

Result = TypeVar("Result")

THREADS_MAX = 3  # for all but training: checks, the state's own work, audits


class Workers(Protocol):
    """Where what blocks runs. Tests on a virtual clock supply their own."""

    def clock(self) -> float:
        """Seconds, to be read from any thread."""
        ...

    async def train(self, call: Callable[[], Result]) -> Result:
        """Run a turn's work, one at a time."""
        ...

    async def run(self, call: Callable[[], Result]) -> Result:
        """Run anything else that takes longer than a few milliseconds."""
        ...


class ThreadWorkers:
    """Threads. What is running when its caller is cancelled is abandoned: a node that stops does not wait for a
    step to end.
    """

    def __init__(self) -> None:
        self._training = trio.CapacityLimiter(1)
        self._others = trio.CapacityLimiter(THREADS_MAX)

    def clock(self) -> float:
        return time.monotonic()

    async def train(self, call: Callable[[], Result]) -> Result:
        return await trio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=self._training)

    async def run(self, call: Callable[[], Result]) -> Result:
        return await trio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=self._others)
