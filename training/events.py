"""What a swarm's engine tells its owner: small facts, in the order they happened, ready to be written as JSON."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from shoal.transport.port import PeerId

from .replaying import Way


def _as_json(event: Any) -> dict[str, Any]:
    """The event's fields under their names, and its kind under "event"."""
    return {"event": type(event).__name__, **{field.name: getattr(event, field.name) for field in fields(event)}}


@dataclass(frozen=True, slots=True)
class RoundStarted:
    round: int
    as_json = _as_json


@dataclass(frozen=True, slots=True)
class LocalDone:
    """This member's own work of a round is done and offered."""

    round: int
    samples: int
    seconds: float
    bytes: int  # of the contribution, its payload included
    metrics: Mapping[str, float]
    as_json = _as_json


@dataclass(frozen=True, slots=True)
class RoundClosed:
    """The round's set is applied."""

    round: int
    contributors: tuple[str, ...]
    state_digest: str  # hex; empty for methods without a common state
    seconds: float  # since the round started here
    phases: Mapping[str, float]  # seconds: {"train", "exchange", "apply"}
    bytes_sent: int  # by the whole node, since the round before closed
    bytes_received: int
    own_taken: bool
    attempt: int  # of agreement in which it was decided; 0 is the first
    proposer: str
    weights: Mapping[PeerId, float] = field(default_factory=dict[PeerId, float])  # by contributor: its part of all
    as_json = _as_json


@dataclass(frozen=True, slots=True)
class AttemptBegan:
    """An attempt to agree on a round led nowhere, and the next begins."""

    round: int
    attempt: int
    proposer: str
    reason: str
    as_json = _as_json


@dataclass(frozen=True, slots=True)
class MembersChanged:
    """A record changed who is a member, who votes or who is waited for."""

    round: int
    changes: tuple[str, ...]  # for people
    votes: int  # of all together
    as_json = _as_json


@dataclass(frozen=True, slots=True)
class Evaluated:
    """Figures about the state after `round`."""

    round: int
    metrics: Mapping[str, float]
    as_json = _as_json


@dataclass(frozen=True, slots=True)
class Audited:
    """Parts of another member's contribution were done again here."""

    round: int  # that it was made for
    member: str
    opinion: float  # which part of them came out the same
    as_json = _as_json


@dataclass(frozen=True, slots=True)
class Resynced:
    """Another member's state was taken over."""

    from_round: int
    to_round: int
    source: str  # peer id of one that told the head
    as_json = _as_json


@dataclass(frozen=True, slots=True)
class Went:
    """By which way this member got to another's state, or did not, where there were two."""

    way: Way
    from_round: int
    to_round: int
    has_arrived: bool
    reason: str  # for this way
    bytes_received: int  # by the whole node, meanwhile
    seconds: float
    as_json = _as_json


@dataclass(frozen=True, slots=True)
class Waiting:
    reason: str
    as_json = _as_json


@dataclass(frozen=True, slots=True)
class Finished:
    round: int
    as_json = _as_json


@dataclass(frozen=True, slots=True)
class Problem:
    """Something the owner should know; the engine goes on."""

    message: str
    as_json = _as_json


Event = (
    RoundStarted
    | LocalDone
    | RoundClosed
    | AttemptBegan
    | MembersChanged
    | Evaluated
    | Audited
    | Resynced
    | Went
    | Waiting
    | Finished
    | Problem
)
