"""Whom a lookup asks next: iterative, in parallel, over disjoint paths, around peers that keep silent. Without I/O.

A lookup moves toward a target by asking the closest peers known for closer ones. It does so on several *paths*
(S/Kademlia, Baumgart and Mies 2007): each path learns only from the answers of the peers it asked itself, and no peer
answers two. Whoever sits on one path steers that one alone. A path is done when the closest peers it knows of have all
answered or failed; the lookup is over when all paths are, or when its owner has what it wanted. A peer that failed at
the addresses one path knows is asked again at those of another: else a liar could name sound peers at wrong addresses.

A peer silent for longer than `Patience` says no longer counts against the parallelism, so another one is asked besides;
silent for several times as long it no longer holds up the end. Its answer still counts if it comes before that.

What a malicious peer may answer: any peers, itself, nothing, late. What it achieves: of one answer at most NAMED_MAX
peers enter its path's list; of one range of addresses a path considers `narrow_per_path`, so that ids made to lie close
to a target need addresses all over; a path asks at most ASKED_MAX peers; a lookup ends after LOOKUP_S_MAX in any case.
"""

import enum
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Final

from shoal.transport.port import Address, PeerId

from .contacts import Contact, ranges_of
from .keys import position_of_peer
from .patience import Patience

NAMED_MAX: Final = 20
ASKED_MAX: Final = 64
CANDIDATES_MAX: Final = 128  # of a path
LOOKUP_S_MAX: Final = 30.0
LATE_S: Final = 0.005


@dataclass(frozen=True, slots=True)
class LookupSettings:
    wanted: int = 20  # k: closest peers to find
    parallelism: int = 3  # questions under way at once, beside those to silent peers
    paths: int = 3  # more: safer from liars, more questions
    narrow_per_path: int = 4  # peers of one IPv4 /24 or IPv6 /48 a path considers; fewer: a cluster is found less well


class _State(enum.Enum):
    """How far a peer is with the one question it gets."""

    ASKED = enum.auto()
    SILENT = enum.auto()  # no longer counts against the parallelism
    GIVEN_UP = enum.auto()  # no longer holds up the end; its answer still counts
    ANSWERED = enum.auto()
    FAILED = enum.auto()


_OPEN: Final = (_State.ASKED, _State.SILENT, _State.GIVEN_UP)


@dataclass(slots=True)
class _Question:
    path: "_Path"
    asked_at: float
    hop: int
    tried: frozenset[Address]
    state: _State = _State.ASKED


@dataclass(slots=True)
class _Candidate:
    contact: Contact
    distance: int
    hop: int  # of the answer that named it, and one


@dataclass(slots=True)
class _Path:
    narrow_max: int
    candidates: dict[PeerId, _Candidate] = field(default_factory=dict[PeerId, _Candidate])  # closest first
    per_range: Counter[str] = field(default_factory=Counter[str])
    asked_count: int = 0

    def add(self, candidates: Iterable[_Candidate]) -> None:
        """Consider these too, unless their ranges of addresses have their share already."""
        new = [candidate for candidate in candidates if candidate.contact.peer not in self.candidates]
        for candidate in new:
            ranges = _narrow_ranges(candidate.contact)
            if all(self.per_range[narrow] < self.narrow_max for narrow in ranges):
                self.candidates[candidate.contact.peer] = candidate
                for narrow in ranges:
                    self.per_range[narrow] += 1
        if not new:
            return
        ranked = sorted(self.candidates.values(), key=lambda each: each.distance)
        for dropped in ranked[CANDIDATES_MAX:]:
            self.per_range.subtract(_narrow_ranges(dropped.contact))
        self.candidates = {each.contact.peer: each for each in ranked[:CANDIDATES_MAX]}


def _narrow_ranges(contact: Contact) -> set[str]:
    """Of all the addresses a peer is said to have: it cannot hide one behind others."""
    return {ranges.narrow for ranges in map(ranges_of, contact.addresses) if ranges is not None}


class Lookup:
    """One lookup. Feed it what happens; ask whom it returns; stop when `is_over`.

    Args:
        target: a position (`keys.position_of`).
        self_id: never asked.
        start: the closest peers known so far, closest first.
    """

    def __init__(
        self, target: int, self_id: PeerId, start: Iterable[Contact], settings: LookupSettings, patience: Patience
    ) -> None:
        self._target, self._self_id = target, self_id
        self._settings, self._patience = settings, patience
        self._paths = [_Path(settings.narrow_per_path) for _ in range(settings.paths)]
        self._questions: dict[PeerId, _Question] = {}
        self._began_at = math.inf
        self._is_over = False
        self.hop_count = 0  # the longest chain of answers, each of which named the next
        self._deal(start, self._paths, 1)

    def begin(self, now: float) -> list[Contact]:
        """Whom to ask first. Over at once if nobody is known."""
        self._began_at = now
        return self._next(now)

    def answered(self, peer: PeerId, closer: Iterable[Contact], now: float) -> list[Contact]:
        """A peer that was asked named others. Returns whom to ask now."""
        question = self._questions.get(peer)
        if question is None or question.state not in _OPEN:
            return []
        question.state = _State.ANSWERED
        self._patience.answered(now - question.asked_at)
        self.hop_count = max(self.hop_count, question.hop)
        # Paths that began with nobody, since hardly anybody was known, share the first answer.
        paths = [question.path, *(path for path in self._paths if not path.candidates)]
        ranked = sorted(closer, key=lambda each: position_of_peer(each.peer) ^ self._target)
        self._deal(ranked[:NAMED_MAX], paths, question.hop + 1)
        return self._next(now)

    def failed(self, peer: PeerId, now: float) -> list[Contact]:
        """A peer that was asked cannot be reached, or answered something else. Returns whom to ask now."""
        question = self._questions.get(peer)
        if question is None or question.state not in _OPEN:
            return []
        question.state = _State.FAILED
        return self._next(now)

    def woken(self, now: float) -> list[Contact]:
        """It is `deadline`: somebody has been silent for too long. Returns whom to ask now."""
        late_s = now - self.deadline
        for question in self._questions.values():
            if late_s > LATE_S and question.state in _OPEN:
                question.asked_at += late_s  # this node was busy: its own pause is nobody's silence
        silence_s, give_up_s = self._patience.silence_s, self._patience.give_up_s
        for question in self._questions.values():
            if question.state is _State.ASKED and now >= question.asked_at + silence_s:
                question.state = _State.SILENT
            if question.state is _State.SILENT and now >= question.asked_at + give_up_s:
                question.state = _State.GIVEN_UP
        return self._next(now)

    def stop(self) -> None:
        """Its owner has what it wanted."""
        self._is_over = True

    @property
    def deadline(self) -> float:
        """When to call `woken`, at the latest; infinity when over."""
        if self._is_over:
            return math.inf
        silence_s, give_up_s = self._patience.silence_s, self._patience.give_up_s
        wakings = [self._began_at + LOOKUP_S_MAX]
        for question in self._questions.values():
            if question.state is _State.ASKED:
                wakings.append(question.asked_at + silence_s)
            elif question.state is _State.SILENT:
                wakings.append(question.asked_at + give_up_s)
        return min(wakings)

    @property
    def is_over(self) -> bool:
        return self._is_over

    @property
    def is_stalled(self) -> bool:
        """Whether nobody but silent peers has yet to answer."""
        return not any(question.state is _State.ASKED for question in self._questions.values())

    @property
    def silent(self) -> tuple[PeerId, ...]:
        """Asked, and given up without an answer: doubtful peers, for `RoutingTable.failed`."""
        return tuple(peer for peer, question in self._questions.items() if question.state is _State.GIVEN_UP)

    @property
    def closest(self) -> tuple[Contact, ...]:
        """The closest peers that answered, at most `wanted`: each path's best in turn, so that none fills it alone.

        Of one range of addresses there are no more than on one path: what is stored here shall not lie with one owner.
        """
        columns = [
            [each.contact for each, state in self._wanted(path) if state is _State.ANSWERED] for path in self._paths
        ]
        rows = zip_longest(*columns)
        found = _Path(self._settings.narrow_per_path)
        for contact in (each for row in rows for each in row if each is not None):
            if len(found.candidates) < self._settings.wanted:
                found.add([self._candidate(contact, 0)])
        return tuple(each.contact for each in found.candidates.values())

    @property
    def asked_count(self) -> int:
        """Questions put so far."""
        return len(self._questions)

    def _deal(self, contacts: Iterable[Contact], paths: list[_Path], hop: int) -> None:
        """To each path the same number."""
        candidates = [self._candidate(each, hop) for each in contacts if each.peer != self._self_id]
        for place, path in enumerate(paths):
            path.add(candidates[place :: len(paths)])

    def _candidate(self, contact: Contact, hop: int) -> _Candidate:
        return _Candidate(contact, position_of_peer(contact.peer) ^ self._target, hop)

    def _next(self, now: float) -> list[Contact]:
        """Whom to ask, as far as the parallelism allows; over when nobody is left to ask or to wait for."""
        if now >= self._began_at + LOOKUP_S_MAX:
            self._is_over = True
        if self._is_over:
            return []
        asks: list[Contact] = []
        under_way = [question.path for question in self._questions.values() if question.state is _State.ASKED]
        while len(under_way) < self._settings.parallelism:
            # The path with the fewest questions under way: each has one before any has two.
            for path in sorted(self._paths, key=lambda each: sum(asked is each for asked in under_way)):
                candidate = self._unasked(path)
                if candidate is not None:
                    break
            else:
                break
            self._ask(path, candidate, now)
            under_way.append(path)
            asks.append(candidate.contact)
        self._is_over = not asks and not any(self._is_waited_for(path) for path in self._paths)
        return asks

    def _ask(self, path: _Path, candidate: _Candidate, now: float) -> None:
        peer = candidate.contact.peer
        before = self._questions.get(peer)
        tried = frozenset(candidate.contact.addresses)
        if before is not None:
            tried |= before.tried
        self._questions[peer] = _Question(path, now, candidate.hop, tried)
        path.asked_count += 1

    def _unasked(self, path: _Path) -> _Candidate | None:
        """The closest that this path wants and nobody has asked yet."""
        if path.asked_count >= ASKED_MAX:
            return None
        return next((each for each, state in self._wanted(path) if state is None), None)

    def _is_waited_for(self, path: _Path) -> bool:
        """Whether a peer that this path wants has yet to answer."""
        return any(state is _State.ASKED or state is _State.SILENT for _, state in self._wanted(path))

    def _wanted(self, path: _Path) -> Iterator[tuple[_Candidate, _State | None]]:
        """The closest candidates of a path that have not failed: when all of them have answered, it is done."""
        left = self._settings.wanted
        for peer, candidate in path.candidates.items():
            question = self._questions.get(peer)
            state = None if question is None else question.state
            if question is not None and (state is _State.FAILED or state is _State.GIVEN_UP):
                if question.path is path or question.tried.issuperset(candidate.contact.addresses):
                    continue
                state = None
            yield candidate, state
            left -= 1
            if not left:
                return
