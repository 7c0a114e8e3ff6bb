"""The votes of one round that have come, so many of each member.

A malicious member may vote in as many attempts as it likes: its own older votes make room.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from shoal.transport.port import PeerId

from .votes import Step, Vote

VOTES_KEPT: Final = 16  # of one member, for the newest attempts; memory: 0.3 KB each


class BallotBox:
    """See the module's text."""

    def __init__(self) -> None:
        self._votes: dict[PeerId, dict[tuple[int, Step], Vote]] = {}

    def put(self, vote: Vote) -> Vote | None:
        """Keep a vote. Returns another one that its voter has cast in the same step: then that is kept."""
        kept = self._votes.setdefault(PeerId(vote.voter), {})
        before = kept.setdefault((vote.attempt, vote.step), vote)
        if len(kept) > VOTES_KEPT:
            del kept[min(kept)]
        return None if before.choice == vote.choice else before

    def cast_in(self, attempt: int, step: Step) -> Mapping[PeerId, Vote]:
        """By voter, sorted."""
        found = ((voter, kept.get((attempt, step))) for voter, kept in sorted(self._votes.items()))
        return {voter: vote for voter, vote in found if vote is not None}

    def of(self, voter: PeerId, since: int) -> Iterator[Vote]:
        """One member's in this attempt and later ones."""
        return (vote for (attempt, _), vote in self._votes.get(voter, {}).items() if attempt >= since)

    def attempts(self, step: Step) -> set[int]:
        """Those in which anybody has voted in this step."""
        return {attempt for kept in self._votes.values() for attempt, each in kept if each is step}
