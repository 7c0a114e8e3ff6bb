"""Anti-entropy between two replicas: what to ask, what to answer, and what to hand over. A machine without I/O.

Who asks compares one digest. If it differs, the answer has the heads that do. From these follows what either side
lacks; the next question hands over what the other lacks and asks for the rest. So replicas are equal after two round
trips and what the batches need beyond PIECE_BYTES. When two chains of a writer part, nobody knows where: then marks
at exponentially growing distances from the head find the place, and what lies above is the proof of the fork.

An exchange owns nothing of the replica: batches are taken in by `Exchanges.take`, whoever sent them. All it decides
from are heads, and these may change meanwhile; then the next exchange does the rest.

What a malicious peer may send: any heads, batches, wants and rests. What it achieves: one exchange of ROUND_TRIPS_MAX
pieces at most, cut at the first batch that is refused or after pieces without news, and doubts about it
(`partners`); answers to it of PIECES_PER_S in the long run, none larger than a piece; a difference that cannot be
settled (false heads, operations under records unknown here) is tried again after longer and longer. It cannot keep
others' operations from coming through others: nothing that it says is held against anybody but itself.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from shoal.transport.port import PeerId

from .dots import Writer
from .exchange_messages import (
    Compare,
    Compared,
    Settle,
    Settled,
    ShortHead,
)
from .replica import Admission, Replica

ROUND_TRIPS_MAX: Final = 64  # of one exchange: 16 MB each way; smaller: more exchanges until two are equal
IDLE_PIECES_MAX: Final = 2  # in a row that bring nothing new, while no fork is searched for
PIECES_PER_S: Final = 16.0  # that one peer gets and hands over: 4 MB/s; CPU of this side, and its line
PIECES_BURST: Final = 128
COMPARES_PER_S: Final = 4.0  # that one peer gets answered: 64 KB each
COMPARES_BURST: Final = 32
UNSETTLED_MAX: Final = 256  # differences remembered of one peer
UNSETTLED_S: Final = 10.0  # until one is tried again, then twice as long each time
UNSETTLED_S_MAX: Final = 600.0


@dataclass(frozen=True, slots=True)
class Busy:
    """The peer has asked too much: later."""


@dataclass(frozen=True, slots=True)
class NeedsSnapshot:
    """A peer has a writer's operations up to `base` as an agreed snapshot only, and they are not here."""

    peer: PeerId
    writer: Writer
    base: int


@dataclass(slots=True)
class Outcome:
    """What an exchange led to. It counts as done if `failure` is none."""

    is_equal: bool = False  # already at its beginning
    is_unfinished: bool = False  # there is more to settle: again soon
    kept_count: int = 0  # batches that came
    given_count: int = 0
    round_trips: int = 0
    failure: str = ""  # the peer's fault
    needs: list[NeedsSnapshot] = field(default_factory=list[NeedsSnapshot])
    own_head: ShortHead | None = None  # the peer's, of the asker's own writer, if `has_own`
    has_own: bool = False


Question = Compare | Settle
Answer = Compared | Settled


class Exchanges:
    """A replica's side of all its exchanges.

    Args:
        own: whose head peers are asked for first.
    """

    def __init__(self, replica: Replica, own: Writer) -> None: ...

    def take(self, data: bytes) -> Admission:
        """Admit a batch, wherever it comes from."""

    def update(self, writers: Iterable[Writer]) -> None:
        """These writers' chains were changed by other ways (`Replica.write`, `adopt`, `records_came`)."""

    def ask(self, peer: PeerId, salt: bytes) -> "Asking":
        """Begin an exchange. `salt` is SALT_BYTES that the peer cannot foresee."""

    def compared(self, peer: PeerId, request: Compare, now: float) -> Compared | Busy:
        """The answer to a peer."""

    def settled(self, peer: PeerId, request: Settle, now: float) -> Settled | Busy:
        """The answer to a peer. Unless it is Busy, `request.batches` are to be taken in, up to the first refused."""

    def disconnected(self, peer: PeerId) -> None:
        """Forget what concerns this connection."""


class Asking:
    """One exchange, of who asks. Question and answer in turn, until there is no question any more."""

    outcome: Outcome

    def question(self) -> Question | None:
        """What to ask the peer next; None: the exchange is over, `outcome` says how."""

    def answered(self, answer: Answer, now: float) -> Sequence[bytes]:
        """The answer to the last question. Returns batches for `Exchanges.take`; then `took` what became of each."""

    def took(self, admission: Admission) -> None:
        """What became of one of these batches. After one that was refused the others are not to be taken."""

    def fail(self, reason: str) -> None:
        """The peer did not answer, or not as it should."""
