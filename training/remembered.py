"""What a round's aggregation leaves for the next one, beside vectors: who of the voters contributes, and the testimony.

It is part of the shared state, so it is bounded, and equal states have equal bytes. What a malicious peer may send is
any bytes as it: checkpoint.py has `open_remembered` look at them.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Annotated, Final

import msgspec

from shoal.transport.wire import PEER_ID_CHARS_MAX, U64, Malformed, Message, decode, encode

from .evidence import Testimony
from .records import MEMBERS_MAX

LATELY: Final = 16  # rounds, of those that took something: who contributed in none of them is not counted on
REMEMBERED_BYTES_MAX: Final = 2**18  # 1,024 voters, as much evidence and all sketches come to 134,000


class Sighting(Message, frozen=True):
    """A voter, and the newest round that took a contribution of its with weight."""

    member: Annotated[str, msgspec.Meta(min_length=1, max_length=PEER_ID_CHARS_MAX)]
    round: U64


Sightings = Annotated[tuple[Sighting, ...], msgspec.Meta(max_length=MEMBERS_MAX)]


class Remembered(Message, frozen=True):
    """Empty in swarms whose members trust one another, and in the state of round 0."""

    voters: Sightings = ()  # of the last LATELY rounds, sorted by member
    testimony: Testimony = Testimony()


EMPTY: Final = Remembered()


def sighted(before: Sequence[Sighting], round: int, voters: Iterable[str]) -> tuple[Sighting, ...]:
    """Who is counted on once `round` has taken contributions of these voters: the newest, up to MEMBERS_MAX."""
    newest = {sighting.member: sighting.round for sighting in before if sighting.round > round - LATELY}
    newest.update(dict.fromkeys(voters, round))
    kept = sorted(newest, key=lambda member: (-newest[member], member))[:MEMBERS_MAX]
    return tuple(Sighting(member, newest[member]) for member in sorted(kept))


def open_remembered(data: bytes, round: int) -> Remembered | Malformed:
    """What the state after `round` remembers, from its canonical bytes; no bytes: nothing."""
    if not data:
        return EMPTY
    remembered = decode(data, Remembered, REMEMBERED_BYTES_MAX)
    if isinstance(remembered, Malformed):
        return remembered
    if remembered == EMPTY or encode(remembered) != data:
        return Malformed("what it remembers is not in its canonical form")
    if any(left.member >= right.member for left, right in pairwise(remembered.voters)):
        return Malformed("the voters it remembers are not sorted, or stand there twice")
    if any(not round - LATELY < sighting.round <= round for sighting in remembered.voters):
        return Malformed("it remembers voters of other rounds than the last ones")
    return remembered


def remembered_bytes(remembered: Remembered) -> bytes:
    return b"" if remembered == EMPTY else encode(remembered)
