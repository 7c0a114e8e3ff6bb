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
NEAR: Final = 0.93  # of what went through when the line was full last; more: it is full again sooner
BEYOND: Final = 1.07  # of the same; then the line takes more than it did
A_LITTLE_MORE: Final = 1.01  # where it may be full; none: who takes slowly would keep it there
WAIT_S: Final = 1.0  # for a queue to go before anything else is done
LEAST: Final = 0.4  # of the most that went through not long ago; less: a pause of this machine is taken for its line
FORGOTTEN: Final = 0.99  # of that at each look: half of it in 35 s
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
        self._most_passed_per_s = 0.0  # not long ago
        self._full_at = math.inf  # what went through when it was lowered last
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
        self._most_passed_per_s = max(passed_per_s, FORGOTTEN * self._most_passed_per_s)
        if busy_count < 2:
            self._found = math.inf
        elif now - self._lowered_at < WAIT_S:
            pass
        elif passed_per_s >= USED * self.bytes_per_s:
            is_near = NEAR <= self._found / self._full_at <= BEYOND
            self._found *= A_LITTLE_MORE if is_near or held_back > CLEAR else MORE
        elif held_back > FULL:
            self._lowered_at = now
            self._full_at = self._passed_per_s
            lower = max(LESS * min(self._found, self._passed_per_s), LEAST * self._most_passed_per_s)
            self._found = max(MIN_BYTES_PER_S, min(self._found, lower))
        elif self._found > UNFELT * self._passed_per_s:
            self._found = math.inf
