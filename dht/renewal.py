"""What this node itself has published, and when to publish it again.

Records and announcements live for 36 hours; each is renewed at a moment of its own 12 to 22 hours after the last time,
drawn from a seed: a node that publishes a thousand blobs does not renew them all at once. A first publication, and one
that reached nobody, is due at once, then after RETRY_S_MIN, doubled up to RETRY_S_MAX.
"""

from dataclasses import dataclass
from typing import Final

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


class Renewal:
    """Args:
    seed: of the moments.
    """

    def __init__(self, seed: int) -> None:
        raise NotImplementedError

    def publish(self, own: Own, now: float) -> bool:
        """Keep this published from now on; a record replaces the one under its key. False: PUBLISHED_MAX are."""
        raise NotImplementedError

    def withdraw(self, key: bytes) -> None:
        """Let it expire."""
        raise NotImplementedError

    def published(self, key: bytes, now: float, reached_count: int) -> None:
        """A publication that `due` ordered is done: so many peers took it."""
        raise NotImplementedError

    @property
    def deadline(self) -> float:
        """When `due` should be asked again, at the latest."""
        raise NotImplementedError

    def due(self, now: float) -> list[Own]:
        """What to publish now, at most DUE_AT_ONCE_MAX under way at a time."""
        raise NotImplementedError
