"""Who should go, by what audits of its work have shown here.

One audit that fails may have met what nobody thought of: a flipped bit, a machine that computes as no other does. Who
fails a second one of its last hundred is not believed any more.
"""

from collections import defaultdict, deque
from typing import Final

from shoal.transport.port import PeerId

FAILED_MAX: Final = 1  # audits of one member
REMEMBERED: Final = 100  # of one member; 34% of its contributions are audited at 5% of 8 slopes


class Opinions:
    """One member's, of the others."""

    def __init__(self) -> None:
        self._have_failed: defaultdict[PeerId, deque[bool]] = defaultdict(lambda: deque(maxlen=REMEMBERED))

    def judge(self, member: PeerId, opinion: float) -> bool:
        """Take in an opinion, in [0, 1], on a contribution of `member`. Whether it should go."""
        have_failed = self._have_failed[member]
        have_failed.append(opinion < 1.0)
        return have_failed[-1] and sum(have_failed) > FAILED_MAX
