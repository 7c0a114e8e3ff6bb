"""Which chunk is asked of a holder next: of those that are missing, in which order, by whom else.

Rare ones first: what few have is soon had by more. A slow holder that others fetch from too is asked for each chunk by
one of them at a time (blob_turns.py); the rest wait until somebody faster has it. Whoever keeps the others waiting for
its turn loses it: once, and for good.

The chunks are bits of integers of up to 8 KiB: what costs more than a few operations on these is done when a bitmap
changes, or for a slow holder, not for each chunk.
"""

import math
from collections import Counter
from typing import Final

from .blob_holder import Holder, Lines, State, speed_class
from .blob_turns import by_rarity, first_bit, turns
from .blobs import CHUNK_BYTES
from .port import PeerId

LOOK_S: Final = 0.25  # how often it is looked whether there is something to ask a slow holder for
GAIN_S: Final = 0.25  # that a second copy of a chunk must save, or its bytes are wasted
PATIENCE_S: Final = 2.0  # with others' turns, beside twice the time that a chunk takes of the slowest
PATIENCE_S_MAX: Final = 30.0


class Picks:
    """The chunks of one fetch.

    Args:
        holders: all that are known; READY ones may be asked.
        place: one's own among those that fetch.
        count: of chunks.
        have: those that are here, as bits.
    """

    def __init__(self, holders: dict[PeerId, Holder], lines: Lines, place: int, count: int, have: int) -> None:
        self._holders = holders
        self._place = place
        self._lines = lines
        self._count = count
        self._start = place % count if count else 0
        self.missing = ((1 << count) - 1) & ~have  # neither stored nor being verified
        self.free = self.missing  # of them, not asked of anybody
        self.asked: Counter[int] = Counter()  # of how many holders
        self.typical_s = 0.0  # that a chunk takes of a holder with unknown rate
        self._fetchers: list[Holder] = []  # that fetch too, by place
        self._turn = 0  # chunks whose turn it is
        self._rarity: list[int] = []

    @property
    def is_shared(self) -> bool:
        """Whether others fetch the blob at the same time."""
        return bool(self._fetchers)

    def bitmaps_changed(self) -> None:
        """Or who fetches too."""
        fetchers = sorted((h for h in self._holders.values() if h.is_fetching), key=lambda h: (h.place, h.peer))
        own_speed = speed_class(self._lines.own_rate)
        self._fetchers = fetchers
        group = [h for h in fetchers if h.line.speed == own_speed]
        number = sum(h.place < self._place for h in group)
        haves = [h.have for h in group]
        self._turn = turns([*haves[:number], 0, *haves[number:]], number, self._count)
        for faster in fetchers:
            if faster.line.speed > own_speed:
                self._turn &= faster.have
        self._rarity = by_rarity(h.have for h in fetchers) if fetchers else []
        if self._rarity:
            self._lines.waiting[self] = (self.free & ~self._rarity[0]).bit_count()
        for holder in self._holders.values():
            holder.look_at = 0.0
            if self._rarity and holder.have & self.missing & self._rarity[0]:
                holder.line.fresh_for.add(self)
            else:
                holder.line.fresh_for.discard(self)

    def close(self) -> None:
        """Nothing is awaited of anybody any more."""
        self._lines.waiting.pop(self, None)
        for holder in self._holders.values():
            self.give_back(holder)
            holder.line.fresh_for.discard(self)

    def ask(self, holder: Holder, index: int, now: float) -> None:
        """A chunk is going to be asked of a holder."""
        if not holder.under_way:
            holder.head_since = now
        if not holder.line.under_way:
            holder.line.since = now
        holder.line.under_way += 1
        holder.under_way.append(index)
        holder.idle_since = None
        self.asked[index] += 1
        self.free &= ~(1 << index)

    def give_back(self, holder: Holder) -> None:
        """Nothing of what is under way at a holder is going to come."""
        for index in holder.under_way:
            self._forget(index)
        holder.line.under_way -= len(holder.under_way)
        holder.under_way.clear()

    def came(self, holder: Holder, index: int) -> bool:
        """From a holder that was asked for it. Whether it was missing; it no longer is."""
        holder.under_way.remove(index)
        holder.line.under_way -= 1
        self._forget(index)
        bit = 1 << index
        is_wanted = bool(self.missing & bit)
        self.missing &= ~bit
        self.free &= ~bit
        return is_wanted

    def was_wrong(self, index: int) -> None:
        self.missing |= 1 << index
        if not self.asked[index]:
            self.free |= 1 << index

    def pick_free(self, holder: Holder, now: float) -> int | None:
        """A chunk that nobody was asked for."""
        wanted = holder.have & self.free
        if not wanted or now < holder.look_at:
            return None
        if not self._fetchers or holder.is_quick(now):
            return self._rarest(wanted)
        if not holder.is_slow(now):
            own = wanted & self._turn
            return first_bit(own, 0) if own else self._rarest(wanted)
        index = self._pick_slow(holder, wanted, now)
        if index is None:
            holder.look_at = now + LOOK_S
        return index

    def pick_late(self, holder: Holder, now: float) -> int | None:
        """A chunk that another holder is late with, or, when nothing else is left, will be slow with."""
        wanted = holder.have & self.missing
        if self._fetchers and holder.is_slow(now) and not self._has_waited(holder, now):
            wanted &= self._turn & ~self._quicker(holder, now)[0]
        own_s = (holder.line.under_way + 1) * holder.chunk_s(self.typical_s)
        is_own_late = now >= holder.late_at(self.typical_s)
        best: tuple[float, int] | None = None
        for other in self._holders.values():
            if other is holder or not other.under_way:
                continue
            is_late, chunk_s = now >= other.late_at(self.typical_s), other.share_s(self.typical_s)
            longest_s = math.inf if is_late else len(other.under_way) * chunk_s
            if (self.free and not is_late) or (is_late and is_own_late) or longest_s <= 2 * own_s + GAIN_S:
                continue
            for position, index in enumerate(other.under_way, 1):
                theirs_s = math.inf if is_late else position * chunk_s
                if wanted >> index & 1 and theirs_s > 2 * own_s + GAIN_S and self.asked[index] < 2:
                    best = max(best or (0.0, 0), (theirs_s, -index))
        return None if best is None else -best[1]

    def _pick_slow(self, holder: Holder, wanted: int, now: float) -> int | None:
        quick, quick_s = self._quicker(holder, now)
        scarce = wanted & ~quick
        if fresh := holder.have & self.missing & self._rarity[0]:
            scarce &= fresh  # the rest is to be had of others
        if own := scarce & self._turn:
            last = 1 << self._count - 1  # it may be short: the less there is to spread when all waits for it
            return (own & ~last or own).bit_length() - 1  # the first ones may be on their way to those they fell to
        is_spare = not holder.line.fresh_for  # else it has better things to send
        if wanted & quick and is_spare and (holder.line.under_way + 1) * holder.chunk_s(self.typical_s) < quick_s:
            return self._rarest(wanted & quick)
        if not scarce:
            return None
        if not self._has_waited(holder, now):
            return None
        assert holder.idle_since is not None
        index = self._rarest(scarce)
        stuck = [h for h in self._fetchers if not h.have >> index & 1 and h.gained_at < holder.idle_since]
        holder.idle_since = None
        for late in stuck:
            late.is_given_up, late.is_fetching = True, False
        self.bitmaps_changed()
        if stuck:
            return self.pick_free(holder, now)  # in the order of those that are left
        return index

    def _quicker(self, holder: Holder, now: float) -> tuple[int, float]:
        """What quicker holders have, and in how many seconds they have sent all that this node waits for."""
        quick, rate, waiting = 0, 0.0, sum(self._lines.waiting.values())
        for other in self._holders.values():
            is_quicker = other.is_quick(now) or other.line.speed > holder.line.speed
            if other.state is State.READY and is_quicker and not other.is_silent(self.typical_s, now):
                quick |= other.have
                rate += other.rate or 0.0
                waiting += other.line.under_way
        return quick, waiting * CHUNK_BYTES / rate if rate else 0.0

    def _has_waited(self, holder: Holder, now: float) -> bool:
        """For so long that it waits no more for those whose turn it is."""
        if holder.idle_since is None:
            holder.idle_since = now
        slowest_s = max(h.line.chunk_s(now) or 0.0 for h in self._holders.values())
        return now >= holder.idle_since + min(2 * slowest_s + PATIENCE_S, PATIENCE_S_MAX)

    def _rarest(self, wanted: int) -> int:
        for rare in self._rarity:
            if wanted & rare:
                return first_bit(wanted & rare, self._start)
        return first_bit(wanted, self._start)

    def _forget(self, index: int) -> None:
        self.asked[index] -= 1
        if self.asked[index] <= 0:
            del self.asked[index]
            self.free |= self.missing & 1 << index
