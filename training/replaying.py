"""Which way a member goes to a head that others tell: by what was made since its own state, or by a checkpoint. No I/O.

Both end at the same digest, or lead nowhere; what is estimated here costs time if it is wrong, and no more. A holder
may tell rows that it made up, or tell them slowly: then the replay is over its time, or ends at another digest, and the
checkpoint is fetched after all.
"""

import enum
from dataclasses import dataclass
from typing import Final

from .history import Replays
from .ledger import RECORDS_KEPT, Ledger
from .records import Head

BYTES_PER_S: Final = 2.5e6  # where nothing has been fetched yet: 20 Mbit/s
CONTRIBUTION_BYTES: Final = 320  # of an envelope where none is known; with 64 bytes inside it has 266
VERIFY_S: Final = 1e-4  # of one signature, and what is looked at beside it; half of that was measured
OVER_TIME: Final = 4.0  # times the estimate, and so many seconds beside it, and a replay is given up
OVER_TIME_S: Final = 30.0


class Way(enum.StrEnum):
    """How a member gets to a state that others have."""

    LOG = "log"
    CHECKPOINT = "checkpoint"


@dataclass(frozen=True, slots=True)
class Estimate:
    """Of both ways. What there is to fetch is at most what another says of its size; nothing here is trusted."""

    contributions: int
    log_bytes: int
    log_s: float
    checkpoint_bytes: int
    checkpoint_s: float

    @property
    def ways(self) -> tuple[Way, Way]:
        """The faster one first; of two equal ones the checkpoint, whose size is known."""
        both = Way.LOG, Way.CHECKPOINT
        return both if self.log_s < self.checkpoint_s else (Way.CHECKPOINT, Way.LOG)

    @property
    def patience_s(self) -> float:
        """After which a replay is given up."""
        return OVER_TIME * self.log_s + OVER_TIME_S


def estimate(
    method: Replays, contributions: int, contribution_bytes: int, checkpoint_bytes: int, bytes_per_s: float
) -> Estimate:
    """What so many contributions of such envelopes cost, against a checkpoint, at a fetch's rate (0: not known)."""
    rate, log_bytes = bytes_per_s or BYTES_PER_S, contributions * contribution_bytes
    log_s = log_bytes / rate + contributions * VERIFY_S + method.replay_s(contributions)
    return Estimate(contributions, log_bytes, log_s, checkpoint_bytes, checkpoint_bytes / rate)


def contributors(ledger: Ledger, seats: int) -> float:
    """How many contributions a round takes, by the rounds at hand; else as many as there are members."""
    newest = range(ledger.newest - RECORDS_KEPT + 1, ledger.newest + 1)
    known = [closed for round in newest if (closed := ledger.closed(round)) is not None]
    return sum(len(closed.record.taken) for closed in known) / len(known) if known else float(seats)


def why_not(own: Head, head: Head, ledger: Ledger, start_digest: bytes | None) -> str | None:
    """Why nothing leads from the state at `own` to that at `head`; None: what was made between may."""
    if head.round <= own.round:
        return "it is of this member's own round"
    certified = ledger.digest_at(own.round) or (start_digest if own.round == 0 else None)
    return None if certified in (None, own.digest) else "this member's own state is not the others'"
