"""Who should go, by what audits of its work have shown here.

One audit that fails may have met what nobody thought of: a flipped bit, a machine that computes as no other does. Who
fails a second one is not believed any more.
"""

from collections import Counter
from typing import Final

from shoal.transport.port import PeerId

FAILED_MAX: Final = 1  # audits of one member


class Opinions:
    """One member's, of the others."""

    def __init__(self) -> None:
        self._failed: Counter[PeerId] = Counter()

    def judge(self, member: PeerId, opinion: float) -> bool:
        """Take in an opinion, in [0, 1], on a contribution of `member`. Whether it should go."""
        self._failed[member] += opinion < 1.0
        return opinion < 1.0 and self._failed[member] > FAILED_MAX
