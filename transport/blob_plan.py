"""Which chunk of a blob is asked of whom, and when to stop waiting: the fetch of one blob as a state machine.

Events and the time go in, effects come out; `wake_at` tells when time alone will change something. What is missing is
shared out among a few holders, each with as many chunks under way as it delivers in a moment. A holder whose chunk is
late may be overtaken by another; if it is, or if it delivers nothing for long, it rests and is tried again later.
When nothing is left to ask for, what is under way at slow holders is asked of fast ones too. Every few seconds one
more holder is tried, and the slowest makes room.

A holder may send wrong bytes, bytes nobody asked for, or nothing; it may claim chunks it lacks. Wrong bytes and
unasked ones are proof of a lie: nothing more is taken from it in this fetch. A slow one costs its share of the chunks
a second delivery, no more. All of them together can only keep the blob from arriving; they can't make it wrong, for
what does not hash is not stored.
"""

import enum
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from .blobs import CHUNK_BYTES, RUN_CHUNKS_MAX, BlobRef, Manifest, mask_from_bitmap, parse_manifest
from .port import PeerId
from .wire import Malformed

HOLDERS_MAX: Final = 256  # known to one fetch; later ones are ignored
HOLDERS_AT_ONCE: Final = 6  # delivering; more: more memory (a chunk or two each), little speed
HOLDERS_OPEN_MAX: Final = 12  # with the late ones
EXPLORE_S: Final = 5.0  # how often one more is tried
WINDOW_MIN: Final = 2  # chunks under way at one holder: one on the wire, one being read from its disk
WINDOW_MAX: Final = 8
WINDOW_S: Final = 0.25  # or as many as it delivers in this time
LATE_S_MIN: Final = 1.0  # a pause of our own may look like one of the holder
LATE_S_MAX: Final = 10.0
LATE_FACTOR: Final = 4.0  # times what its measured rate lets expect
RATE_UNKNOWN: Final = 2e6  # bytes/s, expected of the first holder
VERIFIED_AT_ONCE: Final = 4  # chunks being hashed and written; memory, and how long a slow disk holds the network up
STALL_S: Final = 30.0  # for one chunk: 35 KB/s is the least that is of use
REST_S: Final = 1.0  # doubled with each strike
REST_S_MAX: Final = 60.0
HOPELESS_S: Final = 120.0  # without a chunk from anybody; a holder that stalls is tried four times in it
REFRESH_S: Final = 1.0  # between two questions to a holder that has only a part


class _State(enum.Enum):
    NEW = "not asked yet"
    ASKED = "asked"
    READY = "ready"
    RESTING = "resting"
    BANNED = "banned"


@dataclass(slots=True)
class _Holder:
    peer: PeerId
    state: _State = _State.NEW
    have: int = 0  # chunks, as bits
    under_way: list[int] = field(default_factory=list[int])  # asked for and not here, in order
    head_since: float = 0.0  # when the first of them could begin to arrive
    rate: float | None = None  # bytes/s, smoothed
    strikes: int = 0
    until: float = 0.0  # RESTING: when it is tried again; READY: when it may be asked again what it has
    is_asked_again: bool = False
    reason: str = ""  # of the last strike


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask what the peer has; answer with `replied` or `failed`."""

    peer: PeerId
    wants_manifest: bool


@dataclass(frozen=True, slots=True)
class Take:
    """Ask the peer for these chunks, after those it was asked for before; answer with `arrived` or `failed`."""

    peer: PeerId
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Drop:
    """Nothing more is awaited from the peer: close what is open. A lie is worth reporting."""

    peer: PeerId
    reason: str
    is_lie: bool


Effect = Ask | Take | Drop


class FetchPlan:
    """The fetch of one blob.

    Args:
        ref: what to fetch.
        seed: fetchers with different seeds start at different chunks, and so soon have something for one another.
        manifest: if an earlier fetch left it.
    """

    def __init__(self, ref: BlobRef, seed: int, manifest: Manifest | None = None) -> None:
        self.ref = ref
        self.manifest = manifest
        self.failure: str | None = None  # why this can never succeed
        self._seed = seed
        self._holders: dict[PeerId, _Holder] = {}
        self.stored_count = 0  # chunks that came and were sound
        self._effects: list[Effect] = []
        self._missing = 0  # chunks, as bits: neither stored nor being verified
        self._verifying = 0
        self.is_begun = False
        self._start = 0  # the chunk to begin with
        self._explore_at = math.inf
        self._hopeful_until: float | None = None  # set by the first `step`

    def is_hopeless(self, now: float) -> bool:
        """Nothing of use has come for HOPELESS_S: nobody has it, or they lie."""
        return self._hopeful_until is not None and now >= self._hopeful_until and not self._verifying

    @property
    def is_complete(self) -> bool:
        return self.is_begun and not self._missing and not self._verifying

    @property
    def missing_count(self) -> int:
        return (self._missing | self._verifying).bit_count()

    @property
    def liars(self) -> dict[PeerId, str]:
        return {h.peer: h.reason for h in self._holders.values() if h.state is _State.BANNED}

    def offer(self, peers: Iterable[PeerId]) -> None:
        """These are said to have it. Known ones are ignored."""
        for peer in peers:
            if peer not in self._holders and len(self._holders) < HOLDERS_MAX:
                self._holders[peer] = _Holder(peer)

    def begin(self, have: int) -> None:
        """There is room for the blob, and these chunks of it are here. The manifest is known."""
        assert self.manifest is not None
        count = self.manifest.chunk_count
        self._missing = ((1 << count) - 1) & ~have
        self._start = self._seed % count if count else 0
        self.is_begun = True

    def replied(self, peer: PeerId, manifest_data: bytes, bitmap: bytes | None, now: float) -> None:
        """The answer to `Ask`; `manifest_data` is empty if it was not wanted."""
        holder = self._holders[peer]
        holder.is_asked_again = False
        if holder.state not in (_State.ASKED, _State.READY):
            return
        if (self.manifest is None or manifest_data) and not self._accept_manifest(holder, manifest_data, now):
            return
        assert self.manifest is not None
        have = mask_from_bitmap(bitmap, self.manifest.chunk_count)
        if isinstance(have, Malformed):
            self._ban(holder, have.reason)
            return
        holder.state = _State.READY
        holder.have = have
        holder.until = now + REFRESH_S

    def failed(self, peer: PeerId, reason: str, now: float, is_lie: bool = False) -> None:
        """The peer refused, vanished, or does not have it after all: it rests. Or it sent what no honest peer sends."""
        holder = self._holders[peer]
        holder.is_asked_again = False
        if is_lie:
            self._ban(holder, reason)
        elif holder.state in (_State.ASKED, _State.READY):
            self._rest(holder, reason, now)

    def arrived(self, peer: PeerId, index: int, now: float) -> bool:
        """A chunk's bytes came. Returns whether they are wanted: then verify them and tell `stored`."""
        holder = self._holders[peer]
        if holder.state is not _State.READY:
            return False
        if index not in holder.under_way:
            self._ban(holder, f"sent chunk {index}, which it was not asked for")
            return False
        assert self.manifest is not None
        sample = self.manifest.chunk_bytes(index) / max(now - holder.head_since, 1e-6)
        holder.rate = sample if holder.rate is None else 0.7 * holder.rate + 0.3 * sample
        holder.under_way.remove(index)
        holder.head_since = now
        bit = 1 << index
        if not self._missing & bit:
            return False
        self._missing &= ~bit
        self._verifying |= bit
        self._overtake(index, now)
        return True

    def stored(self, peer: PeerId, index: int, is_valid: bool, now: float) -> None:
        """The verdict on a chunk that `arrived` wanted: it hashed to what the manifest lists and is stored, or not."""
        if self._verifying.bit_count() > VERIFIED_AT_ONCE:
            for holder in self._holders.values():  # chunks wait for our own disk: no holder is late for that
                holder.head_since = now
        self._verifying &= ~(1 << index)
        if is_valid:
            self.stored_count += 1
            self._holders[peer].strikes = 0
            self._hopeful_until = now + HOPELESS_S
            return
        self._missing |= 1 << index
        self._ban(self._holders[peer], f"chunk {index} does not hash to what the manifest lists")

    def step(self, now: float) -> list[Effect]:
        """What to do now. To be called after events and at `wake_at`."""
        self._hopeful_until = self._hopeful_until or now + HOPELESS_S
        for holder in self._holders.values():
            if holder.state is _State.RESTING and now >= holder.until:
                holder.state = _State.NEW
            elif holder.under_way and now >= holder.head_since + STALL_S:
                self._drop(holder, f"delivered nothing for {STALL_S:.0f} s", now)
        if not self.is_complete and self.failure is None:
            self._ask(now)
            self._take(now)
        effects, self._effects = self._effects, []
        return effects

    def wake_at(self, now: float) -> float:
        """When `step` may have something to do though nothing happened; infinity if never."""
        times = [self._hopeful_until or math.inf]
        for holder in self._holders.values():
            if holder.state is _State.RESTING or (holder.state is _State.READY and self._is_partial(holder)):
                times.append(max(holder.until, now + 0.01))
            elif holder.state is _State.NEW:
                times.append(max(self._explore_at, now + 0.01))
            if holder.under_way:
                times += [holder.head_since + STALL_S]
                times += [at for at in [self._late_at(holder)] if at > now]
        return min(times)

    def explain(self) -> str:
        """Why it is not here yet, for people."""
        if self.failure is not None:
            return self.failure
        what = "its manifest is missing" if not self.is_begun else f"{self.missing_count} chunks are missing"
        if not self._holders:
            return f"{what}; nobody is known to hold it"
        said = [f"{h.peer}: {h.reason or h.state.value}" for h in self._holders.values()]
        more = f" and {len(said) - 4} more" if len(said) > 4 else ""
        return f"{what}; of {len(said)} holders {len(self.liars)} lied ({'; '.join(said[:4])}{more})"

    def _accept_manifest(self, holder: _Holder, data: bytes, now: float) -> bool:
        if not data:  # it was asked while another's manifest was being taken up, or it answers half
            self._rest(holder, "sent no manifest", now)
            return False
        manifest = parse_manifest(data, self.ref.digest)
        if isinstance(manifest, Malformed):
            self._ban(holder, manifest.reason)
            return False
        if manifest.size != self.ref.size:
            self.failure = (
                f"the reference says {self.ref.size} bytes, the manifest {manifest.size}: whoever named it erred"
            )
            return False
        self.manifest = manifest
        return True

    def _ask(self, now: float) -> None:
        """Ask new holders what they have, and those with a part what they have by now."""
        ready = [h for h in self._holders.values() if h.state is _State.READY and self._useful(h)]
        asked_count = sum(h.state is _State.ASKED for h in self._holders.values())
        active_count = asked_count + sum(now < self._late_at(h) for h in ready)
        new = [h for h in self._holders.values() if h.state is _State.NEW]
        if self._explore_at == math.inf and self.is_begun:
            self._explore_at = now + EXPLORE_S
        slots = min(HOLDERS_AT_ONCE - active_count, HOLDERS_OPEN_MAX - asked_count - len(ready))
        if slots <= 0 and new and now >= self._explore_at:
            self._explore_at = now + EXPLORE_S
            self._make_room(ready, now)
            slots = 1
        for holder in new[: max(slots, 0)]:
            holder.state = _State.ASKED
            self._effects.append(Ask(holder.peer, self.manifest is None))
        for holder in self._holders.values():
            if holder.state is _State.READY and self._is_partial(holder) and now >= holder.until:
                holder.is_asked_again = True
                self._effects.append(Ask(holder.peer, wants_manifest=False))

    def _make_room(self, ready: list[_Holder], now: float) -> None:
        """If as many holders are open as may be, the slowest rests."""
        measured = [h for h in ready if h.rate is not None]
        if len(ready) > HOLDERS_AT_ONCE and measured:
            self._drop(min(measured, key=lambda h: h.rate or 0.0), "slower than the others", now)

    def _take(self, now: float) -> None:
        """Fill every ready holder's window, the fastest first: with chunks nobody was asked for, then late ones."""
        ready = [h for h in self._holders.values() if h.state is _State.READY and h.have & self._missing]
        ready.sort(key=lambda h: -(h.rate or 0.0))
        for pick in (self._pick_free, self._pick_late):
            for holder in ready:
                picked: list[int] = []
                while len(holder.under_way) < self._window(holder) and (index := pick(holder, now)) is not None:
                    if not holder.under_way:
                        holder.head_since = now
                    holder.under_way.append(index)
                    picked.append(index)
                self._effects += [Take(holder.peer, first, count) for first, count in _runs(picked)]

    def _pick_free(self, holder: _Holder, now: float) -> int | None:
        """A chunk that nobody was asked for."""
        free = holder.have & self._missing & ~self._assigned()
        return _first_bit(free, self._start) if free else None

    def _pick_late(self, holder: _Holder, now: float) -> int | None:
        """A chunk that another holder is late with, or, when nothing else is left, will be slow with."""
        wanted = holder.have & self._missing
        is_endgame = not self._missing & ~self._assigned()
        own_s = (len(holder.under_way) + 1) * self._chunk_s(holder)
        best: tuple[float, int] | None = None
        for other in self._holders.values():
            is_late = bool(other.under_way) and now >= self._late_at(other)
            if other is holder or not (is_late or is_endgame) or (is_late and now >= self._late_at(holder)):
                continue
            for position, index in enumerate(other.under_way, 1):
                theirs_s = math.inf if is_late else position * self._chunk_s(other)
                if wanted >> index & 1 and theirs_s > 2 * own_s and self._asked_count(index) < 2:
                    best = max(best or (0.0, 0), (theirs_s, -index))
        return None if best is None else -best[1]

    def _overtake(self, index: int, now: float) -> None:
        """A chunk came; who is late with it has been beaten."""
        for other in self._holders.values():
            if other.under_way and other.under_way[0] == index and now >= self._late_at(other):
                self._drop(other, f"was late with chunk {index}, which another delivered", now)

    def _assigned(self) -> int:
        mask = 0
        for holder in self._holders.values():
            for index in holder.under_way:
                mask |= 1 << index
        return mask

    def _asked_count(self, index: int) -> int:
        return sum(index in holder.under_way for holder in self._holders.values())

    def _useful(self, holder: _Holder) -> bool:
        return not self.is_begun or bool(holder.under_way) or bool(holder.have & self._missing)

    def _is_partial(self, holder: _Holder) -> bool:
        return not holder.is_asked_again and not holder.under_way and bool(self._missing & ~holder.have)

    def _chunk_s(self, holder: _Holder) -> float:
        rates = [h.rate for h in self._holders.values() if h.rate is not None]
        return CHUNK_BYTES / (holder.rate or (median(rates) if rates else RATE_UNKNOWN))

    def _late_at(self, holder: _Holder) -> float:
        """When the chunk that should arrive next is late."""
        if not holder.under_way:
            return math.inf
        return holder.head_since + min(LATE_S_MIN + LATE_FACTOR * self._chunk_s(holder), LATE_S_MAX)

    def _window(self, holder: _Holder) -> int:
        if holder.rate is None:
            return WINDOW_MIN
        return min(max(math.ceil(holder.rate * WINDOW_S / CHUNK_BYTES), WINDOW_MIN), WINDOW_MAX)

    def _rest(self, holder: _Holder, reason: str, now: float) -> None:
        holder.state, holder.reason = _State.RESTING, reason
        holder.until = now + min(REST_S * 2**holder.strikes, REST_S_MAX)
        holder.strikes = min(holder.strikes + 1, 10)
        holder.under_way.clear()
        holder.have = 0

    def _drop(self, holder: _Holder, reason: str, now: float) -> None:
        self._rest(holder, reason, now)
        self._effects.append(Drop(holder.peer, reason, is_lie=False))

    def _ban(self, holder: _Holder, reason: str) -> None:
        if holder.state is not _State.BANNED:
            holder.state, holder.reason = _State.BANNED, reason
            holder.under_way.clear()
            self._effects.append(Drop(holder.peer, reason, is_lie=True))


def _first_bit(mask: int, start: int) -> int:
    """The lowest bit of `mask` that is not below `start`, or else its lowest."""
    rest = mask >> start << start or mask
    return (rest & -rest).bit_length() - 1


def _runs(indexes: list[int]) -> list[tuple[int, int]]:
    """(first, count) of the runs of successive numbers, in order."""
    runs: list[tuple[int, int]] = []
    for index in indexes:
        if runs and sum(runs[-1]) == index and runs[-1][1] < RUN_CHUNKS_MAX:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((index, 1))
    return runs
