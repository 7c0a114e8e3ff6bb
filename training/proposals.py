"""Proposals for one round that wait for their contributions. Each has so long to be completed; each member proposes
once.
"""

from dataclasses import dataclass

from shoal.transport.port import PeerId

from .records import Proposed

PENDING_MAX = 4  # at once


@dataclass(frozen=True, slots=True)
class _Pending:
    proposed: Proposed
    until: float


class Proposals:
    """One round's."""

    def __init__(self, proposers_max: int) -> None:
        self._proposers_max = proposers_max
        self._pending: dict[bytes, _Pending] = {}  # by the record's hash
        self._proposers: set[PeerId] = set()

    def hashes(self) -> set[bytes]:
        """Of the records that wait."""
        return set(self._pending)

    def has_proposed(self, member: PeerId) -> bool:
        """Whether `member` may not propose any more. What others stand at can be had all the same, by asking for it."""
        return member in self._proposers or len(self._proposers) >= self._proposers_max

    def count(self, member: PeerId) -> None:
        """`member` has proposed."""
        self._proposers.add(member)

    def add(self, proposed: Proposed, until: float) -> str | None:
        """Wait for its contributions; or why not."""
        if proposed.hash in self._pending:
            return "known"
        if len(self._pending) >= PENDING_MAX:
            return "too many proposals"
        self._pending[proposed.hash] = _Pending(proposed, until)
        return None

    def in_order(self) -> list[Proposed]:
        """Those that wait, by hash: of two that are complete, all members take the same."""
        return [self._pending[hash].proposed for hash in sorted(self._pending)]

    def drop(self, proposed: Proposed) -> None:
        self._pending.pop(proposed.hash, None)

    def drop_with(self, contribution: bytes) -> None:
        """Drop those that take this contribution."""
        for proposed in self.in_order():
            if any(taken.contribution == contribution for taken in proposed.record.taken):
                self.drop(proposed)

    def drop_expired(self, now: float) -> bool:
        """Whether there were any."""
        expired = [pending.proposed for pending in self._pending.values() if pending.until <= now]
        for proposed in expired:
            self.drop(proposed)
        return bool(expired)

    def deadline(self) -> float:
        """When the next expires."""
        return min((pending.until for pending in self._pending.values()), default=float("inf"))
