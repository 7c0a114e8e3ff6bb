"""What many pseudo-gradients become: their mean, weighted by samples.

Equal to the bit on every member: shares come sorted by member, and every operation is elementwise on float32, one
rounding per numpy call (IEEE 754 fixes each; no fused multiply-add can form across calls, and no sum runs over the
elements).

The mean gives a malicious member the power to move it anywhere within VALUE_MAX times its share of the samples: robust
rules take this function's place in swarms whose members do not trust each other.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .payload import Delta

if TYPE_CHECKING:
    from .tensors import Vector


def weighted_mean(deltas: Sequence[tuple[int, Delta]], start: int, stop: int) -> "Vector":
    """sum(samples * values) / sum(samples) of values `start` to `stop`, over (samples, delta) in the order given.

    Samples are divided by what divides them all, so that members with as many each cost no multiplication. They are
    integers up to 2^24, hence exact in float32; their sum is rounded once.
    """
    import numpy as np

    divisor = math.gcd(*(samples for samples, _ in deltas))
    total = np.float32(sum(samples // divisor for samples, _ in deltas))
    mean: Vector | None = None
    for samples, delta in deltas:
        values = delta.values(start, stop)
        if samples != divisor:
            values *= np.float32(samples // divisor)
        mean = values if mean is None else np.add(mean, values, out=mean)
    assert mean is not None, "the mean of nothing"
    mean /= total
    return mean
