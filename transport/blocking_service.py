"""Where what blocks is run, so that nothing stands still meanwhile. A shell."""

from collections.abc import Callable
from typing import Protocol, TypeVar

import trio

T = TypeVar("T")


class RunBlocking(Protocol):
    """Calls a function that blocks, and awaits its result."""

    async def __call__(self, function: Callable[[], T], /, *, limiter: trio.CapacityLimiter | None = None) -> T: ...


async def run_in_thread(function: Callable[[], T], /, *, limiter: trio.CapacityLimiter | None = None) -> T:
    return await trio.to_thread.run_sync(function, limiter=limiter)


async def run_inline(function: Callable[[], T], /, *, limiter: trio.CapacityLimiter | None = None) -> T:
    """For simulations: a virtual clock does not wait for threads."""
    await trio.lowlevel.checkpoint()
    return function()
