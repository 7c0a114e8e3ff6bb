"""Which of the checkpoints that members tell is fetched, and how slowly such a blob may come. No I/O.

A member may tell any blob as the state of a head that lies on the log: one of another state, one that is not to be had,
one that only it holds and gives away a byte a second. What it achieves: nothing where members with more votes tell
another blob; else to be believed once in a while, for some seconds at a time, for its word is doubted afterwards and
what comes too slowly is given up. What came is kept, and each time the next may be half as fast: where all are slow, a
newcomer gets there still.
"""

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import Final

from shoal.transport.port import PeerId

from .calls import TellHead

BYTES_PER_S: Final = 2.0**20  # that the first try is worth; a line that carries less loses some seconds with it
BYTES_PER_S_MIN: Final = 2.0**15  # of any try


@dataclass(frozen=True, slots=True)
class Choice:
    """A head with its checkpoint, and who tells it."""

    told: TellHead
    tellers: tuple[PeerId, ...]  # sorted


def choose(answers: Mapping[PeerId, TellHead], votes: Callable[[Set[PeerId]], int]) -> Choice | None:
    """What members with most votes tell, then what most tell; of these the furthest."""
    tellers: dict[TellHead, set[PeerId]] = {}
    for peer, told in answers.items():
        tellers.setdefault(told, set()).add(peer)

    def rank(told: TellHead) -> tuple[int, int, int, list[PeerId]]:
        return votes(tellers[told]), len(tellers[told]), told.head.round, sorted(tellers[told])

    best = max(tellers, key=rank, default=None)
    return None if best is None else Choice(best, tuple(sorted(tellers[best])))


def pace(slow_count: int) -> float:
    """The bytes per second that a try must come at, after so many that came too slowly."""
    return max(BYTES_PER_S_MIN, BYTES_PER_S * 2.0**-slow_count)
