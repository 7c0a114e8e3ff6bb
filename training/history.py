"""What each state was made of: the contributions that a round took, as they were signed, with their weights. No I/O.

Who has a swarm's first state and all of this makes every later state. A row binds nothing to the log: each contribution
proves its author, swarm and round, and that is all. What proves a whole is the state that comes out of it, whose digest
a quorum has certified. So a peer may tell any rows; what comes out of them is of no use until it has that digest, and
nothing is applied that the method's `check` would not let into a round.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any, Final, Protocol, runtime_checkable

import msgspec
from blake3 import blake3

from shoal.transport.wire import Malformed, Message, encode

from .agreed import AgreedRecord
from .method import WEIGHT_MAX, Method, Share
from .ports import BytesReader
from .records import MEMBERS_MAX, ContributionBytes, Offered, RoundNumber, open_contribution
from .soundness import contribution_fault
from .spec import Spec

MADE_BYTES_MAX: Final = 4 * 2**20 - 4096  # of a row: fits an answer of 4 MiB; 1,000 payloads of 4 KB


@runtime_checkable
class Replays(Protocol):
    """A method whose states are cheaply made anew from what they were made of: its members keep that for others.

    Rows do not tell who had votes, so its `apply` must not go by `Share.is_voters`.
    """

    def replay_s(self, contributions: int) -> float:
        """About how many seconds it takes to apply so many of them on this machine. It tells at once."""
        ...


class Part(Message, frozen=True):
    """A contribution that a round took."""

    weight: Annotated[int, msgspec.Meta(ge=0, le=WEIGHT_MAX)]  # by which it counted
    envelope: ContributionBytes


class Made(Message, frozen=True):
    """What the state after a round was made of, from the state before; of nothing, if the round left it as it was."""

    round: RoundNumber
    parts: Annotated[tuple[Part, ...], msgspec.Meta(max_length=MEMBERS_MAX)]  # sorted by member, round and base


def made_of(round: int, offers: Sequence[Offered], weights: Sequence[int]) -> Made | None:
    """The row of a round that is applied; None if it cannot be kept, as a payload does not travel inside."""
    if any(offered.ref is not None for offered in offers):
        return None
    parts = (Part(weight, offered.envelope) for weight, offered in zip(weights, offers, strict=True))
    made = Made(round, tuple(parts))
    return made if len(encode(made)) <= MADE_BYTES_MAX else None


def shares_of(made: Made, swarm: bytes, spec: Spec, method: Method[Any, Any]) -> tuple[Share, ...] | Malformed:
    """What `Method.apply` is to be given for this row, each signature verified. Slow: some 0.1 ms for each of them."""
    if len(made.parts) > spec.members_max * (1 + spec.stale_rounds_max):
        return Malformed(f"round {made.round} took {len(made.parts)} contributions, more than there may be")
    shares: list[Share] = []
    for part in made.parts:
        opened = open_contribution(part.envelope, swarm)
        wrong = _fault(made.round, opened, spec, method) if isinstance(opened, Offered) else opened.reason
        if wrong is not None or isinstance(opened, Malformed):
            return Malformed(f"what round {made.round} took does not hold: {wrong}")
        body, payload = opened.contribution, BytesReader(_inside(opened))
        shares.append(Share(opened.round, opened.member, body.samples, part.weight, body.base_round, payload))
    places = [(share.member, share.turn_round, share.base_round) for share in shares]
    if any(left >= right for left, right in pairwise(places)):
        return Malformed(f"what round {made.round} took is not sorted, or stands there twice")
    return tuple(shares)


def is_of(made: Made, record: AgreedRecord) -> bool:
    """Whether these are the contributions that the round's record took. Of their weights it does not tell."""
    taken = [share.contribution for share in record.taken]
    return made.round == record.round and taken == [blake3(part.envelope).digest() for part in made.parts]


def _fault(round: int, offered: Offered, spec: Spec, method: Method[Any, Any]) -> str | None:
    """Why this round cannot have taken it."""
    body, fault = offered.contribution, contribution_fault(spec, offered)
    if fault is not None:
        return fault
    if offered.ref is not None:
        return f"the payload of {offered.member} does not travel inside"
    if body.base_round >= round:
        return f"{offered.member} started from round {body.base_round}, which is yet to come"
    return method.check(spec, offered.round, offered.member, body.samples, BytesReader(_inside(offered)))


def _inside(offered: Offered) -> bytes:
    payload = offered.contribution.payload
    return payload if isinstance(payload, bytes) else b""
