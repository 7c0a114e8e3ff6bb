"""The newest records of a swarm, with their contributions, for members that fell behind; and the checkpoint of the
newest.

Bounded: RECORDS_KEPT rounds. Only what this member itself applied or took over is in it.
"""

from .records import Offered, Proposed, TellHead

RECORDS_KEPT = 4  # disk: so many rounds of payloads; who is further behind takes a checkpoint


class Log:
    """See the module's text."""

    def __init__(self, told: TellHead) -> None:
        self.told = told  # what this member answers when asked where it stands
        self._closed: dict[int, tuple[Proposed, dict[bytes, Offered]]] = {}

    def close(self, proposed: Proposed, offers: tuple[Offered, ...]) -> None:
        """A round has ended so. What follows on another branch is forgotten."""
        round = proposed.record.round
        self._closed = {kept: value for kept, value in self._closed.items() if round - RECORDS_KEPT < kept < round}
        self._closed[round] = proposed, {offered.hash: offered for offered in offers}

    def proposal(self, round: int) -> Proposed | None:
        closed = self._closed.get(round)
        return None if closed is None else closed[0]

    def contribution(self, hash: bytes) -> Offered | None:
        for _, offers in self._closed.values():
            if hash in offers:
                return offers[hash]
        return None
