"""How long the event loop was away from its work: the longest stall, since the start and of late.

A stall is a step of a task that computes or blocks, or a wake-up that came late because another thread held the
interpreter. trio tells both: the time from the end of one wait for the network to the beginning of the next, and by
how much a wait with a timeout overran it. Two clock reads per turn of the loop; a task that merely sleeps would see a
stall only when it meets its own alarm.
"""

import time
from collections import deque
from collections.abc import Callable

from trio.abc import Instrument

RECENT_S = 60.0
STALLS_KEPT_MAX = 64  # of the last minute; shorter ones make room first


class StallMeter(Instrument):
    """Give it to `trio.run(instruments=[...])`.

    Attributes:
        longest_s: since the start.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._mark = clock()
        self._timeout = 0.0
        self._recent: deque[tuple[float, float]] = (
            deque()
        )  # (when, seconds), seconds falling: only candidates for the maximum
        self.longest_s = 0.0

    def before_io_wait(self, timeout: float) -> None:
        now = self._clock()
        self._note(now, now - self._mark)
        self._mark, self._timeout = now, timeout

    def after_io_wait(self, timeout: float) -> None:
        now = self._clock()
        self._note(now, now - self._mark - self._timeout)
        self._mark = now

    def recent_s(self) -> float:
        """The longest of the last minute."""
        self._forget(self._clock())
        return self._recent[0][1] if self._recent else 0.0

    def _note(self, now: float, stall_s: float) -> None:
        if stall_s <= 0.0005:  # half a millisecond is the loop's ordinary work
            return
        self.longest_s = max(self.longest_s, stall_s)
        self._forget(now)
        while self._recent and self._recent[-1][1] <= stall_s:
            self._recent.pop()
        if len(self._recent) < STALLS_KEPT_MAX:
            self._recent.append((now, stall_s))

    def _forget(self, now: float) -> None:
        while self._recent and self._recent[0][0] < now - RECENT_S:
            self._recent.popleft()
