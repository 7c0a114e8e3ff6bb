"""How long to wait for a peer before asking another one as well: from how long answers have taken so far.

The estimate is that of TCP's retransmission timer (RFC 6298): a smoothed mean and four times the smoothed deviation.
A peer silent for longer is not given up; it just no longer holds up the others. One stopped peer in three then costs a
lookup that knows what it is looking for a few tens of milliseconds, not a timeout. Giving up takes GIVE_UP_S_MIN at
least: after a thousand answers from next door, one from another continent must still be waited for, or it could never
teach that there are such.

What a malicious peer may do: answer late. What it achieves: at most SILENCE_S_MAX per answer, once the others' answers
are as late.
"""

from typing import Final

SILENCE_S_MIN: Final = 0.020  # shorter: a busy loop of ours or theirs counts as silence, and every peer is asked twice
SILENCE_S_MAX: Final = 1.0
GIVE_UP_FACTOR: Final = 4.0
GIVE_UP_S_MIN: Final = 1.0
FIRST_S: Final = 0.5  # before the first answer: a handshake around the world


class Patience:
    """Shared by all lookups of a node."""

    def __init__(self) -> None:
        self._mean_s: float | None = None
        self._deviation_s = 0.0

    def answered(self, after_s: float) -> None:
        """A peer answered so long after it was asked."""
        after_s = min(max(after_s, 0.0), SILENCE_S_MAX)
        if self._mean_s is None:
            self._mean_s, self._deviation_s = after_s, after_s / 2
            return
        self._deviation_s += (abs(after_s - self._mean_s) - self._deviation_s) / 4
        self._mean_s += (after_s - self._mean_s) / 8

    @property
    def silence_s(self) -> float:
        """A peer that has not answered for so long counts as silent."""
        if self._mean_s is None:
            return FIRST_S
        return min(SILENCE_S_MAX, max(SILENCE_S_MIN, self._mean_s + 4 * self._deviation_s))

    @property
    def give_up_s(self) -> float:
        """A peer that has not answered for so long is no longer waited for."""
        return max(GIVE_UP_S_MIN, GIVE_UP_FACTOR * self.silence_s)
