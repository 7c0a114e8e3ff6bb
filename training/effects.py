"""What the round core wants done. `service.py` carries these out; the core is told their ends."""

from dataclasses import dataclass

from shoal.transport.port import PeerId

from .events import Event
from .records import Head, Offered, Proposed, Record


@dataclass(frozen=True, slots=True)
class Train:
    round: int
    members: tuple[str, ...]  # sorted, oneself among them
    deadline_at: float


@dataclass(frozen=True, slots=True)
class FetchPayload:
    offered: Offered


@dataclass(frozen=True, slots=True)
class CheckPayload:
    offered: Offered


@dataclass(frozen=True, slots=True)
class AnnounceHeld:
    """Tell the others what is held here."""


@dataclass(frozen=True, slots=True)
class ProposeRecord:
    record: Record


@dataclass(frozen=True, slots=True)
class Collect:
    """Ask around for contributions of a proposed record that were never heard of here."""

    proposed: Proposed
    missing: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class ApplyRecord:
    proposed: Proposed
    offers: tuple[Offered, ...]  # sorted by member


@dataclass(frozen=True, slots=True)
class AskRecords:
    """Catch up by one record."""

    round: int
    holders: tuple[PeerId, ...]


@dataclass(frozen=True, slots=True)
class Resync:
    """Go over to this head, by its checkpoint."""

    head: Head
    holders: tuple[PeerId, ...]


@dataclass(frozen=True, slots=True)
class Observe:
    event: Event


Effect = (
    Train
    | FetchPayload
    | CheckPayload
    | AnnounceHeld
    | ProposeRecord
    | Collect
    | ApplyRecord
    | AskRecords
    | Resync
    | Observe
)
