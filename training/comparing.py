"""Which of several contributions to do again, where that takes as long as a turn: what each does to the loss says it.

Forward passes over a few windows cost next to nothing beside a turn. So with half of the time that a judge spends on
doing turns again it does not take what a draw names, but what looks least like work on the data that were assigned to
its member. Who makes up something that looks like such work is left to the draw. A loss never judges anybody: honest
members' differ, too, and only the turn itself tells for certain.
"""

import math
from collections.abc import Sequence
from statistics import median
from typing import Final, NamedTuple

from blake3 import blake3

from shoal.transport.wire import encode

_DOMAIN: Final = "shoal/compare/1"
COMPARED_MAX: Final = 8  # contributions at once


class Gain(NamedTuple):
    """By how much a contribution alone lowers the loss from the state that it started from, in nats per token."""

    own: float  # on what its turn had to train on
    other: float  # on data drawn at random, once it was made


def is_comparing(seed: bytes, judge: str, part: float) -> bool:
    """Whether `judge` compares what a round took, and does one of those again: with a probability of `part`."""
    return int.from_bytes(blake3(encode((_DOMAIN, seed, judge))).digest()[:8], "big") < part * 2**64


def most_doubtful(gains: Sequence[Gain]) -> int:
    """The place of that which looks least like an honest turn's.

    It lowers the loss on its own data least, and less than half as much as is usual; where none does, it helps its own
    data least beyond what it helps any: as copies do, and what is made of others' rows. Gauntlet pays by the sign of
    that difference (Lidin et al. 2025, arXiv 2505.21684); measured in docs/robustness.md.

    Args:
        gains: at least one.
    """
    half = median(_number(gain.own) for gain in gains) / 2
    doubts = [_doubt(gain, half) for gain in gains]
    return doubts.index(min(doubts))


def _doubt(gain: Gain, half: float) -> tuple[bool, float]:
    """Smaller is worse."""
    own, other = _number(gain.own), _number(gain.other)
    is_usual = own >= half
    return is_usual, own - other if is_usual else own


def _number(value: float) -> float:
    """What is no number is as bad as can be."""
    return value if math.isfinite(value) else -1e30
