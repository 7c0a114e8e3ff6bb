"""The records this node holds for others, and when to pass them on.

A record is kept until it expires if this node is among the k closest it knows of, else for CACHE_S only: that bounds
what caching along the path of lookups (Maymounkov and Mazieres, section 2.3) leaves behind. Every hour or so each
record is put anew to the peers that are closest by then, unless somebody else has just done so here; the hour is
jittered by a seed, so that of the k holders mostly one does.

What a malicious peer may do: put valid records, of which it may sign as many as it likes. What it cannot do: take more
than PER_WRITER_MAX places with one id or PER_RANGE_MAX from one range of addresses (senders count, since ids are free),
or push out what lies closer to this node than its own. RECORDS_MAX and BYTES_MAX bound the memory.
"""

import math
from bisect import bisect_left, insort
from collections import Counter
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Final

from blake3 import blake3

from shoal.transport.port import Address
from shoal.transport.wire import Malformed

from .contacts import ranges_of
from .keys import position_of
from .records import Record

RECORDS_MAX: Final = 8192
BYTES_MAX: Final = 32 * 2**20
PER_WRITER_MAX: Final = 256
PER_RANGE_MAX: Final = 512  # sent from one narrow range of addresses
CACHE_S: Final = 600.0
REPUBLISH_S: Final = 3600.0
REPUBLISHED_AT_ONCE_MAX: Final = 8
OVERHEAD_BYTES: Final = 600  # of a record held, beside its key and body


@dataclass(slots=True)
class _Held:
    record: Record
    writer: bytes
    size_bytes: int
    distance: int
    range: str | None  # it was sent from
    until: float  # by the clock of `now`
    republish_at: float

    @property
    def wake_at(self) -> float:
        return min(self.until, self.republish_at)


class HeldRecords:
    """Args:
    position: this node's (`keys.position_of_peer`).
    seed: of the jitter.
    """

    def __init__(self, position: int, seed: int) -> None:
        self._position, self._seed = position, seed
        self._held: dict[bytes, _Held] = {}
        self._bytes_held = 0
        self._per_writer: Counter[bytes] = Counter()
        self._per_range: Counter[str] = Counter()
        self._by_distance: list[tuple[int, bytes]] = []
        self._agenda: list[tuple[float, bytes]] = []  # a heap; what was replaced or removed stays for a while

    def put(
        self, record: Record, sent_from: Address | None, is_near: bool, now: float, unix_s: float
    ) -> Malformed | None:
        """Keep a sound record. Malformed: why it is refused, an older one than the one held among the reasons."""
        old = self._held.get(record.key)
        if old is not None and old.until > now and old.record.rank > record.rank:
            return Malformed("a newer record is held")
        ranges = ranges_of(sent_from)
        lives_s = record.expires_at - unix_s
        new = _Held(
            record,
            record.key.rpartition(b"/")[2],
            len(record.body) + len(record.key) + OVERHEAD_BYTES,
            position_of(record.key) ^ self._position,
            None if ranges is None else ranges.narrow,
            now + (lives_s if is_near else min(lives_s, CACHE_S)),
            self._republish_at(record.key, now),
        )
        if old is not None:
            if old.record == record:
                new.until = max(new.until, old.until)
            self._remove(record.key)
        refusal = self._make_room(new)
        if refusal is not None:
            if old is not None:
                self._add(old)
            return refusal
        self._add(new)
        return None

    def get(self, key: bytes, now: float, unix_s: float) -> Record | None:
        held = self._held.get(key)
        return None if held is None or held.until <= now or held.record.expires_at <= unix_s else held.record

    @property
    def deadline(self) -> float:
        """When `due` should be asked again, at the latest."""
        return self._agenda[0][0] if self._agenda else math.inf

    def due(self, now: float, unix_s: float) -> list[Record]:
        """Records to put anew to the k closest peers of their keys, a few at a time; forgets what has expired."""
        records: list[Record] = []
        while self._agenda and self._agenda[0][0] <= now and len(records) < REPUBLISHED_AT_ONCE_MAX:
            at, key = heappop(self._agenda)
            held = self._held.get(key)
            if held is None or held.wake_at != at:
                continue  # it was replaced, and has another entry
            if held.until <= now or held.record.expires_at <= unix_s:
                self._remove(key)
                continue
            records.append(held.record)
            held.republish_at = self._republish_at(key, now)
            heappush(self._agenda, (held.wake_at, key))
        return records

    def __len__(self) -> int:
        return len(self._held)

    def _republish_at(self, key: bytes, now: float) -> float:
        """Between one and two REPUBLISH_S from now, by seed, key and time."""
        drawn = blake3(f"{self._seed}/{now:.0f}".encode() + key).digest(6)
        return now + REPUBLISH_S * (1 + int.from_bytes(drawn, "big") / 2**48)

    def _make_room(self, new: _Held) -> Malformed | None:
        """Drop what lies farther from this node than `new`, as much as is needed, or say why not."""
        if self._per_writer[new.writer] >= PER_WRITER_MAX:
            return Malformed(f"{PER_WRITER_MAX} records of this writer are held")
        if new.range is not None and self._per_range[new.range] >= PER_RANGE_MAX:
            return Malformed(f"{PER_RANGE_MAX} records sent from {new.range} are held")
        while len(self._held) >= RECORDS_MAX or self._bytes_held + new.size_bytes > BYTES_MAX:
            distance, key = self._by_distance[-1]
            if distance <= new.distance:
                return Malformed("this node is full of records that lie closer to it")
            self._remove(key)
        return None

    def _add(self, held: _Held) -> None:
        key = held.record.key
        self._held[key] = held
        insort(self._by_distance, (held.distance, key))
        self._bytes_held += held.size_bytes
        self._per_writer[held.writer] += 1
        if held.range is not None:
            self._per_range[held.range] += 1
        heappush(self._agenda, (held.wake_at, key))
        if len(self._agenda) > 2 * len(self._held) + REPUBLISHED_AT_ONCE_MAX:
            self._agenda = [(each.wake_at, key) for key, each in self._held.items()]
            heapify(self._agenda)

    def _remove(self, key: bytes) -> None:
        held = self._held.pop(key)
        del self._by_distance[bisect_left(self._by_distance, (held.distance, key))]
        self._bytes_held -= held.size_bytes
        self._per_writer[held.writer] -= 1
        if not self._per_writer[held.writer]:
            del self._per_writer[held.writer]
        if held.range is not None:
            self._per_range[held.range] -= 1
            if not self._per_range[held.range]:
                del self._per_range[held.range]
