"""What many pseudo-gradients become: the weighted mean of how far each member has come.

Equal to the bit on every member: shares come sorted by member, and every operation is elementwise on float32, one
rounding per numpy call (IEEE 754 fixes each; no fused multiply-add can form across calls, and no sum runs over the
elements). The division may leave values below the smallest normal number, which some processors are set to flush: they
are too small to change what `apply` adds them to, unless that is 0, and then it clears them (codecs.TINY).

The mean gives a malicious member the power to move it anywhere within VALUE_MAX times its share of the weights. Nothing
here tells a bad step from an honest one: members have to trust each other's work.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .payload import Delta

if TYPE_CHECKING:
    from .tensors import Vector


def weighted_mean(walks: Sequence[tuple[int, Sequence[Delta]]], start: int, stop: int) -> "Vector":
    """sum(weight * sum(deltas)) / sum(weight) of values `start` to `stop`, over (weight, deltas) in the order given.

    A walk's deltas follow one another: they are added up, and what they come to has the weight.
    Weights are from 1 to WEIGHT_MAX. They are divided by what divides them all, so that members with as much weight
    each cost no multiplication. What is left of each, and their sum, is an integer that float64 holds exactly; above
    2^24 float32 may not, and rounds it, once and on all machines alike.
    """
    import numpy as np

    divisor = math.gcd(*(weight for weight, _ in walks))
    total = np.float32(sum(weight // divisor for weight, _ in walks))
    mean: Vector | None = None
    for weight, (first, *others) in walks:
        values = first.values(start, stop)
        for delta in others:
            values += delta.values(start, stop)
        if weight != divisor:
            values *= np.float32(weight // divisor)
        mean = values if mean is None else np.add(mean, values, out=mean)
    assert mean is not None, "the mean of nothing"
    mean /= total
    return mean
