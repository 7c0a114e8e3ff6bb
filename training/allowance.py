"""How many signatures one peer may have this node verify: a token bucket.

The transport bounds requests per peer far higher than Ed25519 can be verified; without this, one peer's forged
envelopes could keep a core busy. An honest member sends a handful of envelopes a round.
"""

ENVELOPES_PER_S = 100.0  # 1% of a core with Ed25519 at 0.1 ms
ENVELOPES_BURST = 2_000.0  # a newcomer's first contributions of everybody


class Allowance:
    """One peer's."""

    def __init__(self, now: float) -> None:
        self._tokens = ENVELOPES_BURST
        self._at = now

    def takes(self, now: float, count: int = 1) -> bool:
        """Whether so many more are allowed now; then they are counted."""
        self._tokens = min(ENVELOPES_BURST, self._tokens + (now - self._at) * ENVELOPES_PER_S)
        self._at = now
        if self._tokens < count:
            return False
        self._tokens -= count
        return True
