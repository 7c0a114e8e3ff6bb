"""What many pseudo-gradients become: their mean, weighted by samples.

Equal to the bit on every member: shares come sorted by member, and every operation is elementwise on float32, one
rounding per numpy call (IEEE 754 fixes each; no fused multiply-add can form across calls, and no sum runs over the
elements).

The mean gives a malicious member the power to move it anywhere within VALUE_MAX times its share of the samples: robust
rules take this function's place in swarms whose members do not trust each other.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .payload import Delta

if TYPE_CHECKING:
    from .tensors import Vector


def weighted_mean(deltas: Sequence[tuple[int, Delta]], start: int, stop: int) -> "Vector":
    """sum(samples * values) / sum(samples) of values `start` to `stop`, over (samples, delta) in the order given.

    Samples are integers up to 2^24, hence exact in float32; their sum is rounded once.
    """
    import numpy as np

    total = np.float32(sum(samples for samples, _ in deltas))
    mean = np.zeros(stop - start, np.float32)
    for samples, delta in deltas:
        values = delta.values(start, stop)
        values *= np.float32(samples)
        mean += values
    mean /= total
    return mean
