"""How often a peer may do something. Pure."""

import math


class TokenBucket:
    """At most `per_s` a second in the long run, `burst` at once."""

    def __init__(self, per_s: float, burst: int) -> None:
        self._per_s, self._burst = per_s, burst
        self._tokens, self._at = float(burst), -math.inf

    def take(self, now: float) -> bool:
        """Whether one more is allowed. Time that goes backward counts as standing still."""
        if not self.has_one(now):
            return False
        self._tokens -= 1
        return True

    def has_one(self, now: float) -> bool:
        """Whether `take` would be allowed."""
        self._fill(now)
        return self._tokens >= 1

    def give_back(self) -> None:
        """What was taken last does not count."""
        self._tokens = min(self._burst, self._tokens + 1)

    def is_full(self, now: float) -> bool:
        """Whether it is as good as a new one."""
        self._fill(now)
        return self._tokens >= self._burst

    def _fill(self, now: float) -> None:
        if now > self._at:
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_s)
            self._at = now
