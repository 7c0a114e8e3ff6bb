"""When a member says again what it said last: what was sent may be lost. No I/O.

Ever more rarely, for who is cut off must not shout; and soon after something new was said, or others may have come to
where they have to hear it.
"""

import math

from .voting_effects import GROWTH_MAX


class Repeating:
    """Of what one member has to say at present."""

    def __init__(self) -> None:
        self._repeats = 0
        self._is_unsent = False
        self.at = math.inf  # when it is due

    def said(self) -> None:
        """Something new; its repetition is due from when it is sent on."""
        self._repeats, self._is_unsent, self.at = 0, True, -math.inf

    def hurry(self, now: float, after_s: float) -> None:
        """Others may be here soon."""
        self._repeats, self._is_unsent, self.at = 0, False, now + after_s

    def is_due(self, now: float, after_s: float) -> bool:
        """Whether to say it again; `after_s` is the first pause."""
        if now < self.at:
            return False
        if self._is_unsent:
            self.hurry(now, after_s)
            return False
        self._repeats += 1
        self.at = now + after_s * min(GROWTH_MAX, 2**self._repeats)
        return True
