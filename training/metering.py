"""How long the parts of a round took and what it sent, for the owner's eyes."""

from shoal.transport.port import PeerId, Traffic

from .events import RoundClosed
from .ledger import Closed


class RoundMeter:
    """One member's, round after round."""

    def __init__(self, me: PeerId, traffic: Traffic) -> None:
        self._me = me
        self._traffic = traffic
        self._contributed_at = float("-inf")
        self.bytes_per_s = 0  # at which payloads are fetched; 0: not known

    def fetched(self, size: int, seconds: float) -> None:
        """A payload has come."""
        rate = int(size / max(seconds, 1e-3))
        self.bytes_per_s = (self.bytes_per_s + rate) // 2 if self.bytes_per_s else rate

    def contribute(self, now: float) -> None:
        """This member's own work is done."""
        self._contributed_at = now

    def close(
        self, now: float, started_at: float, applying_at: float, traffic: Traffic, closed: Closed, digest: bytes
    ) -> RoundClosed:
        """The round that started here at `started_at`, was complete at `applying_at` and is applied now.

        `traffic` is the node's since its start. Who contributed nothing, or only while what the others made was being
        applied, spent all the time before that in training.
        """
        before, self._traffic = self._traffic, traffic
        started_at = min(started_at, applying_at)
        contributed_at = self._contributed_at if started_at <= self._contributed_at <= applying_at else applying_at
        contributors = tuple(dict.fromkeys(share.member for share in closed.record.taken))
        return RoundClosed(
            round=closed.record.round,
            contributors=contributors,
            state_digest=digest.hex(),
            seconds=now - started_at,
            phases={
                "train": contributed_at - started_at,
                "exchange": applying_at - contributed_at,
                "apply": now - applying_at,
            },
            bytes_sent=traffic.bytes_sent - before.bytes_sent,
            bytes_received=traffic.bytes_received - before.bytes_received,
            own_taken=self._me in contributors,
            attempt=closed.decided.attempt,
            proposer=closed.proposer,
        )
