"""Stamps: a hybrid logical clock (Kulkarni et al. 2014), packed into 63 bits.

A stamp is 48 bits of wall milliseconds and 15 bits that count within one; it is later than all that this clock has
adopted, and near the wall clock as long as others' are. What has more than 2**15 stamps in a millisecond runs into the
next one, which no comparison notices.

What a malicious peer may send is any stamp. One from the far future is not adopted, so nobody's clock is carried away,
and readers hold its entry back until its time comes (`register.read`). One from the past or the near future wins or
loses against what was written at the same time by those who had not seen it, and no more than that.
"""

from dataclasses import dataclass
from typing import Final

COUNTER_BITS: Final = 15
WALL_MS_MAX: Final = 2**48 - 1
AHEAD_MS_MAX: Final = 60_000  # grown-up clocks differ by less; more lets a liar win for as long as it is


def stamp_of(wall_ms: int) -> int:
    """The first stamp of a millisecond since 1970."""
    return min(max(wall_ms, 0), WALL_MS_MAX) << COUNTER_BITS


def horizon(wall_ms: int) -> int:
    """The last stamp that is believed at this time."""
    return stamp_of(wall_ms + AHEAD_MS_MAX) | (1 << COUNTER_BITS) - 1


@dataclass(slots=True)
class Clock:
    """See the module's text."""

    latest: int = 0  # stamp given or adopted

    def tick(self, wall_ms: int) -> int:
        """A stamp for what is written now: later than all before.

        But for those that this node gave while its own wall clock was far ahead: they are given up, since others would
        hold back all that it writes until their clocks have caught up.
        """
        if self.latest > horizon(wall_ms) + (
            1 << COUNTER_BITS
        ):  # after a stamp at the horizon it runs into the next ms
            self.latest = 0
        self.latest = max(self.latest + 1, stamp_of(wall_ms))
        return self.latest

    def observe(self, stamp: int, wall_ms: int) -> bool:
        """Let what is written from now on be later than `stamp`; False if that lies too far ahead."""
        if stamp > horizon(wall_ms):
            return False
        self.latest = max(self.latest, stamp)
        return True
