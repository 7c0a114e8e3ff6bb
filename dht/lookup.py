"""Whom a lookup asks next: iterative, in parallel, over disjoint paths, around peers that keep silent. Without I/O.

A lookup moves toward a target by asking the closest peers known for closer ones. It does so on several *paths*
(S/Kademlia, Baumgart and Mies 2007): each path learns only from the answers of the peers it asked itself, and no peer
is asked by two. Whoever sits on one path steers that one alone. A path is done when the closest peers it knows of have
all answered or failed; the lookup is over when all paths are, or when its owner has what it wanted.

A peer silent for longer than `Patience` says no longer counts against the parallelism, so another one is asked besides;
silent for GIVE_UP_FACTOR times as long it no longer holds up the end. Its answer still counts if it comes before that.

What a malicious peer may answer: any peers, itself, nothing, late. What it achieves: of one answer at most NAMED_MAX
peers enter its path's list, of one range of addresses at most NAMED_PER_RANGE_MAX; a path asks at most ASKED_MAX peers;
a lookup ends after LOOKUP_S_MAX whatever happens.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from shoal.transport.port import PeerId

from .contacts import Contact
from .patience import Patience

GIVE_UP_FACTOR: Final = 4.0
NAMED_MAX: Final = 20
NAMED_PER_RANGE_MAX: Final = 4
ASKED_MAX: Final = 64
LOOKUP_S_MAX: Final = 30.0


@dataclass(frozen=True, slots=True)
class LookupSettings:
    wanted: int = 20  # k: closest peers to find
    parallelism: int = 3  # questions under way at once, beside those to silent peers
    paths: int = 3  # more: safer from liars, more questions


class Lookup:
    """One lookup. Feed it what happens; ask whom it returns; stop when `is_over`.

    Args:
        target: a position (`keys.position_of`).
        self_id: never asked.
        start: the closest peers known so far, closest first.
    """

    def __init__(
        self, target: int, self_id: PeerId, start: Iterable[Contact], settings: LookupSettings, patience: Patience
    ) -> None:
        raise NotImplementedError

    def begin(self, now: float) -> list[Contact]:
        """Whom to ask first. Over at once if nobody is known."""
        raise NotImplementedError

    def answered(self, peer: PeerId, closer: Iterable[Contact], now: float) -> list[Contact]:
        """A peer that was asked named others. Returns whom to ask now."""
        raise NotImplementedError

    def failed(self, peer: PeerId, now: float) -> list[Contact]:
        """A peer that was asked cannot be reached, or answered something else. Returns whom to ask now."""
        raise NotImplementedError

    def woken(self, now: float) -> list[Contact]:
        """It is `deadline`: somebody has been silent for too long. Returns whom to ask now."""
        raise NotImplementedError

    @property
    def deadline(self) -> float:
        """When to call `woken`, at the latest; infinity when over."""
        raise NotImplementedError

    @property
    def is_over(self) -> bool:
        raise NotImplementedError

    @property
    def silent(self) -> tuple[PeerId, ...]:
        """Asked, and still without an answer after being given up: doubtful peers, for `RoutingTable.failed`."""
        raise NotImplementedError

    @property
    def closest(self) -> tuple[Contact, ...]:
        """The closest peers that answered, at most `wanted`: each path's best in turn, so that none fills it alone."""
        raise NotImplementedError

    @property
    def asked_count(self) -> int:
        """Questions put so far."""
        raise NotImplementedError

    @property
    def hop_count(self) -> int:
        """The longest chain of answers, each of which named the next: round trips, if everybody answers at once."""
        raise NotImplementedError
