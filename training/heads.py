"""What a head follows from, and what proves it."""

from shoal.transport.port import PeerId
from shoal.transport.wire import Malformed

from .records import Head, Proposed, TellHead, open_proposal


def head_after(proposed: Proposed, digest: bytes) -> Head:
    """Where one stands after applying a record."""
    return Head(proposed.record.round, proposed.hash, digest)


def contributors_of(proposed: Proposed | None) -> tuple[PeerId, ...]:
    return () if proposed is None else tuple(PeerId(taken.member) for taken in proposed.record.taken)


def proof(told: TellHead, swarm: bytes) -> Proposed | None:
    """The record that a head names, if the answerer showed it."""
    if told.head.round == 0:
        return None
    proposed = open_proposal(told.proposal, swarm)
    if isinstance(proposed, Malformed) or proposed.hash != told.head.record:
        return None
    return proposed if proposed.record.round == told.head.round else None
