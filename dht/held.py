"""The records this node holds for others, and when to pass them on.

A record is kept until it expires if this node is among the k closest it knows of, else for CACHE_S only: that bounds
what caching along the path of lookups (Maymounkov and Mazieres, section 2.3) leaves behind. Every hour or so each
record is put anew to the peers that are closest by then, unless somebody else has just done so here; the hour is
jittered by a seed, so that of the k holders mostly one does.

What a malicious peer may do: put valid records, of which it may sign as many as it likes. What it cannot do: take more
than PER_WRITER_MAX places with one id or PER_RANGE_MAX from one range of addresses (senders count, since ids are free),
or push out what lies closer to this node than its own. Bounds in count and in bytes.
"""

from typing import Final

from shoal.transport.port import Address
from shoal.transport.wire import Malformed

from .records import Record

RECORDS_MAX: Final = 8192
BYTES_MAX: Final = 32 * 2**20
PER_WRITER_MAX: Final = 64
PER_RANGE_MAX: Final = 512  # sent from one narrow range of addresses
CACHE_S: Final = 600.0
REPUBLISH_S: Final = 3600.0


class HeldRecords:
    """Args:
    position: this node's (`keys.position_of_peer`).
    seed: of the jitter.
    """

    def __init__(self, position: int, seed: int) -> None:
        raise NotImplementedError

    def put(
        self, record: Record, sent_from: Address | None, is_near: bool, now: float, unix_s: float
    ) -> Malformed | None:
        """Keep a sound record. Malformed: why it is refused, an older one than the one held among the reasons."""
        raise NotImplementedError

    def get(self, key: bytes, now: float, unix_s: float) -> Record | None:
        raise NotImplementedError

    @property
    def deadline(self) -> float:
        """When `due` should be asked again, at the latest."""
        raise NotImplementedError

    def due(self, now: float, unix_s: float) -> list[Record]:
        """Records to put anew to the k closest peers of their keys, a few at a time; forgets what has expired."""
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError
