"""Through which relays a node that nobody can dial is reached: which to try, which to keep, which to give up, and why.

Two, so that one may go at any time; in two ranges of addresses where that can be had, so that they do not go together.
Those of one's own swarms come before strangers, who let pass only enough to meet (`relay.PUNCHING`) unless they say
otherwise, and those that answer quickly before others. Who refuses, goes or does not answer is left alone for a while,
which doubles each time, and the next one is tried. A better one that turns up is tried beside the two, and takes the
place of the worse once it has agreed. The owner's configured relays count among the two; they are held elsewhere.

A state machine without I/O. What a malicious peer may do: offer itself, agree, and then carry nothing, or vanish. What
it achieves: a place of two, which any member's relay takes from it; with one range of addresses one place, where there
are others.
"""

import enum
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from blake3 import blake3

from .addresses import Endpoint, ranges_of
from .port import PeerId

WANTED: Final = 2  # more: reservations that others could use
TRY_S: Final = 8.0  # to be dialed and to agree; longer: a dead one holds up the next
PAUSE_S_MIN: Final = 30.0  # before one that failed is tried again; doubled each time
PAUSE_S_MAX: Final = 3600.0
BETTER_S: Final = 60.0  # between two tries of something better than what is held: dials for nothing
CANDIDATES_MAX: Final = 64  # looked at; the others wait for another time
FAILED_MAX: Final = 256  # remembered
SLOW_S: Final = 0.1  # round trips are told apart in such steps


class Kind(enum.IntEnum):
    """How a candidate came to be known; the best first."""

    GIVEN = 0  # in the owner's configuration
    MEMBER = 1  # of a swarm of this node's, and dialed by it
    FOUND = 2  # says in the DHT that it relays
    KNOWN = 3  # of the DHT's table: it can be dialed


@dataclass(frozen=True, slots=True)
class Candidate:
    """Who might relay for us."""

    peer: PeerId
    endpoint: Endpoint
    kind: Kind
    rtt_s: float | None = None  # of a connection that stands

    @property
    def narrow(self) -> str | None:
        ranges = ranges_of(self.endpoint.address)
        return None if ranges is None else ranges.narrow


class State(enum.Enum):
    """How it stands with one that is used, as `relay_service` tells it."""

    TRYING = "trying"
    HELD = "held"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Use:
    """Be reached through it from now on."""

    candidate: Candidate
    reason: str


@dataclass(frozen=True, slots=True)
class Leave:
    """And through it no more."""

    peer: PeerId
    reason: str


Change = Use | Leave


@dataclass(slots=True)
class _Used:
    candidate: Candidate
    since: float  # it was tried, or went away
    is_held: bool = False


@dataclass(slots=True)
class _Failure:
    until: float
    pause_s: float


class RelayChoice:
    """Args:
    seed: of the order among equals; differs from node to node, so that not all ask the same ones.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._used: dict[PeerId, _Used] = {}
        self._failed: dict[PeerId, _Failure] = {}
        self._better_at = -math.inf

    @property
    def used(self) -> tuple[Candidate, ...]:
        return tuple(each.candidate for each in self._used.values())

    @property
    def held_count(self) -> int:
        """Reservations of this choice that stand."""
        return sum(each.is_held for each in self._used.values())

    def look(
        self, now: float, is_private: bool, given: Mapping[PeerId, State], candidates: Iterable[Candidate]
    ) -> list[Change]:
        """What to change, at any moment: some seconds apart, and whenever something has changed.

        Args:
            is_private: whether nobody can dial this node; else it needs no relays.
            given: how it stands with the configured relays.
            candidates: who might relay, this node not among them.
        """
        if not is_private:
            return [self._leave(peer, "this node can be dialed") for peer in list(self._used)]
        changes: list[Change] = []
        for peer, each in list(self._used.items()):
            if not each.is_held and now - each.since >= TRY_S:
                changes.append(self._fail(peer, f"no reservation within {TRY_S:g} s", now))
        fitting = [each for each in candidates if each.peer not in given and self._may_try(each.peer, now)]
        fitting = sorted(fitting, key=self._rank)[:CANDIDATES_MAX]
        given_count = sum(state is State.HELD for state in given.values())
        while len(self._used) + given_count < WANTED:
            chosen = self._best(fitting)
            if chosen is None:
                break
            fitting.remove(chosen)
            changes.append(self._use(chosen, f"{WANTED} are wanted", now))
        return changes + self._improve(fitting, given_count, now)

    def told(self, peer: PeerId, state: State, now: float) -> list[Change]:
        """How it stands with one that is used; also if nothing has changed."""
        each = self._used.get(peer)
        if each is None:
            return []
        match state:
            case State.REFUSED:
                return [self._fail(peer, "it refused", now)]
            case State.HELD:
                each.is_held = True
            case State.TRYING if each.is_held:
                each.is_held, each.since = False, now
            case State.TRYING:
                pass
        return []

    def _improve(self, fitting: list[Candidate], given_count: int, now: float) -> list[Change]:
        """Give up what is one too many; try something better beside what is held."""
        changes: list[Change] = []
        while len(self._used) + given_count > WANTED and self.held_count + given_count > WANTED:
            held = [each.candidate for each in self._used.values() if each.is_held]
            worst = max(held, key=lambda each: self._worth(each, held))
            changes.append(self._leave(worst.peer, "there are better ones"))
        if len(self._used) == self.held_count and len(self._used) + given_count == WANTED and self._used:
            held = list(self.used)
            worst = max(held, key=lambda each: self._worth(each, held))
            left = [each for each in held if each is not worst]
            better = [each for each in fitting if self._worth(each, [*left, each]) < self._worth(worst, held)]
            if better and now >= self._better_at:
                self._better_at = now + BETTER_S
                changes.append(self._use(min(better, key=self._rank), f"it is better than {worst.peer}", now))
        return changes

    def _worth(self, candidate: Candidate, beside: Iterable[Candidate]) -> tuple[Kind, bool]:
        """The less, the better: kind first, then whether another is in its range of addresses."""
        narrow = candidate.narrow
        return candidate.kind, any(each.narrow == narrow for each in beside if each is not candidate and narrow)

    def _best(self, fitting: list[Candidate]) -> Candidate | None:
        """The first of the best kind, in a range of addresses of its own if any of that kind is."""
        ranges = {each.narrow for each in self.used} - {None}
        return min(fitting, key=lambda each: (each.kind, each.narrow in ranges), default=None)

    def _rank(self, candidate: Candidate) -> tuple[Kind, float, bytes]:
        rtt_steps = math.inf if candidate.rtt_s is None else candidate.rtt_s // SLOW_S
        return candidate.kind, rtt_steps, blake3(f"{self._seed}/{candidate.peer}".encode()).digest()

    def _may_try(self, peer: PeerId, now: float) -> bool:
        failure = self._failed.get(peer)
        return peer not in self._used and (failure is None or now >= failure.until)

    def _use(self, candidate: Candidate, reason: str, now: float) -> Change:
        self._used[candidate.peer] = _Used(candidate, now)
        return Use(candidate, reason)

    def _leave(self, peer: PeerId, reason: str) -> Change:
        del self._used[peer]
        return Leave(peer, reason)

    def _fail(self, peer: PeerId, reason: str, now: float) -> Change:
        before = self._failed.pop(peer, None)
        is_first = before is None or now - before.until >= PAUSE_S_MAX
        pause_s = PAUSE_S_MIN if before is None or is_first else min(PAUSE_S_MAX, 2 * before.pause_s)
        self._failed[peer] = _Failure(now + pause_s, pause_s)
        if len(self._failed) > FAILED_MAX:
            del self._failed[next(iter(self._failed))]
        return self._leave(peer, reason)
