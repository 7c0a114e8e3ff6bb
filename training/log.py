"""The contributions of the newest rounds, for members that fell behind; and the checkpoint of the newest; the
store's snapshot, likewise.

Bounded: ROUNDS_SERVED rounds. Only what this member itself applied or took over is in it. The records themselves are
kept for good, on disk.
"""

from shoal.transport.blobs import BlobRef

from .calls import TellHead
from .records import Offered

ROUNDS_SERVED = 4  # disk: so many rounds of payloads; who is further behind takes a checkpoint


class Log:
    """See the module's text."""

    def __init__(self, told: TellHead) -> None:
        self.told = told  # what this member answers when asked where it stands
        self.snapshots: dict[bytes, BlobRef] = {}  # of the store, by digest: the agreed one, and what may be the next
        self._offers: dict[int, dict[bytes, Offered]] = {}  # by round

    def close(self, round: int, offers: tuple[Offered, ...]) -> None:
        """A round took these."""
        self._offers = {kept: value for kept, value in self._offers.items() if kept > round - ROUNDS_SERVED}
        self._offers[round] = {offered.hash: offered for offered in offers}

    def contribution(self, hash: bytes) -> Offered | None:
        for offers in self._offers.values():
            if hash in offers:
                return offers[hash]
        return None
