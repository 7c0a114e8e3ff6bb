"""A member's state and local value: a method's functions run in workers, their results kept on disk. A shell.

The engine calls one thing at a time here, but for `check` and `train`, which run beside everything else.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, runtime_checkable

from shoal.transport.blobs import BlobRef
from shoal.transport.port import Code, PeerId, Refusal
from shoal.transport.wire import Malformed

from .attempt import Raised, attempt
from .evidence import Evidence
from .fetching_service import PacedFetches
from .means import Means
from .members import Electorate
from .method import Audits, Local, Method, Share, State, Testifies, Turn, Work
from .ports import BlobReader, BytesReader
from .records import Head, Offered
from .spec import Spec
from .store import FILE_VERSION, StoredHead

STATES_KEPT = 2  # the newest and the one before, which others may still be fetching; disk: so many states
STATES_AUDITED = 3  # and so many as work may be stale, where it is audited: one drawn now started two or more ago
# Where turns are done again: one is taken, drawn, looked into for two rounds, said to be wrong, and looked into by all.
STATES_REPLAYED = 9
HEADS_KEPT = 32  # for whose states is looked: those of records that took nothing are one
CHECKPOINT_BYTES_MAX_FACTOR = 2  # a checkpoint may be so many times as large as one's own state, plus a MiB

Holders = Callable[[], Iterable[PeerId]]


@dataclass(frozen=True, slots=True)
class Applied(Generic[State]):
    """The state after a round, not yet this member's."""

    state: State
    digest: bytes  # empty for methods without a common state
    saved: BlobRef | None = None  # where it is stored already


@runtime_checkable
class FixesStart(Protocol):
    """A method whose swarms may fix the first state's digest: their first state comes from the creator's machine."""

    def start_digest(self, spec: Spec) -> bytes | None: ...


@dataclass(frozen=True, slots=True)
class Restored:
    """Where an earlier run of this member stood, or the start."""

    head: Head
    checkpoint: BlobRef | None
    problems: tuple[str, ...]


class StateKeeper(Generic[State, Local]):
    """The member's state and local value. `restore` comes before all else."""

    def __init__(self, means: Means, method: Method[State, Local], start: tuple[State, Local]) -> None:
        self._spec = means.spec
        self._swarm = means.swarm
        self._method = method
        self._blobs = means.blobs
        self._store = means.store
        self._workers = means.workers
        self._pins = means.pins
        self._fetches = PacedFetches(means.blobs)
        self._state, self._local = start
        self._trained: Work[Local] | None = None  # no contribution yet
        self._work: tuple[Work[Local], bytes] | None = None  # unsettled, and its contribution's hash
        self._saved: tuple[BlobRef, BlobRef] | None = None  # the state and the local value, as they were then
        self._saved_local: BlobRef | None = None  # the local value as it is now
        self._heads: deque[tuple[Head, BlobRef]] = deque(maxlen=HEADS_KEPT)  # of states that were saved
        self._checkpoint_bytes_max = 0

    @property
    def method(self) -> Method[State, Local]:
        return self._method

    @property
    def audits(self) -> Audits | None:
        """The method, where anything is audited."""
        return self._method if isinstance(self._method, Audits) and self._method.is_auditing else None

    @property
    def states_kept(self) -> int:
        """How many states stay on disk, and local values where others ask for them."""
        if self.audits is None:
            return STATES_KEPT
        return (STATES_REPLAYED if self.audits.wants_starts else STATES_AUDITED) + self._spec.stale_rounds_max

    @property
    def checkpoint_bytes_max(self) -> int:
        """More nobody's state or local value has."""
        return self._checkpoint_bytes_max

    @property
    def state(self) -> State:
        """The newest; never changed in place."""
        return self._state

    @property
    def local(self) -> Local:
        return self._local

    def evidence(self) -> tuple[Evidence, ...]:
        """What the state shows of those who made it, where the method finds out anything."""
        return self._method.evidence(self._state) if isinstance(self._method, Testifies) else ()

    def saved_heads(self) -> tuple[Head, ...]:
        """Whose states are still here, the newest first."""
        return tuple(head for head, ref in reversed(self._heads) if self._blobs.open(ref) is not None)

    async def saved_state(self, head: Head) -> State | str:
        """The state of one of those; or why it cannot be had."""
        ref = next((ref for saved, ref in self._heads if saved == head), None)
        return "it was never here" if ref is None else await self._load_state(ref)

    async def restore(self, *, keeps_start: bool) -> Restored:
        """Go on where an earlier run stopped, or start. Who comes late has no use for the first state: `keeps_start`
        is whether others may ask for it.
        """
        digest = await self.digest(self._state)
        self._checkpoint_bytes_max = CHECKPOINT_BYTES_MAX_FACTOR * await self._workers.run(self._saved_bytes) + 2**20
        stored = await self._workers.run(self._store.load_head)
        problems: list[str] = []
        if isinstance(stored, Malformed):
            problems.append(f"the saved position cannot be read ({stored.reason}); starting from round 0")
        elif stored is not None:
            restored = await self._load(stored)
            if isinstance(restored, Restored):
                return restored
            problems.append(f"{restored}; starting from round 0")
        head = Head(0, self._swarm, digest)
        if not keeps_start:
            return Restored(head, None, tuple(problems))
        saved = await self._save(head, None)
        if isinstance(saved, str):
            return Restored(head, None, (*problems, saved))
        return Restored(head, saved, tuple(problems))

    async def _load(self, stored: StoredHead) -> Restored | str:
        """What an earlier run saved, or why it cannot be used. A local value that is lost is started afresh."""
        round = stored.head.round
        state = None if stored.state is None else await self._load_state(stored.state)
        if state is None or isinstance(state, str):
            return state or "no state was saved"
        if await self.digest(state) != stored.head.digest:
            return f"the saved state of round {round} has changed on disk"
        self._state = state
        problems: tuple[str, ...] = ()
        local = None if stored.local is None else self._blobs.open(stored.local)
        if local is None:
            problems = ("the saved optimizer state is gone; starting with a fresh one",)
        else:
            try:
                self._local = await self._workers.run(partial(self._method.load_local, local))
            except ValueError as error:
                problems = (f"the saved optimizer state cannot be used ({error}); starting with a fresh one",)
        if stored.state is not None and stored.local is not None and not problems:
            self._saved = stored.state, stored.local
        if self.audits is not None and self.audits.wants_starts:
            # What it contributed since is offered again, but where that led to is lost.
            await self._settle_local(self._local, self._state, taken=False)
        if stored.state is not None:
            self._heads.append((stored.head, stored.state))
        self._pins.remember_until(round)
        return Restored(stored.head, stored.state, problems)

    async def _load_state(self, ref: BlobRef) -> State | str:
        reader = self._blobs.open(ref)
        if reader is None:
            return "the saved state is gone"
        try:
            return await self._workers.run(partial(self._method.load, reader))
        except ValueError as error:
            return f"the saved state cannot be read: {error}"

    async def start(self, base_round: int) -> BlobRef | str | None:
        """Where others find what the next turn starts from; why not. None: they have no use for it, or it goes on from
        the turn before.
        """
        if self.audits is None or not self.audits.wants_starts or self._work is not None:
            return None
        if self._saved_local is None:
            saved = await self._put_local(base_round)
            if isinstance(saved, Refusal):
                return f"what this turn starts from is not saved: {saved.message}"
            self._saved_local = saved
        return self._saved_local

    async def train(self, turn: Turn) -> Work[Local] | Raised:
        """This member's part of a round; settled by `stand_at` or `discard`."""
        local = self._local if self._work is None else self._work[0].local  # more of what is not settled yet
        call = partial(self._method.contribute, self._state, local, turn)
        tried = await self._workers.train(partial(attempt, call))
        if isinstance(tried, Raised):
            return tried
        self._trained = tried.result
        return tried.result

    def offered(self, hash: bytes) -> None:
        """The work done last became this contribution."""
        if self._trained is not None:
            self._work, self._trained = (self._trained, hash), None

    async def discard(self) -> None:
        """The work done last is not going to be a contribution; this member goes on from the one before it, if any."""
        work, self._trained = self._trained, None
        if work is not None and self._work is None:
            await self._settle_local(work.local, self._state, taken=False)

    async def check(self, payloads: Sequence[tuple[Offered, BlobReader]]) -> list[str | None]:
        """Of each what is wrong with it; None when it is sound."""
        check, spec = self._method.check, self._spec
        return await self._workers.run(
            lambda: [
                check(spec, offered.round, offered.member, offered.contribution.samples, payload)
                for offered, payload in payloads
            ]
        )

    async def apply(self, offers: Sequence[Offered], weights: Sequence[int], electorate: Electorate) -> State | Refusal:
        """The state after these contributions, sorted by member and round; or which is missing."""
        shares: list[Share] = []
        for offered, weight in zip(offers, weights, strict=True):
            reader = self.reader(offered)
            if reader is None:
                text = f"the payload of {offered.member} for round {offered.round} is gone"
                return Refusal(Code.NOT_FOUND, text)
            contribution = offered.contribution
            places = offered.round, offered.member, contribution.samples, weight, contribution.base_round
            shares.append(Share(*places, reader, is_voters=electorate.votes(offered.member) > 0))
        applied, _ = await self._workers.run(partial(self._method.apply, self._state, shares))
        return applied

    async def fetch_state(
        self, head: Head, ref: BlobRef, holders: Callable[[], Iterable[PeerId]]
    ) -> Applied[State] | str:
        """The state that others stand at, verified against their head; or why it cannot be had."""
        if ref.size > self._checkpoint_bytes_max:
            return f"a checkpoint of {ref.size} bytes is more than {self._checkpoint_bytes_max}"
        like = None if self._saved is None else self._saved[0]
        refusal = await self._fetches.fetch(ref, holders, pin=self._pins.label("state", head.round), like=like)
        if refusal is not None:
            return refusal.message
        state = await self._load_state(ref)
        if isinstance(state, str):
            return state
        digest = await self.digest(state)
        return Applied(state, digest, ref) if digest == head.digest else "its checkpoint is of another state"

    async def stand_at(self, head: Head, applied: Applied[State], taken: frozenset[bytes]) -> BlobRef | str:
        """Go on from this state: settle one's own work, save both. The saved state, or why it was not saved; either
        way it is taken.
        """
        await self.go_on(applied.state, taken)
        return await self._save(head, applied.saved)

    async def go_on(self, state: State, taken: frozenset[bytes]) -> None:
        """As `stand_at`, but save nothing yet: after a crash the records since what is saved are applied again."""
        await self._settle(state, taken)
        self._state = state
        self._saved = None

    async def save(self, head: Head) -> BlobRef | str | None:
        """What `go_on` leaves to be done. After a record that took nothing the state is saved already."""
        if self._saved is None:
            return await self._save(head, None)
        state, local = self._saved
        return await self._save_head(StoredHead(FILE_VERSION, head, state, local)) or state

    async def evaluate(self) -> Mapping[str, float] | Raised:
        tried = await self._workers.run(partial(attempt, partial(self._method.evaluate, self._state)))
        return tried if isinstance(tried, Raised) else tried.result

    def reader(self, offered: Offered) -> BlobReader | None:
        payload = offered.contribution.payload
        return self._blobs.open(payload) if isinstance(payload, BlobRef) else BytesReader(payload)

    async def _settle(self, state: State, taken: frozenset[bytes]) -> None:
        if self._work is None:
            return
        (work, hash), self._work = self._work, None
        await self._settle_local(work.local, state, taken=hash in taken)

    async def _settle_local(self, local: Local, state: State, *, taken: bool) -> None:
        self._local = await self._workers.run(partial(self._method.settle, local, state, taken))
        self._saved_local = None

    async def _put_local(self, round: int) -> BlobRef | Refusal:
        return await self._blobs.put(self._method.save_local(self._local), pin=self._pins.label("local", round))

    async def _save(self, head: Head, saved: BlobRef | Refusal | None) -> BlobRef | str:
        """`saved` is where the state is already: equal states have equal bytes."""
        if saved is None:
            saved = await self._blobs.put(self._method.save(self._state), pin=self._pins.label("state", head.round))
        if isinstance(saved, Refusal):
            return f"the state of round {head.round} is not saved: {saved.message}"
        saved_local = await self._put_local(head.round)
        if isinstance(saved_local, Refusal):
            return f"the optimizer state of round {head.round} is not saved: {saved_local.message}"
        problem = await self._save_head(StoredHead(FILE_VERSION, head, saved, saved_local))
        if problem is not None:
            return problem
        self._saved, self._saved_local = (saved, saved_local), saved_local
        wants_starts = self.audits is not None and self.audits.wants_starts
        self._pins.keep_last("state", head.round, self.states_kept)
        self._pins.keep_last("local", head.round, self.states_kept if wants_starts else 1)
        return saved

    async def _save_head(self, stored: StoredHead) -> str | None:
        try:
            await self._workers.run(partial(self._store.save_head, stored))
        except OSError as error:
            return f"the position in round {stored.head.round} is not saved: {error.strerror}"
        if stored.state is not None:
            self._heads.append((stored.head, stored.state))
        return None

    async def digest(self, state: State) -> bytes:
        """Empty for methods without a common state."""
        return await self._workers.run(partial(self._method.digest, state)) or b""

    def _saved_bytes(self) -> int:
        return sum(memoryview(piece).nbytes for piece in self._method.save(self._state))
