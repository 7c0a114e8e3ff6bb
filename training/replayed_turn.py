"""DiLoCo's turns done again by others: who does which, what nobody honest starts from, and what counts as the same.

A turn is a function of the state, the member's own optimizer, its data and its seed, which are public or committed to
with the contribution; but machines add floats in different orders. So what comes out is compared by its distance, and
that is allowed to be what such machines differ by, and what coding costs.

What a malicious author may commit to is any optimizer state. What AdamW can have come to is bounded by what it divides
by (`is_sound`): a made-up one moves each parameter by no more than an honest one may, and within a dozen steps nothing
is left of it. Its own momentum it has shown before: that has to be what it contributed last.
"""

import math
from typing import TYPE_CHECKING, Final

from blake3 import blake3

from shoal.transport.wire import encode

from .checkpoint import Moments
from .codecs import spans
from .diloco_settings import DilocoSettings
from .method import Share
from .payload import Delta

if TYPE_CHECKING:
    from .tensors import Vector

_DOMAIN: Final = "shoal/replay/1"
ROUNDING: Final = 1 + 2.0**-6  # what chains of float32 operations may add to a bound


def can_be_replayed(share: Share) -> bool:
    """Whether what its turn started from is agreed on: the members of round 1 are not, nor where a turn ended that
    another one goes on from.
    """
    return share.base_round > 0 and share.turn_round == share.base_round + 1


def is_drawn(share: Share, seed: bytes, judge: str, part: float, contributors: int) -> bool:
    """With a probability of part / contributors: so a judge spends that part of its time on it, however many they are.

    Each judge draws by itself: all do again what one of them has found to be wrong.
    """
    name = encode((_DOMAIN, seed, judge, share.member, share.turn_round, share.base_round))
    return int.from_bytes(blake3(name).digest()[:8], "big") * contributors < part * 2**64


def is_sound(moments: Moments, settings: DilocoSettings) -> bool:
    """Whether clipped gradients can have led there.

    By Cauchy and Schwarz m^2 <= k v, where m is the mean of gradients with weights (1 - b1) b1^i, v that of their
    squares with (1 - b2) b2^i, and k the sum of squares of the first weights over the second; so |m| / sqrt(v) is at
    most 1.2 with b1 = 0.9, b2 = 0.95. Without that a single step leads anywhere. And v adds up to clip^2 at most:
    divided by more, parameters stay where they are, and no work is behind it.
    """
    import numpy as np

    ratio = settings.beta1**2 / settings.beta2
    bound = (1 - settings.beta1) ** 2 / ((1 - settings.beta2) * (1 - ratio)) * ROUNDING
    total = 0.0
    for start, stop in spans(len(moments.first)):
        first, second = (each[start:stop].astype(np.float64) for each in (moments.first, moments.second))
        total += float(second.sum())
        if not np.all(first * first <= bound * second + _NOTHING):
            return False
    return total <= settings.clip**2 * ROUNDING


_NOTHING: Final = 1e-37  # squares of gradients below that are denormal


def is_same(claimed: Delta, vector: "Vector", coded: Delta, tolerance: float) -> bool:
    """Whether `claimed` stands for `vector`, (n,), up to `tolerance` of its length, and up to what coding costs.

    Args:
        coded: `vector` as it is sent.
    """
    import numpy as np

    squares = np.zeros(3)
    for start, stop in spans(len(vector)):
        exact = vector[start:stop].astype(np.float64)
        errors = (claimed.values(start, stop) - exact, coded.values(start, stop) - exact, exact)
        squares += [float(np.square(each).sum()) for each in errors]
    error, cost, length = (math.sqrt(each) for each in squares)
    return error <= tolerance * length + cost
