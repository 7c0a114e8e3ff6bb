"""Which of several contributions to do again, where that takes as long as a turn: what each does to the loss says it.

Forward passes over a few windows cost little beside a turn. So half of the time that a judge spends on doing turns
again goes to what looks least like work on the data that were assigned to its member, and the other half to what a draw
names. Who makes up something that looks like such work is left to the draw. A loss never judges anybody: honest
members' differ, too, and only the turn itself tells for certain.

Keys without votes cost nothing. A crowd of them could take all of that time, and decide what is usual: so members with
votes are compared with one another, and have at least half of what is drawn.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final, NamedTuple

from blake3 import blake3

from shoal.transport.wire import encode

_DOMAIN: Final = "shoal/compare/1"
COMPARED_MAX: Final = 8  # contributions at once
COMPARING: Final = 1 / 4  # of the rounds in which a judge has time to: so that judges do not all look at once
COMPARISON: Final = 1 / 3  # of a turn's time, which is what it takes
SAVED_MAX: Final = 2.0


class Gain(NamedTuple):
    """By how much a contribution alone lowers the loss from the state that it started from, in nats per token."""

    own: float  # on what its turn had to train on
    other: float  # on data drawn at random, once it was made


@dataclass
class Allowance:
    """A judge's time, in turns, to compare contributions and to do again what looks doubtful. All it may save up is
    there from the first, for much is at stake then.
    """

    saved: float = SAVED_MAX

    def earn(self, part: float) -> None:
        """A round has passed, a part of whose time it may spend."""
        self.saved = min(self.saved + part, SAVED_MAX)

    @property
    def is_enough(self) -> bool:
        """For a comparison, and for what it may find."""
        return self.saved >= COMPARISON + 1

    def spend(self, turns: float) -> None:
        self.saved -= turns


def is_comparing(seed: bytes, judge: str) -> bool:
    """Whether `judge` compares what a round took, if it may do any of that again."""
    return int.from_bytes(blake3(encode((_DOMAIN, seed, judge))).digest()[:8], "big") < COMPARING * 2**64


def to_compare(has_votes: Mapping[bytes, bool], seed: bytes, judge: str) -> list[bytes]:
    """Which of these contributions `judge` compares: of members with votes, where there are two.

    Args:
        has_votes: by the contribution's hash, whether its member has any.
    """
    voters = [hash for hash, votes in has_votes.items() if votes]
    some = voters if len(voters) > 1 else has_votes
    return sorted(some, key=lambda hash: blake3(seed + hash + judge.encode()).digest())[:COMPARED_MAX]


def drawn_among(voters: int, others: int) -> tuple[int, int]:
    """As one of how many a contribution is drawn: a voter's, and one of who has no votes."""
    if others > voters > 0:
        return 2 * voters, 2 * others
    return voters + others, voters + others


def most_doubtful(gains: Sequence[Gain]) -> int | None:
    """The place of that which looks least like an honest turn's; None where all look like one.

    It lowers the loss on its own data by far less than is usual; where none does, it helps its own data by far less
    beyond what it helps any: as copies do, and what is made of others' rows. Gauntlet pays by the sign of that
    difference (Lidin et al. 2025, arXiv 2505.21684); measured in docs/robustness.md.
    """
    least = _least([gain.own for gain in gains])
    return _least([gain.own - gain.other for gain in gains]) if least is None else least


def _least(values: Sequence[float]) -> int | None:
    """Its place, if it is below the median by more than half of that. What is no number is as bad as can be, and not
    usual, however many say it.
    """
    numbers = [value for value in values if math.isfinite(value)]
    if not numbers:
        return None
    if len(numbers) < len(values):
        return next(place for place, value in enumerate(values) if not math.isfinite(value))
    usual, least = median(numbers), min(numbers)
    return values.index(least) if least < usual - abs(usual) / 2 else None
