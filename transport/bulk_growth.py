"""How many bulk connections to one peer pay. A state machine without I/O.

One is enough where the processor is the limit. A long line that loses packets, or whose round trip is longer than what
the system buffers, carries more by several: so while there is more to fetch than comes, twice as many are tried, and
stay if the rate grows by GAIN. Those that brought nothing are closed, and tried again after a pause that doubles.
"""

import math
from dataclasses import dataclass
from typing import Final

CONNECTIONS_MAX: Final = 4
GAIN: Final = 1.15
WARMING: Final = 2  # measurements after a change that do not count: a fresh connection begins slowly
PAUSE_S: Final = 15.0
PAUSE_S_MAX: Final = 600.0


@dataclass(slots=True)
class Growth:
    """For one peer. Rates are told every quarter of a second or so."""

    wanted: int = 1  # connections
    _before: float | None = None  # bytes/s without those on trial
    _proven: int = 1  # connections, without those
    _warming: int = WARMING
    _pause_s: float = PAUSE_S
    _again_at: float = -math.inf

    def measured(self, bytes_per_s: float, now: float) -> None:
        """What came while there was more to fetch all the time."""
        if self._warming:
            self._warming -= 1
        elif self._before is None or bytes_per_s >= GAIN * self._before:
            self._pause_s = self._pause_s if self._before is None else PAUSE_S
            self._before, self._proven = None, self.wanted
            if self.wanted < CONNECTIONS_MAX and now >= self._again_at:
                self._before, self._warming = bytes_per_s, WARMING
                self.wanted = min(2 * self.wanted, CONNECTIONS_MAX)
        else:
            self._before, self.wanted = None, self._proven
            self._again_at = now + self._pause_s
            self._pause_s = min(2 * self._pause_s, PAUSE_S_MAX)

    def broke(self, standing: int) -> None:
        """A connection is gone that was not to go: so many are left."""
        self._before, self._warming = None, WARMING
        self.wanted = max(1, min(self.wanted, standing))
