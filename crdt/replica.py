"""A swarm's replicated state on one member: chains, what follows from them, and what is believed of a peer's bytes.

The law: state and digest are a function of the batches admitted, the rules and the agreed records; never of the order
in which they came, of a clock or of who sent them.

What a malicious peer may send: any bytes, others' operations in any order and as often as it likes, two chains of its
own, operations that break the rules. What it achieves: one Malformed; nothing; an equivocation that takes back its own
operations everywhere and stays on record; an end to its own chain. It costs this side a signature check at most, after
all that is cheaper has passed, and memory within the bounds of `rules` and `backlog`.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final

import msgspec
from blake3 import blake3

from shoal.transport.identity import peer_id_of, verify_by_key
from shoal.transport.wire import Malformed, encode

from .backlog import Backlog
from .cells import Applied, Cells, Key, cells_at, cells_digest
from .chain import Added, Apart, Chain, Gap, Head, Known, News
from .compact import Frontier, Mark, Snapshot
from .dots import Cell, Dot, Entry, Seen, Writer
from .operation import BatchSigner, Operation, Stretch, Verify, genesis, read_batch, seal, tag_of
from .rules import NoRecords, Records, Rules, Spent, Unknown, judge
from .seats import Seats

RECENT_MAX: Final = 4096  # batches that are known at a glance, when others bring them, too

_DIGEST: Final = b"shoal/state/1"


class Missing(msgspec.Struct, frozen=True, gc=False):
    """What has to come before a batch can be judged: of this writer, the operations after this number.

    If the writer forked below, they are to be had from where the chains part: ask with `Chain`'s hashes.
    """

    writer: Writer
    after: int


class Admission(msgspec.Struct, gc=False):
    """What became of a batch."""

    kept: list[Stretch] = []  # to be stored and passed on, in this order
    # Whose stored batches `Replica.batches` now replaces: they forked, were given up for an agreed chain, or have no
    # room any more.
    forked: set[Writer] = set()
    touched: set[Key] = set()  # keys whose cells may have changed
    missing: Missing | None = None
    waits: bool = False  # from now on, for what is missing
    refusal: Malformed | None = None

    @property
    def writers(self) -> set[Writer]:
        """Whose chains have changed."""
        return {stretch.writer for stretch in self.kept} | self.forked

    @property
    def is_news(self) -> bool:
        """Whether others should hear of it: once, or who repeats it would have it carried to all each time."""
        return bool(self.kept) or self.waits


@dataclass(slots=True)
class Adoption:
    """What a snapshot changed."""

    # Operations that are not in the agreed chains; their writer may write them anew (`compact.rebased`).
    lost: dict[Writer, list[Applied]] = field(default_factory=dict[Writer, list[Applied]])
    touched: set[Key] = field(default_factory=set[Key])
    admission: Admission = field(default_factory=Admission)  # of batches that waited for what came


class Replica:
    """See the module's text."""

    def __init__(
        self, swarm: bytes, rules: Rules, records: Records | None = None, verify: Verify = verify_by_key
    ) -> None:
        self.swarm = swarm
        self.rules = rules
        self._records = records or NoRecords()
        self._verify = verify
        self._chains: dict[Writer, Chain] = {}
        self._context: dict[Writer, int] = {}  # of the operations that count
        self._frontier: dict[Writer, int] = {}
        self._cells = Cells()
        self._backlog = Backlog()
        self._seats = Seats(swarm, rules.writers_max)
        self._recent: OrderedDict[bytes, None] = OrderedDict()  # have counted since the frontier was put here: no news

    # What is known.

    def cell(self, namespace: str, *path: str) -> Cell:
        """What a key holds; not to be changed."""
        return self._cells.cell((namespace, path))

    def keys(self, namespace: str) -> list[tuple[str, ...]]:
        """The paths in a namespace that hold something, sorted."""
        return [path for _, path in self._cells.keys(namespace)]

    def cells(self) -> Iterator[tuple[Key, Cell]]:
        """All that is held, sorted by key."""
        return self._cells.items()

    def chain(self, writer: Writer) -> Chain | None:
        return self._chains.get(writer)

    def heads(self) -> Mapping[Writer, Head]:
        """How far each writer's chain goes here."""
        return {writer: chain.head for writer, chain in self._chains.items()}

    def context(self) -> Mapping[Writer, int]:
        """The number of each writer's newest operation that counts; not to be changed."""
        return self._context

    def has_room(self, writer: Writer) -> bool:
        """Whether this writer has a chain here, or would get one: `Seats`."""
        return self._seats.has_room(writer)

    def batches(self, writer: Writer) -> list[bytes]:
        """All that is held of a writer above the frontier."""
        chain = self._chains.get(writer)
        return [] if chain is None else list(chain.batches_after(chain.base))

    def digest(self) -> bytes:
        """32 bytes, equal on all who admitted the same: of what the cells hold and of which operations count."""
        counted = sorted((writer, number) for writer, number in self._context.items() if number)
        return blake3(_DIGEST + self.swarm + encode(counted) + cells_digest(self._cells.items())).digest()

    # What comes.

    def admit(self, data: bytes, *, is_trusted: bool = False) -> Admission:
        """A batch from a peer, or, `is_trusted`, from this node's own disk: then its signature is not checked again."""
        if data in self._recent:
            return Admission()
        stretch = read_batch(data)
        if isinstance(stretch, Malformed):
            return Admission(refusal=stretch)
        admission = Admission()
        self._take(stretch, admission, is_trusted)
        if admission.kept:
            self._take_waiting(stretch.writer, admission)
        return admission

    def draft(self, signer: BatchSigner, operations: Sequence[Operation]) -> Stretch | Malformed:
        """The node's own operations as its next batch, judged but not applied: first they have to be on disk.

        Were they applied first, a peer that compares meanwhile would hear of what a power cut may still undo; and a
        disk that is full would leave in memory what no disk has. Malformed if the rules refuse them, or this key's
        chain has forked.
        """
        writer = Writer(signer.public_key)
        chain = self._chains.get(writer) or self._begin(writer)
        if chain.is_forked:
            return Malformed(
                f"{peer_id_of(writer)} has written two histories (was its data directory copied or restored?): "
                "nothing it writes counts any more; the node needs a new key"
            )
        if not self.has_room(writer):
            return Malformed(f"more than {self.rules.writers_max} writers in this swarm, who all come before this one")
        try:
            stretch = seal(signer, self.swarm, chain.number + 1, chain.hash_at(chain.number), operations)
        except ValueError as error:
            return Malformed(str(error))
        judged = self._judge(chain, stretch, News(stretch.first, is_fork=False))
        if isinstance(judged, Unknown):
            return Malformed("an operation names a record that is not known here")
        return judged if isinstance(judged, Malformed) else stretch

    def write(self, signer: BatchSigner, operations: Sequence[Operation]) -> Stretch | Malformed:
        """`draft`, applied at once: for those who have no disk."""
        stretch = self.draft(signer, operations)
        if isinstance(stretch, Stretch):
            self._take(stretch, Admission(), is_trusted=True)
        return stretch

    def records_came(self) -> Admission:
        """More records are known: batches that waited for them may be judged."""
        admission = Admission()
        for writer in self._backlog.writers():
            self._take_waiting(writer, admission)
        return admission

    # Compaction.

    def frontier(self) -> Frontier:
        """How far each chain counts here: what may be proposed as the next agreed frontier."""
        chains = ((writer, chain) for writer, chain in self._chains.items() if chain.number)
        return {writer: Mark(chain.number, chain.hash_at(chain.number)) for writer, chain in chains}

    def base(self) -> Frontier:
        """The agreed frontier whose snapshot is in force here."""
        return {writer: Mark(chain.base, chain.base_hash) for writer, chain in self._chains.items() if chain.base}

    def snapshot(self, frontier: Frontier) -> Snapshot | Malformed:
        """The state at `frontier`, from what is here; Malformed if it is not, because chains are short or differ."""
        work_out = self.begin_snapshot(frontier)
        return work_out if isinstance(work_out, Malformed) else work_out()

    def begin_snapshot(self, frontier: Frontier) -> Callable[[], Snapshot] | Malformed:
        """As `snapshot`; what takes long (6 us for each operation) may be called in any thread, whatever comes here."""
        for writer, mark in frontier.items():
            chain = self._chains.get(writer) or self._begin(writer)
            if not chain.goes_through(*mark):
                return Malformed(f"the chain of {peer_id_of(writer)} here does not go through the frontier")
        short = next((writer for writer, base in self._frontier.items() if base and writer not in frontier), None)
        if short is not None:
            return Malformed(f"the frontier leaves out {peer_id_of(short)}, who is in the one before")
        numbers = {writer: mark.number for writer, mark in frontier.items()}
        chains = {writer: self._chains[writer].copy() for writer in frontier}
        bases, since = self._cells.bases(), self._frontier

        def work_out() -> Snapshot:
            dots = (chains[writer].dots(since.get(writer, 0), number) for writer, number in numbers.items())
            applied = _read(chains, (dot for each in dots for dot in each))
            return Snapshot(self.swarm, dict(frontier), cells_at(bases, applied, since, numbers))

        return work_out

    def adopt(self, snapshot: Snapshot) -> Adoption | Malformed:
        """Put an agreed snapshot in the place of all operations up to its frontier, which is not below the one here.

        A chain that does not go through the frontier is given up for what was agreed.
        """
        for writer, base in self._frontier.items():
            if base > (snapshot.frontier[writer].number if writer in snapshot.frontier else 0):
                return Malformed("a snapshot that is older than the one here")
        self._recent.clear()
        adoption = Adoption()
        again: list[bytes] = []
        spent = snapshot.spent()
        for writer, mark in sorted(snapshot.frontier.items()):
            chain = self._chains.get(writer)
            if chain is None or not chain.goes_through(*mark):
                if chain is not None:
                    adoption.admission.forked.add(writer)
                    self._give_up(chain, snapshot, adoption)
                self._chains[writer] = Chain(writer, *mark, spent.get(writer))
            elif not chain.is_within(mark.number, spent.get(writer, Spent()), self.rules):
                again += self._end(chain, mark.number, adoption)
        for writer, mark in snapshot.frontier.items():
            self._chains[writer].move(*mark, spent.get(writer, Spent()))
        frontier = {writer: mark.number for writer, mark in snapshot.frontier.items()}
        adoption.touched |= self._cells.adopt(snapshot.cells, frontier, self._context)
        self._frontier = frontier
        self._seats.agree(frontier)
        self._context.update({writer: chain.number for writer, chain in self._chains.items()})
        for stretch in map(read_batch, again):
            if isinstance(stretch, Stretch):
                self._take(stretch, adoption.admission, is_trusted=True)
        for writer in self._backlog.writers():
            self._take_waiting(writer, adoption.admission)
        return adoption

    def _end(self, chain: Chain, number: int, adoption: Adoption) -> list[bytes]:
        """Take back what follows `number`, to be judged anew: who begins at the frontier would not let all of it in.

        Only of a writer that claimed to have taken away more of its own entries than there were (`Spent.refusal`).
        """
        lost = list(_read(self._chains, chain.dots(number, chain.number)))
        self._context[chain.writer] = number
        adoption.touched |= self._cells.take_back(lost, self._find)
        adoption.admission.forked.add(chain.writer)
        return chain.give_up(number)

    def _give_up(self, chain: Chain, snapshot: Snapshot, adoption: Adoption) -> None:
        """Take back a chain that does not go through the frontier, or is too short to tell."""
        own = list(_read(self._chains, chain.dots(chain.base, chain.number)))
        if not own:
            return
        if chain.number >= snapshot.frontier[chain.writer].number:
            # What the snapshot shows of the chain, it has, and all before: hashes commit to what came before.
            shown = max((dot.number for dot, operation, hash in own if snapshot.shows(dot, operation, hash)), default=0)
            adoption.lost[chain.writer] = [each for each in own if each[0].number > shown]
        self._context[chain.writer] = chain.base
        adoption.touched |= self._cells.take_back(own, self._find)

    def _begin(self, writer: Writer) -> Chain:
        return Chain(writer, 0, genesis(self.swarm, writer))

    def _take_waiting(self, writer: Writer, admission: Admission) -> None:
        """Judge what waits. That it waits on is no news, and that it is refused no fault of who brought the others."""
        waiting = self._backlog.take(writer)
        if not waiting:
            return
        again = Admission()
        for stretch in waiting:
            self._take(stretch, again, is_trusted=True)
        admission.kept += again.kept
        admission.forked |= again.forked
        admission.touched |= again.touched
        admission.missing = again.missing or admission.missing

    def _take(self, stretch: Stretch, admission: Admission, is_trusted: bool) -> None:
        chain = self._chains.get(stretch.writer) or self._begin(stretch.writer)
        place = chain.place(stretch)
        if isinstance(place, Known):
            return
        if not self._seats.has_room(chain.writer):
            return  # nobody's fault: who sent it may not have heard of the others
        judged = self._judge(chain, stretch, place)
        if isinstance(judged, Malformed):
            admission.refusal = judged
        elif not (is_trusted or self._backlog.holds(stretch) or stretch.is_signed(self.swarm, self._verify)):
            admission.refusal = Malformed(f"a batch that is not signed by {peer_id_of(stretch.writer)} for this swarm")
        elif isinstance(place, Apart):
            admission.missing = Missing(stretch.writer, chain.base)
        elif isinstance(place, News) and isinstance(judged, Added):
            self._apply(chain, stretch, place, judged, admission)
        else:
            is_held = self._backlog.reaches(stretch)
            if self._backlog.add(stretch):
                admission.missing = Missing(stretch.writer, chain.number)
                admission.waits = not is_held

    def _judge(self, chain: Chain, stretch: Stretch, place: Gap | Apart | News) -> Malformed | Unknown | Added | None:
        """Added: it may be applied."""
        start = place.number if isinstance(place, News) else max(stretch.first, chain.base + 1)
        unknown: Unknown | None = None
        operations = stretch.batch.operations[start - stretch.first :]
        for operation in operations:
            verdict = judge(operation, chain.writer, self.rules, self._records)
            if isinstance(verdict, Malformed):
                return verdict
            unknown = unknown or verdict
        if unknown is None and isinstance(place, News):
            return chain.weigh(stretch, start, self.rules, lambda key: self._cells.total(key, chain.writer))
        return unknown

    def _apply(self, chain: Chain, stretch: Stretch, news: News, added: Added, admission: Admission) -> None:
        writer = chain.writer  # not the batch's own bytes: one object to be hashed and held for all its operations
        if writer not in self._chains:
            self._seat(writer, chain, admission)
        if news.is_fork:
            lost = _read(self._chains, chain.dots(news.number - 1, chain.number))
            self._context[writer] = news.number - 1
            admission.touched |= self._cells.take_back(lost, self._find)
            chain.fork(stretch, news.number)
            admission.forked.add(writer)
        else:
            at = news.number - stretch.first
            operations = zip(stretch.batch.operations[at:], stretch.hashes[at:], strict=True)
            for number, (operation, hash) in enumerate(operations, news.number):
                admission.touched.add(self._cells.apply(Dot(writer, number), operation, hash))
            self._context[writer] = stretch.last
            chain.extend(stretch, news.number, added)
            self._recent[stretch.data] = None
            if len(self._recent) > RECENT_MAX:
                self._recent.popitem(last=False)
        admission.kept.append(stretch)

    def _seat(self, writer: Writer, chain: Chain, admission: Admission) -> None:
        self._chains[writer] = chain
        outdone = self._seats.take(writer)
        if outdone is not None:
            lost = list(_read(self._chains, self._chains[outdone].dots(0, self._context[outdone])))
            del self._context[outdone]
            admission.touched |= self._cells.take_back(lost, self._find)
            admission.forked.add(outdone)
            del self._chains[outdone]

    def _find(self, key: Key, seen: Seen) -> Entry | None:
        """The entry that an operation which counts, above the frontier, wrote under a key."""
        writer, number = seen.dot.writer, seen.dot.number
        if not self._frontier.get(writer, 0) < number <= self._context.get(writer, 0):
            return None
        ((_, operation, hash),) = _read(self._chains, [seen.dot])
        return operation.entry(tag_of(hash)) if (operation.namespace, operation.path) == key else None


def _read(chains: Mapping[Writer, Chain], dots: Iterable[Dot]) -> Iterator[Applied]:
    for writer, own in groupby(sorted(dots), key=lambda dot: dot.writer):
        chain = chains[writer]
        for number, operation in chain.operations(dot.number for dot in own):
            yield Dot(writer, number), operation, chain.hash_at(number)
