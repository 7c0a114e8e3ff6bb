"""What voting wants done, and how patient it is."""

from dataclasses import dataclass
from typing import Final

from shoal.transport.port import PeerId

from .votes import Ballot, Decided, Journal, Proposal, Value, Vote

GROWTH_MAX: Final = 32  # timeouts grow to so many times the first


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Of the first attempt; later ones have more. Shorter: slow links lose attempts. Longer: crashes cost more."""

    propose_s: float = 2.0  # for the proposal, and all it names, to be here
    vote_s: float = 1.0  # for the others' votes, once a quorum has voted
    repeat_s: float = 1.0  # until what was sent is sent again
    passed_on_from: int = 9  # so many members: a first attempt's votes go by way of its proposer; see voting.py

    def at(self, attempt: int) -> "Timeouts":
        factor = min(GROWTH_MAX, 1 + attempt)
        return Timeouts(self.propose_s * factor, self.vote_s * factor, self.repeat_s, self.passed_on_from)


@dataclass(frozen=True, slots=True)
class Save:
    """Have this on disk before any effect that follows it is carried out."""

    journal: Journal


@dataclass(frozen=True, slots=True)
class Send:
    """To all connected voters, or to one peer."""

    ballot: Ballot
    to: PeerId | None = None


@dataclass(frozen=True, slots=True)
class Judge:
    """Find out whether this value is sound and all of it is here; tell `judged`.

    What a quorum has prevoted is to be judged by what is exact alone: opinions, such as who is silent, may have changed
    since, and were each to go by its own of today, those who are bound by it and the others would never meet.
    """

    value: Value
    is_backed: bool  # by a quorum's prevotes


@dataclass(frozen=True, slots=True)
class Began:
    """Another attempt."""

    attempt: int
    proposer: PeerId
    reason: str


@dataclass(frozen=True, slots=True)
class Accuse:
    """One member signed both: proof against it."""

    first: Vote | Proposal
    second: Vote | Proposal


Effect = Save | Send | Judge | Began | Accuse | Decided
