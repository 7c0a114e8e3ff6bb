"""A state made anew from what the rounds since one's own took: read from one's own disk, as far as it is there, then
fetched from one holder after another, verified in threads, and applied, all at once. A shell.

At most three answers are in memory: one that is fetched or verified, one that waits, one that is applied. A holder that
tells what does not hold is not asked again; one that has nothing, or refuses, is passed over. What all of it leads to
must have the digest that was told.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Final, Generic

import trio

from shoal.crdt.file_service import StoreError
from shoal.transport.port import Code, PeerId, Refusal
from shoal.transport.wire import Malformed

from .agreed import AgreedRecord
from .events import Problem
from .exchange_service import Exchange
from .history import Made, is_of, shares_of
from .history_service import History
from .ledger import Ledger
from .means import Means
from .method import Local, Method, Share, State
from .records import Head
from .state_service import Holders

BUSY_S: Final = 0.5  # before a holder that is busy is asked again: it has an allowance, which fills again
HOLDERS_MAX: Final = 8  # asked for what rounds took
APPLIED_AT_ONCE: Final = 16  # contributions, in one call that cannot be stopped

Shares = tuple[Share, ...]


@dataclass(frozen=True, slots=True)
class _Piece:
    rows: tuple[Made, ...]
    shares: list[Shares]  # of each
    is_own: bool


class Replay(Generic[State, Local]):
    """One attempt, from `own` to `head`."""

    def __init__(
        self, means: Means, method: Method[State, Local], history: History, exchange: Exchange, ledger: Ledger
    ) -> None:
        self._means = means
        self._method = method
        self._history = history
        self._exchange = exchange
        self._ledger = ledger
        self._passed: set[PeerId] = set()  # over: who has nothing, or refuses
        self._busy: set[PeerId] = set()
        self._is_kept = True
        self.served: set[PeerId] = set()  # whose rows were applied
        self.liars: set[PeerId] = set()  # whose rows do not hold
        self.asked: PeerId | None = None  # last
        self.has_used_own = False  # rows of this node's disk
        self.bytes = 0  # fetched
        self.fetching_s = 0.0

    async def run(self, state: State, own: Head, head: Head, holders: Holders) -> State | str:
        """The state at `head`; or why nothing led there. What was staged is to be adopted or dropped by the caller."""
        if await self._digest(state) != own.digest:
            return "this member is just about to stand elsewhere"
        send, receive = trio.open_memory_channel[_Piece](1)
        at = own.round
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._fetch, own.round + 1, head.round, holders, send)
            async with receive:
                async for piece in receive:
                    state = await self._applied(state, piece.shares)
                    await self._keep(piece)
                    at = piece.rows[-1].round
        if at < head.round:
            return f"nobody tells what round {at + 1} was made of"
        if await self._digest(state) == head.digest:
            return state
        if len(self.served) == 1 and not self.has_used_own:
            self.liars |= self.served  # of several nobody can tell which
        tellers = [*(["this node's disk"] if self.has_used_own else []), *sorted(self.served)]
        return f"what {', '.join(tellers)} tells leads to another state than round {head.round}'s"

    async def _fetch(
        self,
        first: int,
        last: int,
        holders: Holders,
        send: "trio.MemorySendChannel[_Piece]",
    ) -> None:
        """Piece after piece, as long as anybody has the next."""
        async with send:
            while first <= last:
                piece = await self._own(first, last) or await self._told(first, last, holders)
                if piece is None:
                    return
                await send.send(piece)
                first += len(piece.rows)

    async def _own(self, first: int, last: int) -> "_Piece | None":
        """What this member applied before its state was lost, or before it was killed on its way here."""
        try:
            rows = await self._means.workers.run(partial(self._history.reader.range, first, last))
        except StoreError:
            return None
        shares = await self._verified(rows, first, last)
        if not rows or isinstance(shares, Malformed):
            return None
        self.has_used_own = True
        return _Piece(rows, shares, is_own=True)

    async def _told(self, first: int, last: int, holders: Holders) -> "_Piece | None":
        while (peer := await self._holder(holders)) is not None:
            self.asked, asked_at = peer, trio.current_time()
            told = await self._exchange.ask_history(peer, first, last)
            self.fetching_s += trio.current_time() - asked_at
            if isinstance(told, Refusal) or not told:
                is_busy = isinstance(told, Refusal) and told.code is Code.BUSY
                (self._busy if is_busy else self._passed).add(peer)
                continue
            shares = await self._verified(told, first, last)
            if not isinstance(shares, Malformed):
                self.served.add(peer)
                self.bytes += sum(len(part.envelope) for made in told for part in made.parts)
                return _Piece(told, shares, is_own=False)
            self._means.observe(Problem(f"{peer} tells a history that does not hold: {shares.reason}"))
            self.liars.add(peer)
            self._passed.add(peer)
        return None

    async def _holder(self, holders: Holders) -> PeerId | None:
        """Who is asked next: the same as before, as long as that leads on."""
        while True:
            known = [peer for peer in islice(holders(), HOLDERS_MAX) if peer not in self._passed]
            free = [peer for peer in known if peer not in self._busy]
            if free or not known:
                return free[0] if free else None
            self._busy.clear()
            await trio.sleep(BUSY_S)

    async def _verified(self, rows: Sequence[Made], first: int, last: int) -> list[Shares] | Malformed:
        if any(made.round != first + place or made.round > last for place, made in enumerate(rows)):
            return Malformed(f"other rounds than those from {first} to {last}")
        closed = (self._ledger.closed(made.round) for made in rows)
        records = [None if each is None else each.record for each in closed]
        return await self._means.workers.run(partial(self._check, rows, records))

    def _check(self, rows: Sequence[Made], records: Sequence[AgreedRecord | None]) -> list[Shares] | Malformed:
        found: list[Shares] = []
        for made, record in zip(rows, records, strict=True):
            if record is not None and not is_of(made, record):
                return Malformed(f"round {made.round} took something else, as its record says")
            shares = shares_of(made, self._means.swarm, self._means.spec, self._method)
            if isinstance(shares, Malformed):
                return shares
            found.append(shares)
        return found

    async def _applied(self, state: State, rounds: Sequence[Shares]) -> State:
        for batch in batches(rounds):
            state = await self._means.workers.run(partial(applied, self._method, state, batch))
        return state

    async def _digest(self, state: State) -> bytes:
        return await self._means.workers.run(partial(self._method.digest, state)) or b""

    async def _keep(self, piece: "_Piece") -> None:
        if piece.is_own or not self._is_kept:
            return
        try:
            with trio.CancelScope(shield=True):  # a thread that went on alone would stage it after the draft is dropped
                await self._means.workers.run(partial(self._history.stage, piece.rows))
        except StoreError as error:
            self._is_kept = False
            self._means.observe(Problem(f"what is replayed is not kept for others: {error}"))


def applied(method: Method[State, Any], state: State, rounds: Sequence[Shares]) -> State:
    """The state after these rounds; one that took nothing leaves it as it is."""
    for shares in rounds:
        if shares:
            state, _ = method.apply(state, shares)
    return state


def batches(rounds: Sequence[Shares]) -> Iterator[list[Shares]]:
    """Some rounds at a time."""
    batch: list[Shares] = []
    for shares in rounds:
        batch.append(shares)
        if sum(map(len, batch)) >= APPLIED_AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch
