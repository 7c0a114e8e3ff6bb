"""How many chunks leave a node at once: on a slow line few, one after the other, so that each is soon with somebody who
passes it on. Pure.

Thirty members that ask an uplink of 5 Mbit/s for a chunk each would all have theirs after 48 s, and nothing before. So
there are as many slots as let a chunk through within seconds; more are tried where that lets more through, as where it
is the readers who are slow. Whose owner has fewest chunks on their way goes first, then who has fewest, and of these
what was sent least: the rest may come from others meanwhile. Nobody waits for long behind such as came later.

What a malicious peer may do: read slowly, or not. What it achieves: a slot of its own for HOLD_S, then none; where all
that are taken are such, for LOOK_S_MAX, until more are tried.
"""

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

from .blobs import CHUNK_BYTES

SLOTS_MIN: Final = 2  # with one the line runs dry between two chunks
SLOTS_FIRST: Final = 4
SLOTS_MAX: Final = 256
QUICK_S: Final = 3.0  # for a chunk: there is room for one more
LONG_S: Final = 6.0  # for a chunk: there are too many
LOOK_S: Final = 2.0  # over which it is measured what gets through; shorter: what the system buffers counts
LOOK_S_MAX: Final = 20.0  # or over a chunk's bytes: on a slow line they leave by fits and starts
GAIN: Final = 1.2  # times as much gets through: more slots were worth it
PAUSE_S: Final = 8.0  # after they were not
HOLD_S: Final = 20.0  # a chunk that takes longer has no slot any more
HOLD_FACTOR: Final = 2.0  # or longer than so many times what an equal share of what gets through lets expect
HOLD_S_MAX: Final = 256.0  # then a fetcher gives up too
WAIT_S: Final = 10.0  # who has waited for longer goes first
COUNTED_MAX: Final = 65_536  # chunks of which it is known how often they were sent


@dataclass(eq=False, slots=True)
class Ticket:
    """For one chunk."""

    owner: str
    who: Hashable
    what: Hashable
    asked_at: float
    number: int
    began_at: float | None = None  # None: it waits


class UploadSlots:
    """All of a node's. Times in seconds of any monotonic clock."""

    def __init__(self) -> None:
        self.count = SLOTS_FIRST
        self._waiting: set[Ticket] = set()
        self._active: set[Ticket] = set()
        self._number = 0
        self._sent: Counter[Hashable] = Counter()  # times that each chunk was begun
        self._bytes = 0  # since the last look
        self._looked_at = 0.0
        self._hold_s = HOLD_S
        self._before: tuple[int, float] | None = None  # slots, and bytes/s with these, before more were tried
        self._try_at = 0.0

    def ask(self, owner: str, who: Hashable, what: Hashable, now: float) -> Ticket:
        """A place in the queue for an owner's chunk, to be given back with `leave` whether its turn has come or not."""
        self._number += 1
        ticket = Ticket(owner, who, what, now, self._number)
        self._waiting.add(ticket)
        return ticket

    def begin(self, ticket: Ticket, now: float) -> bool:
        """Whether its turn has come: from then on the chunk may be sent."""
        if ticket.began_at is None:
            self._look(now)
            if self._is_next(ticket, now):
                self._waiting.remove(ticket)
                self._active.add(ticket)
                ticket.began_at = now
                if len(self._sent) >= COUNTED_MAX:
                    self._sent.clear()
                self._sent[ticket.what] += 1
        return ticket.began_at is not None

    def sent(self, size: int) -> None:
        """So many bytes of those whose turn it is."""
        self._bytes += size

    def leave(self, ticket: Ticket, now: float, *, is_whole: bool) -> None:
        """It has been sent, or will not be."""
        self._waiting.discard(ticket)
        self._active.discard(ticket)
        if ticket.began_at is None or not is_whole:
            return
        took_s = now - ticket.began_at
        if took_s < QUICK_S and self._waiting:
            self.count = min(self.count + 1, SLOTS_MAX)
        elif LONG_S < took_s < self._hold_s and self._before is None:
            self.count = max(self.count - 1, SLOTS_MIN)

    def _is_next(self, ticket: Ticket, now: float) -> bool:
        held = [each for each in self._active if each.began_at is not None and now < each.began_at + self._hold_s]
        if len(held) >= self.count:
            return False
        owners, counts = Counter(each.owner for each in self._active), Counter(each.who for each in self._active)

        def order(each: Ticket) -> tuple[bool, int, int, int, int]:
            is_fresh = now < each.asked_at + WAIT_S
            times = self._sent[each.what] if is_fresh else 0
            return is_fresh, owners[each.owner], counts[each.who], times, each.number

        return ticket is min(self._waiting, key=order)

    def _look(self, now: float) -> None:
        """Whether more slots let more through."""
        if not self._active:
            self._bytes, self._looked_at, self._before = 0, now, None
        if now < self._looked_at + (LOOK_S if self._bytes >= CHUNK_BYTES else LOOK_S_MAX):
            return
        rate = self._bytes / (now - self._looked_at)
        self._bytes, self._looked_at = 0, now
        self._hold_s = min(max(HOLD_FACTOR * CHUNK_BYTES * self.count / max(rate, 1.0), HOLD_S), HOLD_S_MAX)
        if self._before is not None and rate < GAIN * self._before[1]:
            self.count, self._before, self._try_at = self._before[0], None, now + PAUSE_S
        elif now >= self._try_at:
            self._before = self.count, rate
            self.count = min(self.count + max(1, self.count // 2), SLOTS_MAX)
