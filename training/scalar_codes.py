"""One byte for a projected gradient, on a logarithmic scale, and what each byte stands for.

A code is 0 for zero, m for +MAGNITUDES[m] and 128 + m for -MAGNITUDES[m], m from 1 to 127, all times 2^(origin - 16):
from 2^origin on, nine to an octave, up to 2^(origin + 14). The origin belongs to the spec. 128 would be a second zero,
and is no code.

What is applied to a state, also by the sender, is what the code stands for. That is an integer of this table times a
power of two: no exponential, power or logarithm, which differ between machines, is near the state. Nor are they near
the code: a sender compares its value, a float64, with the points midway between neighbours, which is exact.

The spread of projected gradients is why the scale is logarithmic: of a language model they ran from 1 to 20 in one
run, and a fixed clip lost them. The error of a value in range is at most 4.0% of it, root mean square 2.2%.

What a malicious peer may send: any byte. One is no code; of the others each stands for some number in range.
"""

import math
from bisect import bisect_left
from itertools import pairwise
from typing import Final

# fmt: off
MAGNITUDES: Final[tuple[int, ...]] = (  # 0, and 2^16 2^((m - 1) / 9) rounded to an integer for m from 1 to 127
    0, 65536, 70783, 76450, 82570, 89181, 96321, 104032, 112361, 121356, 131072, 141566, 152899, 165140, 178361,
    192641, 208064, 224721, 242713, 262144, 283131, 305799, 330281, 356723, 385282, 416128, 449443, 485425,
    524288, 566262, 611597, 660561, 713446, 770564, 832255, 898885, 970850, 1048576, 1132525, 1223194, 1321123,
    1426892, 1541128, 1664511, 1797771, 1941700, 2097152, 2265049, 2446389, 2642246, 2853783, 3082257, 3329021,
    3595542, 3883400, 4194304, 4530099, 4892777, 5284492, 5707567, 6164513, 6658043, 7191084, 7766800, 8388608,
    9060198, 9785555, 10568984, 11415134, 12329027, 13316085, 14382167, 15533600, 16777216, 18120396, 19571110,
    21137968, 22830268, 24658053, 26632170, 28764335, 31067200, 33554432, 36240791, 39142219, 42275935, 45660536,
    49316106, 53264341, 57528670, 62134400, 67108864, 72481582, 78284439, 84551870, 91321071, 98632212, 106528681,
    115057340, 124268800, 134217728, 144963164, 156568877, 169103741, 182642142, 197264424, 213057363, 230114679,
    248537601, 268435456, 289926329, 313137755, 338207482, 365284284, 394528849, 426114725, 460229359, 497075201,
    536870912, 579852657, 626275509, 676414963, 730568568, 789057697, 852229450, 920458718, 994150402, 1073741824,
)
# fmt: on
LARGEST: Final = len(MAGNITUDES) - 1  # the code of the largest magnitude, and the bits of any
NEGATIVE: Final = 128  # the bit that says minus
FRACTION_BITS: Final = 16  # of a magnitude
_MIDPOINTS: Final = tuple((low + high) / 2 for low, high in pairwise(MAGNITUDES))  # exact in float64


def is_code(code: int) -> bool:
    """Whether it stands for a number."""
    return 0 <= code <= NEGATIVE + LARGEST and code != NEGATIVE


def encode(value: float, origin: int) -> int:
    """The code of the nearest number; of two as near, that of the smaller magnitude. Beyond the largest: the largest.

    Raises:
        ValueError: `value` is NaN or infinite: a member whose losses are such has nothing to send.
    """
    if not math.isfinite(value):
        raise ValueError(f"a projected gradient is finite, this one {value}")
    size = min(abs(value), decoded(LARGEST, origin))
    magnitude = bisect_left(_MIDPOINTS, math.ldexp(size, FRACTION_BITS - origin))
    return magnitude + NEGATIVE if value < 0 and magnitude else magnitude


def magnitude(code: int) -> int:
    """Of the number that `code` stands for, in units of 2^(origin - 16).

    Raises:
        ValueError: it is no code.
    """
    if not is_code(code):
        raise ValueError(f"a code is a byte other than {NEGATIVE}, this is {code}")
    return MAGNITUDES[code & LARGEST]


def signed(code: int) -> int:
    """The number that `code` stands for, in units of 2^(origin - 16).

    Raises:
        ValueError: it is no code.
    """
    return -magnitude(code) if code > NEGATIVE else magnitude(code)


def decoded(code: int, origin: int) -> float:
    """The number that `code` stands for, exactly: it has 31 bits at most.

    Raises:
        ValueError: it is no code.
    """
    return math.ldexp(signed(code), origin - FRACTION_BITS)
