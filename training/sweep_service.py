"""Aggregation on several threads: numpy lets go of the interpreter in every large operation. A shell."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from .rows import PIECE_VALUES, Part, Sweep, one_by_one

# A thread that computes with large arrays lets go of the interpreter, and waits for it afterwards: for PIECE_VALUES the
# waiting takes longer than the computing, and two threads are slower than one.
LONG_PIECE_VALUES: Final = 4 * PIECE_VALUES
PIECES_PER_THREAD: Final = 4  # begun or done and not yet taken: a thread need not wait for whoever takes results


@dataclass(frozen=True, slots=True)
class ThreadedSweep:
    """A Sweep with threads of its own, which live as long as one pass over the values.

    What a piece raises is raised where its result would come; pieces not yet begun are then given up, as they are when
    nobody takes the rest of the results.
    """

    threads: int

    def __call__(self, part: Callable[[int, int], Part], size: int) -> Iterator[Part]:
        waiting: deque[Future[Part]] = deque()
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="shoal-sweep")
        try:
            for start in range(0, size, LONG_PIECE_VALUES):
                if len(waiting) == PIECES_PER_THREAD * self.threads:
                    yield waiting.popleft().result()
                waiting.append(pool.submit(part, start, min(start + LONG_PIECE_VALUES, size)))
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def sweep_of(threads: int) -> Sweep:
    """By so many threads, of which the caller's is one if it is the only one."""
    return ThreadedSweep(threads) if threads > 1 else one_by_one
