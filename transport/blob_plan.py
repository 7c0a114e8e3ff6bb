"""Which chunk of a blob is asked of whom, and when to stop waiting: the fetch of one blob as a state machine.

Events and the time go in, effects come out; `wake_at` tells when time alone will change something. What is missing is
shared out among a few holders, each with as many chunks under way as it delivers in a moment; which those are, is in
`blob_picks`. A holder whose chunk is late may be overtaken by another; if it is, or if it delivers nothing for long, it
rests and is tried again later. When nothing is left to ask for, what is under way at slow holders is asked of fast ones
too. Every few seconds one more holder is tried, and the slowest makes room.

A holder may send wrong bytes, bytes nobody asked for, or nothing; it may claim chunks it lacks, or not to have what it
has. Wrong bytes and unasked ones are proof of a lie: nothing more is taken from it in this fetch. A slow one costs its
share of the chunks a second delivery, no more; one that keeps others waiting for its turn, that time once. All of them
together can only keep the blob from arriving; they can't make it wrong, for what does not hash is not stored.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median
from typing import Final

from .blob_holder import RATE_UNKNOWN, STALL_S, WINDOW_MIN, Holder, Lines, State, speed_class
from .blob_picks import Picks
from .blob_turns import place
from .blobs import CHUNK_BYTES, RUN_CHUNKS_MAX, BlobRef, Manifest, mask_from_bitmap, parse_manifest
from .port import PeerId
from .wire import Malformed

HOLDERS_MAX: Final = 256  # known to one fetch; later ones are ignored
HOLDERS_AT_ONCE: Final = 8  # delivering; more: more memory (a chunk or two each), little speed
HOLDERS_OPEN_MAX: Final = 16  # with the late ones
BEGINNING_MAX: Final = 16  # chunks under way, one more with each that comes, while a line's rate is not known yet
EXPLORE_S: Final = 5.0  # how often one more is tried
VERIFIED_AT_ONCE: Final = 4  # chunks being hashed and written; memory, and how long a slow disk holds the network up
HOPELESS_S: Final = 120.0  # without a chunk from anybody; a holder that stalls is tried four times in it
WAIT_S_MAX: Final = 600.0  # the same, where parts of one come, or the word that it is not yet its turn
LAST_COUNT: Final = 2  # chunks missing: all waits for the last ones of slow holders
LAST_S: Final = 0.2  # then, for REFRESH_S
REFRESH_S: Final = 0.5  # between two questions to a holder that has only a part; of many longer: 16 a second in all


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
Pick = Callable[[Holder, float], int | None]


class FetchPlan:
    """The fetch of one blob.

    Args:
        ref: what to fetch.
        me: who fetches it: where others fetch it too, each begins with other chunks.
        lines: what is known of peers' lines, by all fetches of this node.
        manifest: if an earlier fetch left it.
    """

    def __init__(self, ref: BlobRef, me: PeerId, lines: Lines, manifest: Manifest | None = None) -> None:
        self.ref = ref
        self.manifest = manifest
        self.failure: str | None = None  # why this can never succeed
        self._me = me
        self._lines = lines
        self._holders: dict[PeerId, Holder] = {}
        self.stored_count = 0  # chunks that came and were sound
        self._effects: list[Effect] = []
        self._picks = Picks(self._holders, lines, place(me, ref.digest), 0, 0)
        self._verifying: set[int] = set()
        self.is_begun = False
        self._explore_at = math.inf
        self._hopeful_until: float | None = None  # set by the first `step`
        self._waits_until = 0.0  # no longer than that for a chunk of which there is only word
        self._is_stale = True  # something happened but that a chunk came
        self._have_changed = False  # what holders have, or who fetches too
        self._hungry: list[Holder] = []  # a chunk came from these
        self._scan_at = -math.inf  # when time alone changes something

    def is_hopeless(self, now: float) -> bool:
        """Nothing of use has come for long: nobody has it, or they lie."""
        return self._hopeful_until is not None and now >= self._hopeful_until and not self._verifying

    @property
    def is_complete(self) -> bool:
        return self.is_begun and not self._picks.missing and not self._verifying

    @property
    def missing_count(self) -> int:
        return self._picks.missing.bit_count() + len(self._verifying)

    @property
    def liars(self) -> dict[PeerId, str]:
        return {h.peer: h.reason for h in self._holders.values() if h.state is State.BANNED}

    def offer(self, peers: Iterable[PeerId]) -> None:
        """These are said to have it, or to fetch it too. Known ones are ignored."""
        for peer in peers:
            if peer not in self._holders and len(self._holders) < HOLDERS_MAX:
                self._holders[peer] = Holder(peer, place(peer, self.ref.digest), self._lines.of(peer))
                self._is_stale = self._have_changed = True

    def begin(self, have: int) -> None:
        """There is room for the blob, and these chunks of it are here. The manifest is known."""
        assert self.manifest is not None
        count, own = self.manifest.chunk_count, place(self._me, self.ref.digest)
        self._picks = Picks(self._holders, self._lines, own, count, have)
        self.is_begun = self._is_stale = self._have_changed = True

    def replied(self, peer: PeerId, manifest_data: bytes, bitmap: bytes | None, bytes_per_s: int, now: float) -> None:
        """The answer to `Ask`; `manifest_data` is empty if it was not wanted."""
        holder = self._holders[peer]
        holder.is_asked_again = False
        if holder.state not in (State.ASKED, State.READY):
            return
        self._is_stale = True
        if (self.manifest is None or manifest_data) and not self._accept_manifest(holder, manifest_data, now):
            return
        assert self.manifest is not None
        have = mask_from_bitmap(bitmap, self.manifest.chunk_count)
        if isinstance(have, Malformed):
            self._ban(holder, have.reason)
            return
        holder.gained_at = now if have & ~holder.have else holder.gained_at
        holder.state, holder.have = State.READY, have
        holder.is_full = bitmap is None
        holder.is_fetching = not holder.is_full and not holder.is_given_up
        holder.line.speed = speed_class(bytes_per_s)
        self._have_changed = True
        pause_s = LAST_S if self.missing_count <= LAST_COUNT else REFRESH_S
        holder.until = now + pause_s * max(1.0, len(self._holders) / HOLDERS_AT_ONCE)

    def lacks(self, peer: PeerId, reason: str, now: float) -> None:
        """The peer has nothing of it. It may be about to fetch it too: it is asked again soon."""
        holder = self._holders[peer]
        holder.is_asked_again = False
        if holder.state in (State.ASKED, State.READY):
            self._picks.give_back(holder)
            holder.lack(reason, now)
            self._is_stale = self._have_changed = True

    def failed(self, peer: PeerId, reason: str, now: float, is_lie: bool = False) -> None:
        """The peer refused or vanished: it rests. Or it sent what no honest peer sends."""
        holder = self._holders[peer]
        holder.is_asked_again = False
        if is_lie:
            self._ban(holder, reason)
        elif holder.state in (State.ASKED, State.READY):
            self._rest(holder, reason, now)

    def heard(self, peer: PeerId, now: float) -> None:
        """No chunk came, but some bytes of one, or a word that its turn will come."""
        self._holders[peer].heard_at = now
        assert self._hopeful_until is not None  # it was asked for something
        self._hopeful_until = max(self._hopeful_until, min(now + STALL_S, self._waits_until))

    def arrived(self, peer: PeerId, index: int, now: float) -> bool:
        """A chunk's bytes came. Returns whether they are wanted: then verify them and tell `stored`."""
        holder = self._holders[peer]
        if holder.state is not State.READY:
            return False
        if index not in holder.under_way:
            self._ban(holder, f"sent chunk {index}, which it was not asked for")
            return False
        assert self.manifest is not None
        holder.delivered(self.manifest.chunk_bytes(index), now)
        self._hungry.append(holder)
        is_wanted = self._picks.came(holder, index)
        if is_wanted:
            self._verifying.add(index)
            self._overtake(index, now)
        return is_wanted

    def stored(self, peer: PeerId, index: int, is_valid: bool, now: float) -> None:
        """The verdict on a chunk that `arrived` wanted: it hashed to what the manifest lists and is stored, or not."""
        if len(self._verifying) > VERIFIED_AT_ONCE:
            for holder in self._holders.values():  # chunks wait for our own disk: no holder is late for that
                holder.head_since = now
        self._verifying.discard(index)
        if is_valid:
            self.stored_count += 1
            self._holders[peer].strikes = 0
            self._hope(now)
            return
        self._picks.was_wrong(index)
        self._ban(self._holders[peer], f"chunk {index} does not hash to what the manifest lists")

    def step(self, now: float) -> list[Effect]:
        """What to do now. To be called after events, one or more, and at `wake_at`."""
        if self._hopeful_until is None:
            self._hope(now)
        hungry, self._hungry = self._hungry, []
        if self._is_stale or now >= self._scan_at or (hungry and not self._picks.free):
            self._scan(now)
        else:
            for holder in hungry:
                if holder.state is State.READY:
                    self._fill(holder, self._picks.pick_free, now)
        effects, self._effects = self._effects, []
        return effects

    def wake_at(self, now: float) -> float:
        """When `step` may have something to do though nothing happened; infinity if never."""
        return max(self._scan_at, now + 0.01)

    def close(self) -> None:
        """It ends: nothing is awaited of anybody any more."""
        self._picks.close()

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

    def _accept_manifest(self, holder: Holder, data: bytes, now: float) -> bool:
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

    def _scan(self, now: float) -> None:
        """Look at all holders: whose time is over, whom to ask what, and what to take of them."""
        for holder in self._holders.values():
            if holder.state is State.RESTING and now >= holder.until:
                holder.state = State.NEW
            elif holder.under_way and now >= holder.stalls_at:
                self._drop(holder, f"delivered nothing for {STALL_S:.0f} s", now)
        self._is_stale = False
        if not self.is_complete and self.failure is None:
            rates = [h.rate for h in self._holders.values() if h.rate is not None]
            self._picks.typical_s = CHUNK_BYTES / (median(rates) if rates else RATE_UNKNOWN)
            if self._have_changed:
                self._picks.bitmaps_changed()
                self._have_changed = False
            self._ask(now)
            self._take(now)
        self._scan_at = self._next_scan_at(now)

    def _hope(self, now: float) -> None:
        self._hopeful_until, self._waits_until = now + HOPELESS_S, now + WAIT_S_MAX

    def _next_scan_at(self, now: float) -> float:
        times = [self._hopeful_until or math.inf]
        for holder in self._holders.values():
            if holder.state is State.RESTING or (holder.state is State.READY and self._is_partial(holder)):
                times.append(holder.until)
            elif holder.state is State.NEW:
                times.append(self._explore_at)
            if holder.look_at > now and not holder.under_way:
                times.append(holder.look_at)
            if holder.under_way:
                times.append(holder.stalls_at)
                times += [at for at in (holder.late_at(self._picks.typical_s), holder.soon_at) if at > now]
        return max(min(times), now + 0.01)

    def _ask(self, now: float) -> None:
        """Ask new holders what they have, and those with a part what they have by now."""
        ready = [h for h in self._holders.values() if h.state is State.READY and self._is_useful(h)]
        asked_count = sum(h.state is State.ASKED for h in self._holders.values())
        active_count = asked_count + sum(now < h.late_at(self._picks.typical_s) for h in ready)
        new = [h for h in self._holders.values() if h.state is State.NEW]
        if self._explore_at == math.inf and self.is_begun:
            self._explore_at = now + EXPLORE_S
        slots = min(HOLDERS_AT_ONCE - active_count, HOLDERS_OPEN_MAX - asked_count - len(ready))
        if slots <= 0 and new and now >= self._explore_at:
            self._explore_at = now + EXPLORE_S
            self._make_room(ready, now)
            slots = 1
        for holder in new[: max(slots, 0)]:
            holder.state = State.ASKED
            self._effects.append(Ask(holder.peer, self.manifest is None))
        for holder in self._holders.values():
            if holder.state is State.READY and self._is_partial(holder) and now >= holder.until:
                holder.is_asked_again = True
                self._effects.append(Ask(holder.peer, wants_manifest=False))

    def _make_room(self, ready: list[Holder], now: float) -> None:
        """If as many holders are open as may be, the slowest rests."""
        measured = [h for h in ready if h.rate is not None]
        if len(ready) > HOLDERS_AT_ONCE and measured:
            self._drop(min(measured, key=lambda h: h.rate or 0.0), "slower than the others", now)

    def _take(self, now: float) -> None:
        """Fill every ready holder's window, the fastest first: with chunks nobody was asked for, then late ones."""
        ready = [h for h in self._holders.values() if h.state is State.READY and h.have & self._picks.missing]
        ready.sort(key=lambda h: -(h.rate or 0.0))
        for pick in (self._picks.pick_free, self._picks.pick_late):
            for holder in ready:
                self._fill(holder, pick, now)

    def _fill(self, holder: Holder, pick: Pick, now: float) -> None:
        picked: list[int] = []
        is_alone = len(self._holders) == 1  # nobody else could send what waits there
        beginning = min(WINDOW_MIN + self.stored_count, BEGINNING_MAX) if is_alone else 0
        while holder.room(self._picks.is_shared, now, beginning) > 0 and (index := pick(holder, now)) is not None:
            self._picks.ask(holder, index, now)
            picked.append(index)
        self._effects += [Take(holder.peer, first, count) for first, count in _runs(picked)]

    def _overtake(self, index: int, now: float) -> None:
        """A chunk came; who is late with it has been beaten."""
        if not self._picks.asked[index]:
            return
        for other in self._holders.values():
            if other.under_way and other.under_way[0] == index and now >= other.late_at(self._picks.typical_s):
                self._drop(other, f"was late with chunk {index}, which another delivered", now)

    def _is_useful(self, holder: Holder) -> bool:
        return not self.is_begun or bool(holder.under_way) or bool(holder.have & self._picks.missing)

    def _is_partial(self, holder: Holder) -> bool:
        return not holder.is_asked_again and bool(self._picks.missing & ~holder.have)

    def _rest(self, holder: Holder, reason: str, now: float) -> None:
        self._picks.give_back(holder)
        holder.rest(reason, now)
        self._is_stale = self._have_changed = True

    def _drop(self, holder: Holder, reason: str, now: float) -> None:
        self._rest(holder, reason, now)
        self._effects.append(Drop(holder.peer, reason, is_lie=False))

    def _ban(self, holder: Holder, reason: str) -> None:
        if holder.state is not State.BANNED:
            self._picks.give_back(holder)
            holder.ban(reason)
            self._effects.append(Drop(holder.peer, reason, is_lie=True))
            self._is_stale = self._have_changed = True


def _runs(indexes: list[int]) -> list[tuple[int, int]]:
    """(first, count) of the runs of successive numbers, in order."""
    runs: list[tuple[int, int]] = []
    for index in indexes:
        if runs and sum(runs[-1]) == index and runs[-1][1] < RUN_CHUNKS_MAX:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((index, 1))
    return runs
