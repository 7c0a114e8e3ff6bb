"""How much a relay passes on in a second, so that it, and not the line, decides whose turn it is.

A home's line is full when packets queue before it, in a router that knows nothing of swarms; then connections share it
as TCP does, and a swarm gets as much as it has circuits. A relay notices by what it does not get rid of: less goes
through than it would pass on, and pieces wait for their connections to send the ones before. Then it passes on less
than just went through, so that the queue comes to stand here, and ever more until that happens again. A line is used a
little less than it could be.

It cannot tell its own line from those of all who receive: where theirs are the narrow ones, it loses the same little.
And only where several groups want a share: one alone has the whole line.

A state machine without I/O. What a malicious peer may do: take what it is sent slowly, or never, in many circuits. What
it achieves: nothing while anybody else is bounded by the rate, for then it rises.
"""

import math
from typing import Final

LOOK_S: Final = 0.5  # between two looks; shorter: what is seen is chance
FULL: Final = 0.3  # the part of pieces that had to wait for a connection at which something narrower than we is full
USED: Final = 0.96  # of the rate that went through at which it is what bounds; less: it rises beyond the line
LESS: Final = 0.85  # of what went through; more: the queue takes longer to go
CLEAR: Final = 0.15  # the same part at which nothing is
MORE: Final = 1.04  # at each look; more: the queue is back sooner
A_LITTLE_MORE: Final = 1.01  # where it may be full already; none: who takes slowly would keep it there
WAIT_S: Final = 1.0  # for a queue to go before anything else is done
UNFELT: Final = 2.0  # a rate above so many times what goes through bounds nothing
MIN_BYTES_PER_S: Final = 32_000.0


class LineRate:
    """Args:
    bytes_per_s_max: that the owner allows.
    """

    def __init__(self, bytes_per_s_max: float = math.inf) -> None:
        self._most = bytes_per_s_max
        self._found = math.inf  # what the line takes
        self._passed_per_s = 0.0  # lately
        self._lowered_at = -math.inf

    @property
    def bytes_per_s(self) -> float:
        return min(self._most, self._found)

    def look(self, now: float, passed_bytes: int, held_back: float, busy_count: int) -> None:
        """As it was since the last look, LOOK_S ago.

        Args:
            held_back: the part of pieces, from 0 to 1, that had to wait for their connections.
            busy_count: of groups that want a share.
        """
        passed_per_s = passed_bytes / LOOK_S
        self._passed_per_s = (self._passed_per_s + passed_per_s) / 2
        if busy_count < 2:
            self._found = math.inf
        elif now - self._lowered_at < WAIT_S:
            pass
        elif passed_per_s >= USED * self.bytes_per_s:
            self._found *= MORE if held_back < CLEAR else A_LITTLE_MORE
        elif held_back > FULL:
            self._lowered_at = now
            self._found = max(MIN_BYTES_PER_S, LESS * min(self._found, self._passed_per_s))
        elif self._found > UNFELT * self._passed_per_s:
            self._found = math.inf
