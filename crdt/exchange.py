"""Anti-entropy between two replicas: what to ask, what to answer, and what to hand over. A machine without I/O.

Who asks compares one digest. If it differs, the answer has the heads that do. From these follows what either side
lacks; the next question hands over what the other lacks and asks for the rest. So replicas are equal after two round
trips and what the batches need beyond PIECE_BYTES. When two chains of a writer part, nobody knows where: then marks
at exponentially growing distances from the head find the place, and what lies above is the proof of the fork.

An exchange owns nothing of the replica: batches are taken in by `Exchanges.take`, whoever sent them. All it decides
from are heads, and these may change meanwhile; then the next exchange does the rest.

What a malicious peer may send: any heads, batches, wants and rests. What it achieves: one exchange of ROUND_TRIPS_MAX
pieces at most, cut at the first batch that is refused or after pieces without news, and doubts about it (`partners`);
answers of PIECES_PER_S in the long run, none larger than a piece; a difference that cannot be settled (false heads,
operations under records unknown here) is tried again after longer and longer. It cannot keep others' operations from
coming through others: nothing that it says is held against anybody but itself.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from shoal.transport.identity import public_key_of
from shoal.transport.port import PeerId
from shoal.transport.token_bucket import TokenBucket

from .chain import Chain
from .difference import Piece, difference, goes_through, search, short_head
from .dots import Writer
from .exchange_messages import (
    EXCHANGE_VERSION,
    HASH_BYTES,
    HEADS_MAX,
    SEARCHES_MAX,
    WANTS_MAX,
    Compare,
    Compared,
    Mark,
    Settle,
    Settled,
    ShortHead,
    Unmet,
    Want,
)
from .heads import BUCKETS, Heads, bucket_of
from .operation import genesis
from .replica import Admission, Replica

ROUND_TRIPS_MAX: Final = 64  # of one exchange: 16 MB each way; smaller: more exchanges until two are equal
IDLE_PIECES_MAX: Final = 2  # in a row that bring nothing new, while no fork is searched for
PIECES_PER_S: Final = 16.0  # that one peer gets and hands over: 4 MB/s; CPU of this side, and its line
PIECES_BURST: Final = 128
COMPARES_PER_S: Final = 4.0  # that one peer gets answered: 64 KB each
COMPARES_BURST: Final = 32
PEERS_MAX: Final = 1024  # remembered, connected or not: who connects anew has no fresh allowance
UNSETTLED_MAX: Final = 256  # differences remembered of one peer
UNSETTLED_S: Final = 10.0  # until one is tried again, then twice as long each time
UNSETTLED_S_MAX: Final = 600.0


@dataclass(frozen=True, slots=True)
class Busy:
    """The peer has asked too much: later."""


@dataclass(frozen=True, slots=True)
class NeedsSnapshot:
    """A peer has a writer's operations up to `base` as an agreed snapshot only, and they are not here."""

    peer: PeerId
    writer: Writer
    base: int


@dataclass(slots=True)
class Outcome:
    """What an exchange led to."""

    failure: str = ""  # the peer's fault
    is_left: bool = False  # it ended early, by nobody's fault
    is_equal: bool = False  # already at its beginning
    is_unfinished: bool = False  # there is more to settle: again soon
    agrees: bool = False  # the peer's head of the asker's own chain is on the chain here
    kept_count: int = 0  # batches that came
    given_count: int = 0
    round_trips: int = 0
    needs: list[NeedsSnapshot] = field(default_factory=list[NeedsSnapshot])


Question = Compare | Settle
Answer = Compared | Settled


@dataclass(slots=True)
class _Unsettled:
    """A difference that an exchange left as it was: records are missing, the other's rules differ, or it lies."""

    mine: ShortHead | None
    theirs: ShortHead | None
    until: float
    wait_s: float


@dataclass(slots=True)
class _Side:
    """What is remembered of a peer."""

    pieces: TokenBucket = field(default_factory=lambda: TokenBucket(PIECES_PER_S, PIECES_BURST))
    compares: TokenBucket = field(default_factory=lambda: TokenBucket(COMPARES_PER_S, COMPARES_BURST))
    unsettled: dict[Writer, _Unsettled] = field(default_factory=dict[Writer, _Unsettled])
    start: int | None = None  # the bucket that the next comparison begins with


class Exchanges:
    """A replica's side of all its exchanges.

    Args:
        own: whose head peers are asked for first.
    """

    def __init__(self, replica: Replica, own: Writer) -> None:
        self.replica = replica
        self.own = own
        self.heads = Heads(replica)
        self._short_heads: dict[Writer, ShortHead] = {}  # since they changed
        self._sides: OrderedDict[PeerId, _Side] = OrderedDict()

    def take(self, data: bytes) -> Admission:
        """Admit a batch, wherever it comes from."""
        admission = self.replica.admit(data)
        if admission.kept or admission.forked:
            self.update(admission.writers)
        return admission

    def update(self, writers: Iterable[Writer]) -> None:
        """These writers' chains were changed by other ways (`Replica.write`, `adopt`, `records_came`)."""
        writers = set(writers)
        self.heads.update(writers)
        for writer in writers:
            self._short_heads.pop(writer, None)

    def ask(self, peer: PeerId, salt: bytes) -> "Asking":
        """Begin an exchange. `salt` is SALT_BYTES that the peer cannot foresee."""
        return Asking(self, peer, salt, self.side(peer))

    def compared(self, peer: PeerId, request: Compare, now: float) -> Compared | Busy:
        """The answer to a peer."""
        if not self.side(peer).compares.take(now):
            return Busy()
        if request.digest == self.heads.digest:
            return Compared((), (), None, is_whole=True)
        key = public_key_of(peer)
        theirs = None if key is None else self.short_head(Writer(key))
        whole: list[int] = []
        heads: list[ShortHead] = []
        for bucket in self.heads.differing(request.salt, request.buckets, request.start):
            own = [head for writer in sorted(self.heads.bucket(bucket)) if (head := self.short_head(writer))]
            if len(heads) + len(own) > HEADS_MAX:
                if not heads:  # others of them the next time
                    at = int.from_bytes(request.salt) % len(own)
                    heads = (own[at:] + own[:at])[:HEADS_MAX]
                return Compared(tuple(whole), tuple(heads), theirs, is_whole=False)
            heads += own
            whole.append(bucket)
        return Compared(tuple(whole), tuple(heads), theirs, is_whole=True)

    def settled(self, peer: PeerId, request: Settle, now: float) -> Settled | Busy:
        """The answer to a peer. Unless it is Busy, `request.batches` are to be taken in, up to the first refused."""
        if not self.side(peer).pieces.take(now):
            return Busy()
        piece = Piece()
        rest: list[Want] = []
        unmet: list[Unmet] = []
        for want in request.wants:
            chain = self.chain(Writer(want.writer))
            mark = next((mark for mark in want.marks if goes_through(chain, mark.number, mark.hash)), None)
            if mark is None:
                unmet.append(Unmet(want.writer, chain.base))
            elif rest:
                rest.append(want)
            elif (after := piece.fill(chain, mark.number)) is not None:
                rest.append(Want(want.writer, (Mark(after, chain.hash_at(after)[:HASH_BYTES]),)))
        return Settled(tuple(piece.batches), tuple(rest), tuple(unmet))

    def chain(self, writer: Writer) -> Chain:
        """Of which there may be nothing yet."""
        return self.replica.chain(writer) or Chain(writer, 0, genesis(self.replica.swarm, writer))

    def short_head(self, writer: Writer) -> ShortHead | None:
        short = self._short_heads.get(writer)
        if short is None:
            head = self.heads.bucket(bucket_of(writer)).get(writer)
            if head is not None:
                short = self._short_heads[writer] = short_head(writer, head)
        return short

    def side(self, peer: PeerId) -> _Side:
        side = self._sides.get(peer)
        if side is None:
            side = self._sides[peer] = _Side()
        self._sides.move_to_end(peer)
        if len(self._sides) > PEERS_MAX:
            self._sides.popitem(last=False)
        return side


class Asking:
    """One exchange, of who asks: question and answer in turn, until there is no question any more."""

    def __init__(self, exchanges: Exchanges, peer: PeerId, salt: bytes, side: _Side) -> None:
        self.outcome = Outcome()
        self._exchanges = exchanges
        self._peer = peer
        self._side = side
        heads = exchanges.heads
        self._start = bucket_of(exchanges.own) if side.start is None else side.start
        first = Compare(EXCHANGE_VERSION, heads.digest, salt, heads.short(salt), self._start)
        self._question: Question | None = first
        self._wants: deque[Want] = deque()
        self._gives: deque[tuple[Writer, int]] = deque()
        self._planned: dict[Writer, tuple[ShortHead | None, ShortHead | None]] = {}  # both heads as they were
        self._searched: set[Writer] = set()
        self._asked: dict[Writer, Want] = {}  # in the question under way
        self._is_news = True  # whether the last pieces brought something
        self._idle_count = 0
        self._wanted: set[Writer] = set()
        self._is_delivered = False  # at least something of what was wanted, or a reason why not
        self._own: ShortHead | None = None  # the peer's head of the asker's chain

    @property
    def question(self) -> Question | None:
        """What to ask the peer next; None: the exchange is over, `outcome` says how."""
        return self._question

    def answered(self, answer: Answer, now: float) -> Sequence[bytes]:
        """The answer to the question. Returns batches for `Exchanges.take`; then `took` what became of each."""
        self.outcome.round_trips += 1
        if isinstance(answer, Compared) and isinstance(self._question, Compare):
            self._plan(answer, now)
            return ()
        if not isinstance(answer, Settled) or not isinstance(self._question, Settle):
            raise TypeError(f"{type(answer).__name__} answers no {type(self._question).__name__}")
        self._hear_rest(answer)
        self._hear_unmet(answer)
        self._is_news = False
        return answer.batches

    def took(self, admission: Admission) -> None:
        """What became of one of these batches. After one that was refused the others are not to be taken."""
        outcome = self.outcome
        outcome.kept_count += len(admission.kept)
        outcome.is_unfinished |= bool(admission.forked)  # the peer may not know of it
        self._is_news |= admission.is_news or admission.missing is not None
        self._is_delivered |= self._is_news
        if admission.refusal is not None:
            self.fail(f"it handed over {admission.refusal.reason}")
        elif admission.missing is not None and admission.missing.writer in self._asked:
            self._search(admission.missing.writer)

    def go_on(self, now: float) -> None:
        """All batches of the answer have been taken: work out the next question."""
        if self.outcome.failure or self._question is None:
            return
        if isinstance(self._question, Settle):
            is_idle = not (self._is_news or self._searched) and any(map(self._has_room, self._asked))
            self._idle_count = self._idle_count + 1 if is_idle else 0
        self._asked = {}
        if self._idle_count >= IDLE_PIECES_MAX:
            self.fail("it hands over nothing that is news")
        elif not (self._wants or self._gives):
            self._end(now)
        elif self.outcome.round_trips >= ROUND_TRIPS_MAX:
            self.outcome.is_unfinished = True
            self._end(now)
        else:
            self._question = self._next()

    def fail(self, reason: str) -> None:
        """The peer did not answer, or not as it should."""
        self.outcome.failure = reason
        self._question = None

    def leave(self) -> None:
        """The peer is busy, or gone: nobody's fault."""
        self.outcome.is_left = True
        self._question = None

    def _plan(self, answer: Compared, now: float) -> None:
        """Work out what either side lacks."""
        exchanges, outcome = self._exchanges, self.outcome
        theirs = {Writer(head.writer): head for head in answer.heads if head.writer != exchanges.own}
        if answer.own is not None and answer.own.writer == exchanges.own:
            theirs[exchanges.own] = answer.own
        whole = set(answer.buckets)
        outcome.is_equal = answer.is_whole and not theirs and not whole
        outcome.is_unfinished = not answer.is_whole
        self._side.start = None if answer.is_whole or not whole else (answer.buckets[-1] + 1) % BUCKETS
        self._own = exchanges.short_head(exchanges.own) if outcome.is_equal else theirs.get(exchanges.own)
        if outcome.is_equal:
            self._side.unsettled = {}
            return
        told = {exchanges.own, *theirs, *(writer for bucket in whole for writer in exchanges.heads.bucket(bucket))}
        kept: dict[Writer, _Unsettled] = {}
        for writer in sorted(told):
            pair = exchanges.short_head(writer), theirs.get(writer)
            if pair[0] == pair[1] or not exchanges.replica.has_room(writer):
                continue
            before = self._side.unsettled.get(writer)
            if before is not None and (before.mine, before.theirs) == pair:
                kept[writer] = before
                if before.until > now:
                    continue
            self._plan_for(writer, pair)
        self._side.unsettled = kept

    def _plan_for(self, writer: Writer, pair: tuple[ShortHead | None, ShortHead | None]) -> None:
        want, give_after = difference(self._exchanges.chain(writer), pair[1])
        if want is not None:
            self._wants.append(want)
            self._wanted.add(writer)
            if len(want.marks) > 1:
                self._searched.add(writer)
        if give_after is not None:
            self._gives.append((writer, give_after))
        if want is not None or give_after is not None:
            self._planned[writer] = pair

    def _next(self) -> Settle:
        wants: list[Want] = []
        searches = 0
        while self._wants and len(wants) < WANTS_MAX:
            searches += len(self._wants[0].marks) > 1
            if searches > SEARCHES_MAX:
                break
            wants.append(self._wants.popleft())
        self._asked = {Writer(want.writer): want for want in wants}
        piece = Piece()
        while self._gives:
            writer, after = self._gives.popleft()
            rest = piece.fill(self._exchanges.chain(writer), after)
            if rest is not None:
                self._gives.appendleft((writer, rest))
                break
        self.outcome.given_count += len(piece.batches)
        return Settle(tuple(wants), tuple(piece.batches))

    def _hear_rest(self, answer: Settled) -> None:
        """What there was no room for comes first in the next question; a rest of nothing would be one for ever."""
        if answer.batches:
            rest = [want for want in answer.rest if self._asked.get(Writer(want.writer)) is not None]
            self._wants.extendleft(reversed(rest[: len(self._asked)]))

    def _hear_unmet(self, answer: Settled) -> None:
        for unmet in answer.unmet:
            writer = Writer(unmet.writer)
            if writer not in self._asked:
                continue
            self._is_delivered = True
            chain = self._exchanges.chain(writer)
            if unmet.base > chain.base and (unmet.base > chain.number or writer in self._searched):
                self.outcome.needs.append(NeedsSnapshot(self._peer, writer, unmet.base))
            else:
                self._search(writer)

    def _search(self, writer: Writer) -> None:
        """The chains part: find where, once in an exchange."""
        if writer not in self._searched:
            self._searched.add(writer)
            self._wants.append(search(self._exchanges.chain(writer)))

    def _end(self, now: float) -> None:
        self._question = None
        outcome, exchanges = self.outcome, self._exchanges
        wanted = set(filter(self._has_room, self._wanted))
        if wanted and not (self._is_delivered or any(map(self._has_moved, wanted))):
            outcome.failure = "it claims heads that it does not show"
            return
        own = self._own
        chain = exchanges.chain(exchanges.own)
        outcome.agrees = own is None or (
            not own.is_forked and (own.number < chain.base or goes_through(chain, own.number, own.hash))
        )
        self._remember(now)

    def _has_room(self, writer: Writer) -> bool:
        """Still: else what comes of it is no news, and nobody's fault."""
        return self._exchanges.replica.has_room(writer)

    def _has_moved(self, writer: Writer) -> bool:
        return self._exchanges.short_head(writer) != self._planned[writer][0]

    def _remember(self, now: float) -> None:
        """What was to be settled: if it is as it was the next time, it has to wait."""
        for writer, (mine, theirs) in self._planned.items():
            before = self._side.unsettled.pop(writer, None)
            if len(self._side.unsettled) < UNSETTLED_MAX:
                wait_s = UNSETTLED_S if before is None else min(UNSETTLED_S_MAX, 2 * before.wait_s)
                self._side.unsettled[writer] = _Unsettled(mine, theirs, now + wait_s, wait_s)
