"""What this node itself has published, and when to publish it again.

Records and announcements live for 36 hours; each is renewed at a moment of its own 12 to 22 hours after the last time,
drawn from a seed: a node that publishes a thousand blobs does not renew them all at once. A first publication, and one
that reached nobody, is due at once, then after RETRY_S_MIN, doubled up to RETRY_S_MAX.
"""

import math
from dataclasses import dataclass
from typing import Final

from blake3 import blake3

from .keys import RecordKey

RENEW_S_MIN: Final = 12 * 3600.0
RENEW_S_MAX: Final = 22 * 3600.0
RETRY_S_MIN: Final = 5.0
RETRY_S_MAX: Final = 600.0
PUBLISHED_MAX: Final = 16_384  # keys of one node
DUE_AT_ONCE_MAX: Final = 8


@dataclass(frozen=True, slots=True)
class OwnRecord:
    """Sign `body` anew and put it to the k closest peers of `key`."""

    key: RecordKey
    body: bytes


@dataclass(frozen=True, slots=True)
class OwnProvision:
    """Announce this node at the k closest peers of `key`."""

    key: bytes


Own = OwnRecord | OwnProvision


@dataclass(slots=True)
class _Published:
    own: Own
    due_at: float
    failures: int = 0
    is_under_way: bool = False


class Renewal:
    """Args:
    seed: of the moments.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._published: dict[bytes, _Published] = {}
        self._under_way_count = 0
        self._wake_at = math.inf  # nothing is due before

    def publish(self, own: Own, now: float) -> bool:
        """Keep this published from now on; a record replaces the one under its key. False: PUBLISHED_MAX are."""
        key = key_of(own)
        known = self._published.get(key)
        if known is None:
            if len(self._published) >= PUBLISHED_MAX:
                return False
            self._published[key] = _Published(own, now)
            self._wake_at = min(self._wake_at, now)
        elif known.own != own:
            known.own, known.due_at, known.failures = own, now, 0
            self._wake_at = min(self._wake_at, now)
        return True

    def withdraw(self, key: bytes) -> None:
        """Let it expire."""
        known = self._published.pop(key, None)
        if known is not None and known.is_under_way:
            self._under_way_count -= 1

    def wants(self, own: Own) -> bool:
        """Whether it is still what stands under its key."""
        known = self._published.get(key_of(own))
        return known is not None and known.own == own

    def published(self, own: Own, now: float, reached_count: int) -> None:
        """A publication that `due` ordered is done: so many peers took it."""
        key = key_of(own)
        known = self._published.get(key)
        if known is None or not known.is_under_way:
            return
        known.is_under_way = False
        self._under_way_count -= 1
        if known.own != own:
            self._wake_at = min(self._wake_at, now)
            return  # replaced meanwhile, and due at once
        if reached_count:
            known.failures = 0
            known.due_at = now + RENEW_S_MIN + (RENEW_S_MAX - RENEW_S_MIN) * self._drawn(key, now)
        else:
            pause_s = min(RETRY_S_MAX, RETRY_S_MIN * 2.0 ** min(known.failures, 16))
            known.due_at = now + pause_s * (0.5 + self._drawn(key, now) / 2)
            known.failures += 1
        self._wake_at = min(self._wake_at, known.due_at)

    @property
    def deadline(self) -> float:
        """When `due` should be asked again, at the latest; sometimes there is nothing then."""
        if self._under_way_count >= DUE_AT_ONCE_MAX:
            return math.inf  # `published` will make room
        return self._wake_at

    def due(self, now: float) -> list[Own]:
        """What to publish now, longest overdue first, at most DUE_AT_ONCE_MAX under way at a time."""
        overdue = sorted(
            (each.due_at, key) for key, each in self._published.items() if each.due_at <= now and not each.is_under_way
        )
        chosen = [self._published[key] for _, key in overdue[: DUE_AT_ONCE_MAX - self._under_way_count]]
        for each in chosen:
            each.is_under_way = True
        self._under_way_count += len(chosen)
        waiting = (each.due_at for each in self._published.values() if not each.is_under_way)
        self._wake_at = min(waiting, default=math.inf)
        return [each.own for each in chosen]

    def _drawn(self, key: bytes, now: float) -> float:
        """A number in [0, 1)."""
        return int.from_bytes(blake3(f"{self._seed}/{now:.0f}".encode() + key).digest(6), "big") / 2**48


def key_of(own: Own) -> bytes:
    """Under what `Renewal` knows it."""
    return own.key.data if isinstance(own, OwnRecord) else own.key
