"""The seam between the round engine and training methods: the engine knows no method, a method knows no network.

A method is a set of pure functions over two values it defines itself: `state`, which all members share and which must
be equal to the bit, and `local`, which never leaves the member (inner optimizer, error feedback, momentum). Randomness
comes from `Turn.seed`, time from `Turn.clock`; nothing else is read.

What a malicious peer may send: any payload. `check` refuses what is malformed before it is stored in a round; `apply`
must give the same bits on every member for every payload that `check` lets through.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar, runtime_checkable

from .comparing import Gain
from .evidence import Evidence
from .ports import BlobReader, Payload
from .spec import Spec

WEIGHT_MAX: Final = 2**43  # of one contribution; 1024 of them add up exactly in float64

State = TypeVar("State")
Local = TypeVar("Local")


@dataclass(frozen=True, slots=True)
class Turn:
    """One member's part in one round."""

    round: int  # counts from 1
    base_round: int  # the round whose end state it starts from
    member: str
    members: tuple[str, ...]  # sorted, `member` among them: who is expected to contribute; shards are cut by it
    seed: int  # 64 bits, from (swarm, round, member)
    deadline_at: float  # on `clock`, seconds; infinity where only the number of steps ends the turn
    clock: Callable[[], float]
    is_over: Callable[[], bool]  # true once the round has closed without this member: stop early
    has_contributed: bool = False  # to the round that made the state
    steps: int | None = None  # exactly so many, whatever the clock says: of a turn that is done again


@dataclass(frozen=True, slots=True)
class Work(Generic[Local]):
    """What `contribute` made."""

    payload: Sequence[Payload]  # in pieces, which the engine may keep until the round is over
    samples: int  # that stand behind it
    local: Local  # the member's, after the turn
    metrics: Mapping[str, float]  # for the owner's eyes: {"loss": ..., "tokens": ..., "steps": ...}


@dataclass(frozen=True, slots=True)
class Share:
    """One contribution that a round took, as `apply` sees it."""

    turn_round: int  # the round it was made in
    member: str
    samples: int
    weight: int  # by which it counts, 0 to WEIGHT_MAX; samples and staleness are in it
    base_round: int  # the round whose end state it started from
    payload: BlobReader
    is_voters: bool = True  # whether the member has votes: who has none decides nothing for those who do


@dataclass(frozen=True, slots=True)
class Start:
    """What a member's first turn from a state began with, beside the state."""

    local: BlobReader  # what it says it was, as `save_local` wrote it
    members: tuple[str, ...]  # of the turn
    before: BlobReader | None  # its newest payload in the round that made the state; None if that took none


class Method(Protocol[State, Local]):
    """See the module's text; docs/protocol.md has the order of calls."""

    def start(self, spec: Spec) -> tuple[State, Local]:
        """The state every member starts from, equal to the bit everywhere, and a fresh local value."""
        ...

    def contribute(self, state: State, local: Local, turn: Turn) -> Work[Local]:
        """Do this turn's work. Runs in a worker thread; must not change `state` nor `local`.

        While rounds cannot be closed it is called again, with the same `state` and the local value of the work before,
        which became a contribution: the next one is what was done since.
        """
        ...

    def check(self, spec: Spec, turn_round: int, member: str, samples: int, payload: BlobReader) -> str | None:
        """None when the payload is sound, else the reason. Pure, exact and equal on all members."""
        ...

    def apply(self, state: State, shares: Sequence[Share]) -> tuple[State, Mapping[str, float]]:
        """The next state from shares sorted by member, equal to the bit on every member, and evidence for people."""
        ...

    def settle(self, local: Local, state: State, taken: bool) -> Local:
        """The local value to go on with from a new shared state; whether one's own contribution was taken into it."""
        ...

    def evaluate(self, state: State) -> Mapping[str, float]:
        """Figures about the state, e.g. {"validation_loss": nats per byte}."""
        ...

    def digest(self, state: State) -> bytes | None:
        """32 bytes over all that `apply` reads; None for methods without a common state."""
        ...

    def save(self, state: State) -> Iterable[Payload]:
        """The state as bytes, in pieces; equal states give equal bytes."""
        ...

    def load(self, saved: BlobReader) -> State:
        """The state that `save` wrote. Raises ValueError for anything else."""
        ...

    def save_local(self, local: Local) -> Iterable[Payload]: ...

    def load_local(self, saved: BlobReader) -> Local:
        """Raises ValueError if it cannot be used; the engine then starts afresh and says so."""
        ...


@runtime_checkable
class EvaluatesSeldom(Protocol):
    """A method that evaluates some states only: it may take longer than a round."""

    def is_evaluated(self, round: int) -> bool:
        """Whether the state after this round is."""
        ...


@runtime_checkable
class Testifies(Protocol):
    """A method whose `apply` finds out something of every contribution, for reputation to go by."""

    def evidence(self, state: Any) -> tuple[Evidence, ...]:
        """Of each member in the round that made this state, sorted: all that the round took, whatever their weight.
        Empty where it took nothing. Part of what is saved and digested.
        """
        ...


@runtime_checkable
class Audits(Protocol):
    """A method whose members can do parts of one another's work again: what was claimed is drawn for it later.

    `seed` comes from the record after the one that took the contribution: nobody knows it while it could still be
    changed.
    """

    @property
    def is_auditing(self) -> bool:
        """Whether anything is audited with these settings."""
        ...

    @property
    def wants_starts(self) -> bool:
        """Whether members name, keep and hand over what their turns started from."""
        ...

    def is_audited(self, share: Share, seed: bytes, judge: str, contributors: int) -> bool:
        """Whether the draw has `judge` do any of it again, of a round that took so many members' work."""
        ...

    def can_audit(self, share: Share) -> bool:
        """Whether any of it can be done again, drawn or not."""
        ...

    def audit(self, state: Any, start: Start | None, share: Share, seed: bytes) -> float | None:
        """An opinion in [0, 1] on honest work, or None. May be dear and inexact: it never decides a round's set.

        Args:
            state: that the contribution started from.
            start: None where none is wanted.
        """
        ...


@runtime_checkable
class Compares(Protocol):
    """A method whose audits are dear, and which can tell at little cost where they are worth most (comparing.py)."""

    @property
    def compared_share(self) -> float:
        """Which part of a turn's time a judge may spend in each round on doing again what looks doubtful."""
        ...

    def gain(self, state: Any, share: Share, members: tuple[str, ...], seed: bytes) -> Gain | None:
        """What a contribution does to the loss, as far as one can tell; None if one cannot. May be inexact.

        Args:
            state: that it started from.
            members: of its turn.
        """
        ...
