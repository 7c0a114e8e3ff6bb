"""The newest records as one member keeps them at hand: what a contribution may start from, and what was taken already.

No I/O. What stands here was certified; a peer has no way into it.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from shoal.transport.port import PeerId

from .agreed import AgreedRecord, Position, follow
from .members import Electorate, Expel, Leave, Remove
from .votes import Decided, value_of

RECORDS_KEPT: Final = 96  # more than any contribution may be stale, and than what is told of the log at once


@dataclass(frozen=True, slots=True)
class Closed:
    """A round that has ended."""

    decided: Decided
    record: AgreedRecord
    hash: bytes
    voters: Electorate  # who decided

    @property
    def proposer(self) -> PeerId:
        """Whose turn the attempt was in which it was decided."""
        return self.voters.proposer(self.decided.round, self.decided.attempt)


class Ledger:
    """Begins at a position; see the module's text."""

    def __init__(self, origin: Position, start_digest: bytes | None = None) -> None:
        """`start_digest` is what round 0's state must have, where the spec fixes that."""
        self._origin = origin
        self._start_digest = start_digest
        self._closed: OrderedDict[int, Closed] = OrderedDict()

    @property
    def newest(self) -> int:
        """The newest round that has ended."""
        return next(reversed(self._closed), self._origin.round)

    def add(self, closed: Closed) -> None:
        """The next one."""
        self._closed[closed.record.round] = closed
        if len(self._closed) > RECORDS_KEPT:
            self._closed.popitem(last=False)

    def closed(self, round: int) -> Closed | None:
        return self._closed.get(round)

    def hash_at(self, round: int) -> bytes | None:
        """Of the record of `round`, as far as it is known."""
        if round == self._origin.round:
            return self._origin.record
        closed = self._closed.get(round)
        return None if closed is None else closed.hash

    def digest_at(self, round: int) -> bytes | None:
        """Of the state after `round`, if that is agreed upon: the record that follows says so."""
        after = self._closed.get(round + 1)
        if after is not None:
            return after.record.base_digest
        return self._start_digest if round == 0 else None

    def first_of(self, round: int) -> int:
        """The round that made the state after `round`, as far as is known: records that take nothing leave it."""
        while (closed := self._closed.get(round)) is not None and not closed.record.taken:
            round -= 1
        return round

    def staleness(self, base_round: int, until: int | None = None) -> int | None:
        """How many rounds have taken contributions since `base_round` (up to the round `until`, else to the newest);
        None where that is not known.
        """
        if self.hash_at(base_round) is None:
            return None
        since = range(base_round + 1, 1 + (self.newest if until is None else until))
        records = [closed for round in since if (closed := self._closed.get(round)) is not None]
        return sum(bool(closed.record.taken) for closed in records) if len(records) == len(since) else None

    def can_tell(self, base_round: int, stale_max: int) -> bool:
        """Whether it is known here if that round's state is staler than so much; not by who has come since."""
        is_long = sum(bool(closed.record.taken) for closed in self._closed.values()) > stale_max
        return is_long or self.staleness(base_round) is not None

    def has_left_since(self, member: PeerId, round: int) -> bool:
        """Whether a record after that of `round` says that `member` goes."""
        return any(
            change.member == member and isinstance(change, Leave | Remove | Expel)
            for closed in self._closed.values()
            if closed.record.round > round
            for change in closed.record.changes
        )

    def was_taken(self, member: PeerId, round: int, base_round: int) -> bool:
        """Whether a contribution of `member` to `round`, which started from `base_round`, was taken before."""
        since = (self._closed.get(each) for each in range(base_round + 1, self.newest + 1))
        return any(
            (share.member, share.round, share.base_round) == (member, round, base_round)
            for closed in since
            if closed is not None
            for share in closed.record.taken
        )


def closed_by(position: Position, decided: Decided) -> tuple[Closed, Position]:
    """What `decided` ends at `position`. Raises ValueError if it does not follow: it was not certified here."""
    found = follow(position, value_of(decided.value))
    if not isinstance(found, tuple):
        raise ValueError(found.reason)
    record, after = found
    return Closed(decided, record, after.record, position.electorate), after
