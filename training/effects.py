"""What the round core wants done. `engine_service.py` carries these out; the core is told their ends."""

from dataclasses import dataclass

from shoal.crdt.dots import Writer
from shoal.transport.port import PeerId

from .agreed import Position, StoreMark
from .agreeing import Keep, Split
from .events import Event
from .ledger import Closed
from .members import Change
from .records import Head, Offered
from .skipping import Proof
from .voting_effects import Save, Send


@dataclass(frozen=True, slots=True)
class Train:
    round: int
    base: Head
    members: tuple[str, ...]  # sorted, oneself among them
    deadline_at: float
    has_contributed: bool  # to the round that made the base


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
class Collect:
    """Ask around for contributions that a record takes and that were never heard of here."""

    record: bytes  # its hash
    missing: tuple[bytes, ...]
    proposer: PeerId | None  # who should have them


@dataclass(frozen=True, slots=True)
class MarkStore:
    """Work out what the store could be compacted to, and keep the snapshot: to be proposed in this round."""

    round: int
    writers: frozenset[Writer]  # who may stand in the frontier


@dataclass(frozen=True, slots=True)
class JudgeStore:
    """Work out the snapshot at the mark's frontier, if the operations are here, and keep it if it is the mark's."""

    round: int
    mark: StoreMark


@dataclass(frozen=True, slots=True)
class AdoptStore:
    """The members agreed on this snapshot: put it in the place of all operations up to its frontier."""

    store: StoreMark | bytes  # or its digest, where more is not known


@dataclass(frozen=True, slots=True)
class SpreadWords:
    """To all connected members."""

    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class ApplyRecord:
    closed: Closed
    offers: tuple[Offered, ...]  # sorted by member and round


@dataclass(frozen=True, slots=True)
class AskLog:
    """For the records from this round on."""

    round: int
    holders: tuple[PeerId, ...]


@dataclass(frozen=True, slots=True)
class AskProof:
    """For the way from this record to one near the newest."""

    start: Position  # what is known
    trusted: bytes  # the record; the position's, or one that an invite names
    holders: tuple[PeerId, ...]


@dataclass(frozen=True, slots=True)
class KeepLeap:
    """Have this on disk before any effect that follows it is carried out."""

    proof: Proof
    position: Position


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a damaged log has lost can do no harm any more."""


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
    | Collect
    | MarkStore
    | JudgeStore
    | AdoptStore
    | Save
    | Keep
    | Split
    | Send
    | SpreadWords
    | ApplyRecord
    | AskLog
    | AskProof
    | KeepLeap
    | Recovered
    | Resync
    | Observe
)
