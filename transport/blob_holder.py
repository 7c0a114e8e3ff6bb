"""What a fetch knows of one holder: what it has, what it is to send, and how fast it does. Pure."""

import enum
import math
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from .blobs import CHUNK_BYTES
from .port import PeerId

WINDOW_MIN: Final = 2  # chunks under way at one holder: one on the wire, one being read from its disk
WINDOW_MAX: Final = 64  # 250 MB/s at a round trip of 250 ms, and a quarter of what may wait at a holder
WINDOW_S: Final = 0.5  # or as many as it delivers in this time: one more connection finds something to do
SHARED_S: Final = 0.25  # and in this where others fetch too: what they get first, they have for this node
SOON_S: Final = 0.5  # before a slow holder is done with a chunk it is asked for the next: round trips, with full queues
SLOW_S: Final = 1.0  # a chunk that takes longer pays for asking around who else has it
WIDE_BYTES_PER_S: Final = 8_000_000  # who sends so much in all is busy where it is slow: its line is not what is scarce
LINES_MAX: Final = 1_024  # peers whose rates are remembered
LOOK_S: Final = 4.0  # over which it is measured how fast this node sends; shorter: what the system buffers counts
FORGOTTEN: Final = 0.999  # of that, at each look: half of it in 10 minutes of sending
RATE_S: Final = 0.5  # over which a rate is measured: chunks that several connections bring come at once
LATE_S_MIN: Final = 1.0  # a pause of our own may look like one of the holder
LATE_S_MAX: Final = 10.0
STALL_S: Final = 30.0  # without a chunk, a part of one, or a word that its turn will come
LATE_FACTOR: Final = 4.0  # times what its measured rate lets expect
RATE_UNKNOWN: Final = 2e6  # bytes/s, expected of the first holder
REST_S: Final = 1.0  # doubled with each strike
REST_S_MAX: Final = 60.0
LACK_S: Final = 0.5  # until one that has nothing yet is asked again; doubled each time
LACK_S_MAX: Final = 8.0
LACKS_MAX: Final = 3  # then it does not count as one that fetches too


def speed_class(bytes_per_s: float) -> int:
    """Rates within a factor of 2 are told alike: all fetchers are to see the same order."""
    return int(bytes_per_s).bit_length()


class State(enum.Enum):
    NEW = "not asked yet"
    ASKED = "asked"
    READY = "ready"
    RESTING = "resting"
    BANNED = "banned"


@dataclass(slots=True)
class Line:
    """What leads from one peer to this node, as all fetches see it."""

    rate: float | None = None  # bytes/s, smoothed
    speed: int = 0  # at which the peer says it sends to all: its class, see `speed_class`
    under_way: int = 0  # chunks that are asked for and not here
    since: float = 0.0  # when the last of them came, or the first was asked for
    fresh_for: set[object] = field(default_factory=set[object])  # fetches: nobody but this peer has some of the chunks
    _bytes: int = 0  # that came since the rate was last measured
    _busy_s: float = 0.0  # in which something was under way since then

    def chunk_s(self, now: float) -> float | None:
        """How long a chunk takes, or at least; None: not known."""
        waited_s = now - self.since if self.under_way else 0.0
        if self.rate is not None:
            return CHUNK_BYTES / self.rate
        return waited_s if waited_s > SLOW_S else None

    def delivered(self, size: int, now: float) -> None:
        """A chunk of so many bytes came."""
        self._bytes += size
        self._busy_s += now - self.since
        self.since = now
        if self.rate is None or (self._busy_s >= RATE_S and self._bytes > CHUNK_BYTES):  # two may come side by side
            sample = self._bytes / max(self._busy_s, 1e-6)
            self.rate = sample if self.rate is None else (self.rate + sample) / 2
            self._bytes, self._busy_s = 0, 0.0


class Lines:
    """Those of all peers that something was asked of lately."""

    def __init__(self) -> None:
        self.own_rate = 0  # bytes/s that this node has sent at its best of late
        self.waiting: dict[object, int] = {}  # of each fetch, the chunks not asked for that more than one peer has
        self._sent_bytes = 0
        self._looked_at = -math.inf
        self._lines: OrderedDict[PeerId, Line] = OrderedDict()

    def sent(self, total_bytes: int, now: float) -> None:
        """So much has left this node since it was started. To be told often while it is asked for something."""
        if now >= self._looked_at + LOOK_S:
            rate = int((total_bytes - self._sent_bytes) / (now - self._looked_at))
            self.own_rate = max(rate, int(self.own_rate * FORGOTTEN))
            self._sent_bytes, self._looked_at = total_bytes, now

    def of(self, peer: PeerId) -> Line:
        line = self._lines.setdefault(peer, Line())
        self._lines.move_to_end(peer)
        while len(self._lines) > LINES_MAX:
            self._lines.popitem(last=False)
        return line


@dataclass(slots=True)
class Holder:
    """One holder, or one that may become one."""

    peer: PeerId
    place: int  # among those that fetch the blob
    line: Line
    state: State = State.NEW
    have: int = 0  # chunks, as bits
    is_full: bool = False
    is_fetching: bool = True  # it has a part, or is thought to get one soon
    gained_at: float = 0.0  # when it had more than before
    is_given_up: bool = False  # it let a chunk wait for too long whose turn it had
    under_way: list[int] = field(default_factory=list[int])  # asked for and not here, in order
    head_since: float = 0.0  # when the first of them could begin to arrive
    heard_at: float = 0.0  # when something came of it last, be it not a whole chunk
    strikes: int = 0
    lacks: int = 0  # times it had nothing
    until: float = 0.0  # RESTING: when it is tried again; READY: when it may be asked again what it has
    is_asked_again: bool = False
    reason: str = ""  # of the last strike
    look_at: float = 0.0  # before, there is nothing to ask it for
    idle_since: float | None = None  # only chunks whose turn is another's were to be had of it

    def is_slow(self, now: float) -> bool:
        return self.line.chunk_s(now) is not None and not self.is_quick(now)

    def is_quick(self, now: float) -> bool:
        chunk_s = self.line.chunk_s(now)
        is_wide = self.line.speed >= speed_class(WIDE_BYTES_PER_S) and self.line.rate is not None
        return chunk_s is not None and (chunk_s <= SLOW_S or is_wide)

    @property
    def rate(self) -> float | None:
        return self.line.rate

    def chunk_s(self, typical_s: float) -> float:
        """From one chunk that comes of the line to the next."""
        return typical_s if self.line.rate is None else CHUNK_BYTES / self.line.rate

    def share_s(self, typical_s: float) -> float:
        """From one chunk of this blob to the next, while other blobs' come by the same line."""
        return self.chunk_s(typical_s) * max(1.0, self.line.under_way / max(1, len(self.under_way)))

    def late_at(self, typical_s: float) -> float:
        """When the chunk that should arrive next is late: nothing has come of the line for so long, or not this chunk
        while others' came, which may be before it in the same line.
        """
        if not self.under_way:
            return math.inf
        silent_at = self.line.since + self._silent_s(typical_s)
        return min(max(self.head_since + self._silent_s(typical_s), silent_at), self.head_since + LATE_S_MAX)

    @property
    def stalls_at(self) -> float:
        """When nothing has come of what it was asked for, nor was said that it will, for STALL_S."""
        return max(self.head_since, self.heard_at) + STALL_S

    def is_silent(self, typical_s: float, now: float) -> bool:
        """Whether nothing comes of the line, though something is due."""
        return self.line.under_way > 0 and now >= self.line.since + self._silent_s(typical_s)

    def _silent_s(self, typical_s: float) -> float:
        return min(LATE_S_MIN + LATE_FACTOR * self.chunk_s(typical_s), LATE_S_MAX)

    def room(self, is_shared: bool, now: float, beginning: int = 0) -> int:
        """For how many more chunks there is room under way.

        Args:
            is_shared: others fetch the same of it.
            beginning: so many are to be under way, whatever the rate was so far.
        """
        if self.is_quick(now):
            assert self.line.rate is not None
            ahead = self.line.rate * (SHARED_S if is_shared else WINDOW_S) / CHUNK_BYTES
            least = 1 if is_shared and self.line.under_way > len(self.under_way) + WINDOW_MIN else WINDOW_MIN
            return min(max(math.ceil(ahead), least, beginning), WINDOW_MAX) - len(self.under_way)
        if not is_shared:
            return WINDOW_MIN - len(self.under_way)
        # Of one who has all of it at least one, whatever else comes from it: nobody else may have the chunk.
        window = 1 if now < self.soon_at else WINDOW_MIN
        return window - (len(self.under_way) if self.is_full else self.line.under_way)

    @property
    def soon_at(self) -> float:
        """When a slow holder that has all of it is about to be done with what it was asked for."""
        if not (self.under_way and self.is_full and self.line.rate):
            return math.inf
        return self.head_since + CHUNK_BYTES / self.line.rate - SOON_S

    def delivered(self, size: int, now: float) -> None:
        """A chunk of so many bytes came."""
        self.line.delivered(size, now)
        self.head_since = now
        self.idle_since = None

    def rest(self, reason: str, now: float) -> None:
        self._pause(reason, now + min(REST_S * 2**self.strikes, REST_S_MAX))
        self.strikes = min(self.strikes + 1, 10)
        self.is_fetching = self.is_fetching and self.strikes < LACKS_MAX

    def lack(self, reason: str, now: float) -> None:
        """It has nothing, so far."""
        self._pause(reason, now + min(LACK_S * 2**self.lacks, LACK_S_MAX))
        self.have = 0
        self.lacks = min(self.lacks + 1, 10)
        self.is_fetching = self.is_fetching and self.lacks < LACKS_MAX

    def ban(self, reason: str) -> None:
        self._pause(reason, math.inf)
        self.state = State.BANNED
        self.is_fetching = False

    def _pause(self, reason: str, until: float) -> None:
        self.state, self.reason, self.until = State.RESTING, reason, until
