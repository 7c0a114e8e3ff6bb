"""How a member that is behind gets to where the swarm is: the log first, by asking for records; then the state, record
by record while the others still have what these took, else by a checkpoint.

What a peer says of the log proves itself; of the newest state it may lie until the next record certifies that, and
then this member goes over to the certified one. A peer whose word leads nowhere is doubted (roster.py); while one is
asked, the rest goes on, so a lie costs a request.
"""

from collections.abc import Mapping, Set

from shoal.transport.port import PeerId

from .agreed import Position
from .calls import LOG_TOLD_MAX
from .effects import AskLog, AskProof, Collect, Effect, Observe, Resync
from .events import Problem
from .judging import View
from .ledger import Closed, Ledger
from .log import ROUNDS_SERVED
from .records import Head

PAUSE_S = 1.0  # between two attempts to get anywhere


class CatchingUp:
    """One member's attempts."""

    def __init__(self, patience_s: float, *, can_apply: bool) -> None:
        """Args:
        patience_s: for what a record took to be here; after that a checkpoint will do.
        can_apply: not a storage member.
        """
        self._patience_s = patience_s
        self._can_apply = can_apply
        self._waits_since = float("inf")  # for what the next record took
        self._asks_log_at = float("-inf")
        self._is_asking_log = False
        self._resyncs_at = float("-inf")
        self._is_resyncing = False
        self._collected: set[bytes] = set()  # records for whose contributions was asked
        self._is_record_missing = False  # the way by records is closed: go by checkpoint

    def log(
        self, now: float, position: Position, trusted: bytes | None, told: Mapping[Head, Set[PeerId]], asks: set[PeerId]
    ) -> list[Effect]:
        """Ask those who say that they are further; `trusted` is a record to be proved before anything else."""
        newest = position.round
        ahead = {peer for head, peers in told.items() if head.round > newest for peer in peers} | asks
        if trusted is not None:
            ahead = {peer for peers in told.values() for peer in peers}
        if self._is_asking_log or now < self._asks_log_at or not ahead:
            return []
        asks.clear()
        self._is_asking_log = True
        holders = tuple(sorted(ahead))
        is_far = max((head.round for head in told), default=0) - newest > LOG_TOLD_MAX
        if trusted is not None or is_far:
            return [AskProof(position, trusted or position.record, holders)]
        return [AskLog(newest + 1, holders)]

    def log_asked(self, now: float, *, is_news: bool) -> None:
        """The end of an AskLog or AskProof."""
        self._is_asking_log = False
        self._asks_log_at = now if is_news else now + PAUSE_S

    def state(
        self,
        now: float,
        view: View,
        following: Closed | None,
        other_state: bytes | None,
        told: Mapping[Head, Set[PeerId]],
    ) -> list[Effect]:
        """Go to the state of the newest record, which is not this member's: `following` is the one after its own."""
        if self._is_resyncing or now < self._resyncs_at:
            return []
        differs = other_state not in (None, view.head.digest)
        if following is not None:
            differs = following.record.base_digest != view.head.digest
            is_near = view.ledger.newest - view.head.round <= ROUNDS_SERVED
            self._waits_since = min(self._waits_since, now)
            is_slow = now >= self._waits_since + self._patience_s
            if self._can_apply and is_near and not differs and not self._is_record_missing and not is_slow:
                return self._collect(view, following)
        target = self._target(view, told, other_state if following is None else None)
        if target is None:
            return []
        self._is_resyncing = True
        effects: list[Effect] = []
        if differs and view.head.round > 0:
            text = f"this member's state after round {view.head.round} differs from the others'; taking over theirs"
            effects.append(Observe(Problem(text)))
        head, peers = target
        return [*effects, Resync(head, tuple(sorted(peers)))]

    def _collect(self, view: View, following: Closed) -> list[Effect]:
        """Have all that the next record took."""
        taken = (share.contribution for share in following.record.taken)
        missing = tuple(hash for hash in taken if view.pool.get(hash) is None)
        if not missing or following.hash in self._collected:
            return []
        self._collected.add(following.hash)
        return [Collect(following.hash, missing, following.proposer)]

    def _target(
        self, view: View, told: Mapping[Head, Set[PeerId]], wanted: bytes | None
    ) -> tuple[Head, Set[PeerId]] | None:
        """The best of the heads that are told: in the log, as far along as can be, certified or told by most votes."""

        def rank(head: Head) -> tuple[int, bool, int, int, bytes]:
            is_certified = head.digest in (view.ledger.digest_at(head.round), wanted)
            return head.round, is_certified, view.electorate.count(told[head]), len(told[head]), head.digest

        better = (head for head in told if is_better(head, view.head, view.ledger, wanted))
        best = max(better, key=rank, default=None)
        return None if best is None else (best, told[best])

    def resynced(self, now: float, *, has_arrived: bool) -> None:
        """The end of a Resync."""
        self._is_resyncing = False
        self._resyncs_at = now if has_arrived else now + PAUSE_S
        if not has_arrived:
            self.arrived()  # the other way may be open by now

    def arrived(self) -> None:
        """This member stands at another head."""
        self._is_record_missing = False
        self._waits_since = float("inf")
        self._collected.clear()

    def close_way_by_records(self) -> None:
        """What the next record took is not to be had."""
        self._is_record_missing = True

    def deadline(self, now: float) -> float:
        """When another attempt may be made."""
        times = (self._asks_log_at, self._resyncs_at, self._waits_since + self._patience_s)
        return min((at for at in times if at > now), default=float("inf"))


def is_better(head: Head, own: Head, ledger: Ledger, wanted: bytes | None) -> bool:
    """Whether `head` is in the log and further than this member's `own`, or as far and of the state to be had there.

    Args:
        wanted: a state that a quorum computed after the newest record, though nothing certifies it yet.
    """
    if ledger.hash_at(head.round) != head.record or head.round < own.round:
        return False
    certified = ledger.digest_at(head.round)
    if certified is not None and head.digest != certified:
        return False
    return head.round > own.round or (head.digest != own.digest and head.digest in (certified, wanted))
