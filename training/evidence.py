"""What aggregation shows of each member's contribution, in integers that are equal on every member.

The record after the one that took the contributions says it, and reputation goes by that (reputation.py). What a
malicious member may do is choose what it contributes: what these figures then are, and what follows from them, is
measured in docs/robustness.md. It cannot choose the figures of others by more than it moves the median that they are
compared with.
"""

from typing import Annotated, Final

import msgspec

from shoal.transport.wire import Message

COSINE: Final = 2**15  # of two equal directions
LENGTH: Final = 2**8  # of a row as long as the others usually are
LENGTH_MAX: Final = 2**16
OVERLAP: Final = 2**10  # of a contribution that repeats another

Cosine = Annotated[int, msgspec.Meta(ge=-COSINE, le=COSINE)]


class Evidence(Message, frozen=True):
    """Of what one member contributed to one round; all 0 where none of it had any weight."""

    similarity: Cosine = 0  # the cosine of the angle to the coordinate median of all members' rows
    length: Annotated[int, msgspec.Meta(ge=0, le=LENGTH_MAX)] = 0  # Euclidean, over the median of all members'
    nearest: Cosine = 0  # the largest cosine to another member's row
    repeated: Annotated[int, msgspec.Meta(ge=0, le=OVERLAP)] = 0  # how much of it is what was contributed before


NOTHING: Final = Evidence()
