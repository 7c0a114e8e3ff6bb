"""Where a member stands in its swarm, and from where it goes on after a start."""

import enum
from dataclasses import dataclass

from shoal.transport.port import PeerId

from .agreeing import Agreement
from .evidence import Evidence
from .ledger import Ledger
from .records import Head


class Phase(enum.Enum):
    WAITING = "waiting"  # for members, or for another head
    OPEN = "open"
    APPLYING = "applying"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a member goes on from."""

    head: Head
    contributors: tuple[PeerId, ...]  # to the newest record that took any, up to the head's
    agreement: Agreement
    ledger: Ledger
    start_digest: bytes | None = None  # what round 0's state must have, where the spec fixes that
    evidence: tuple[Evidence, ...] | None = ()  # that the head's state shows; None: it is not this member's to read
