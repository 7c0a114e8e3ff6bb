"""Whether to go over to another head, and by which way: record by record, or by its checkpoint.

Peers may tell any heads. Those that lead nowhere are doubted (roster.py); while one is tried, the open round goes on,
and so do the next ones unless as many tell of it as stand here. So what a lie costs is a request. A member whose swarm
fixes the first state by its digest goes to that before all else.
"""

from collections.abc import Mapping, Set

from shoal.transport.port import PeerId

from .agreement import follow
from .effects import AskRecords, Effect, Observe, Resync
from .events import Problem
from .log import RECORDS_KEPT
from .records import Head

PAUSE_S = 1.0  # between two attempts to reach another head
NOWHERE = Head(-1, b"", b"")  # worse than any head


class Following:
    """One member's attempts."""

    def __init__(self, start_digest: bytes | None) -> None:
        self._start_digest = start_digest
        self._is_under_way = False
        self._again_at = float("-inf")
        self._is_record_missing = False  # the way by records is closed: go by checkpoint

    def is_startless(self, mine: Head) -> bool:
        """Whether this member has yet to get the state that the swarm starts from."""
        return mine.round == 0 and self._start_digest not in (None, mine.digest)

    def better(self, mine: Head, told: Mapping[Head, Set[PeerId]]) -> Head | None:
        """The head among these to go over to."""
        if self._start_digest is not None:
            told = {head: peers for head, peers in told.items() if head.round or head.digest == self._start_digest}
        return follow(NOWHERE if self.is_startless(mine) else mine, told)

    def holds_up(self, mine: Head, told: Mapping[Head, Set[PeerId]]) -> bool:
        """Whether the next round is to wait until this member stands at a better head.

        Not if fewer peers tell of better heads than stand where this member does, itself among them: a single liar,
        whose checkpoint takes an hour to turn out not to exist, would stop them all.
        """
        better = {peer for head, peers in told.items() if self.better(mine, {head: peers}) for peer in peers}
        return bool(better) and (len(better) > len(told.get(mine, ())) or self.is_startless(mine))

    def begin(
        self, now: float, mine: Head, told: Mapping[Head, Set[PeerId]], pending: Set[bytes], can_apply: bool
    ) -> list[Effect]:
        """Go to a better head, unless its record is `pending` here, or an attempt is under way."""
        if self._is_under_way or now < self._again_at:
            return []
        best = self.better(mine, told)
        if best is None or best.record in pending:
            return []
        self._is_under_way = True
        can_apply = can_apply and not self.is_startless(mine)
        if 0 < best.round - mine.round <= RECORDS_KEPT and not self._is_record_missing and can_apply:
            ahead = {peer for head, peers in told.items() if head.round > mine.round for peer in peers}
            return [AskRecords(mine.round + 1, tuple(sorted(ahead)))]
        effects: list[Effect] = []
        if best.record == mine.record and can_apply:
            text = f"this member's state after round {best.round} differs from the others'; taking over theirs"
            effects.append(Observe(Problem(text)))
        return [*effects, Resync(best, tuple(sorted(told[best])))]

    def end(self) -> None:
        """The attempt is over; the next may begin at once."""
        self._is_under_way = False

    def fail(self, now: float) -> None:
        """The attempt led nowhere."""
        self._is_under_way = False
        self._again_at = now + PAUSE_S

    def close_way_by_records(self) -> None:
        """The next record is not to be had, or does not fit this member's head."""
        self._is_record_missing = True

    def arrive(self) -> None:
        """This member stands at another head."""
        self._is_record_missing = False
        self._again_at = float("-inf")

    def deadline(self, now: float) -> float:
        """When `begin` may do more than now."""
        return self._again_at if self._again_at > now else float("inf")
