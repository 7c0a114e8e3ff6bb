"""The votes of one round that have come, by themselves or shown by others, so many of each member.

A malicious member may vote in as many attempts as it likes: its own votes make room, those between the first attempts
and the newest. So what it has voted in the first attempts is evidence for as long as the round goes on.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from shoal.transport.port import PeerId

from .votes import Step, Vote

FIRST_KEPT: Final = 16  # of one member, for the lowest attempts; memory: 0.3 KB each
NEWEST_KEPT: Final = 16  # and for the newest


class BallotBox:
    """See the module's text."""

    def __init__(self) -> None:
        self._votes: dict[PeerId, dict[tuple[int, Step], Vote]] = {}
        self._newest: dict[PeerId, int] = {}  # attempts that members are known to have reached

    def put(self, vote: Vote) -> Vote | None:
        """Keep a vote. Returns another one that its voter has cast in the same step: then that is kept."""
        self.reach(PeerId(vote.voter), vote.attempt)
        kept = self._votes.setdefault(PeerId(vote.voter), {})
        before = kept.setdefault((vote.attempt, vote.step), vote)
        if len(kept) > FIRST_KEPT + NEWEST_KEPT:
            del kept[sorted(kept)[FIRST_KEPT]]
        return None if before.choice == vote.choice else before

    def reach(self, member: PeerId, attempt: int) -> None:
        """It has said something in that attempt."""
        self._newest[member] = max(self._newest.get(member, 0), attempt)

    def reached(self) -> set[int]:
        """The newest attempt of each member that has said anything."""
        return set(self._newest.values())

    def at_least(self, attempt: int) -> list[PeerId]:
        """Who has come so far."""
        return [member for member, reached in self._newest.items() if reached >= attempt]

    def newest_of(self, member: PeerId) -> tuple[Vote, ...]:
        """The votes of the newest attempt in which `member` is known to have voted."""
        votes = list(self.of(member, 0))
        newest = max((vote.attempt for vote in votes), default=0)
        return tuple(vote for vote in votes if vote.attempt == newest)

    def cast_in(self, attempt: int, step: Step) -> Mapping[PeerId, Vote]:
        """By voter, sorted."""
        found = ((voter, kept.get((attempt, step))) for voter, kept in sorted(self._votes.items()))
        return {voter: vote for voter, vote in found if vote is not None}

    def of(self, voter: PeerId, since: int) -> Iterator[Vote]:
        """One member's in this attempt and later ones."""
        return (vote for (attempt, _), vote in self._votes.get(voter, {}).items() if attempt >= since)

    def voters(self, step: Step) -> Mapping[int, list[PeerId]]:
        """By attempt: who has voted in this step."""
        found: dict[int, list[PeerId]] = {}
        for voter, kept in self._votes.items():
            for attempt, each in kept:
                if each is step:
                    found.setdefault(attempt, []).append(voter)
        return found
