"""What a store says of itself to people."""

from dataclasses import dataclass

from shoal.transport.port import PeerId

from .exchange import NeedsSnapshot, Outcome
from .guard import Standing


@dataclass(frozen=True, slots=True)
class Exchanged:
    """The last exchange, for people."""

    peer: PeerId
    at: float  # of trio's clock
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Status:
    """For people."""

    writers: int
    operations: int  # that count
    forked: tuple[PeerId, ...]
    standing: Standing
    last_exchange: Exchanged | None
    round_trips: int  # of all exchanges that this node asked for
    needs: tuple[NeedsSnapshot, ...]
    problems: tuple[str, ...]
