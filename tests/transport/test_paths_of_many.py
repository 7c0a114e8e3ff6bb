"""Two hundred nodes that meet through relays, each behind a router of some kind, on lines that lose packets."""

import heapq
import random
from collections import Counter
from dataclasses import dataclass, field
from itertools import count

import pytest

from shoal.transport.paths import ATTEMPTS_MAX, PAUSE_S_MIN, UNDER_WAY_MAX, Outcome, Paths, Way
from shoal.transport.port import PeerId

NODES = 200
PEERS = 12  # of each, all found within seconds
KINDS = ("public", "full cone", "port restricted", "symmetric")
LOSS = 0.3  # attempts that fail for no reason
UNTIL_S = 10_000.0


def can_meet(one: str, other: str) -> bool:
    return {one, other} != {"symmetric"} and {one, other} != {"symmetric", "port restricted"}


@dataclass
class World:
    """Nodes' paths against each other. Events are handled in the order of their time, then of their making."""

    seed: int
    paths: dict[PeerId, Paths] = field(default_factory=dict[PeerId, Paths])
    kinds: dict[PeerId, str] = field(default_factory=dict[PeerId, str])
    direct_at: dict[frozenset[PeerId], float] = field(default_factory=dict[frozenset[PeerId], float])
    attempts: dict[frozenset[PeerId], list[float]] = field(default_factory=dict[frozenset[PeerId], list[float]])
    under_way: Counter[PeerId] = field(default_factory=Counter[PeerId])
    most_under_way: int = 0

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._numbers = count()
        self._events: list[tuple[float, int, str, tuple[PeerId, ...]]] = []
        self._woken_at: dict[PeerId, float] = {}
        names = [PeerId(f"{index:03}") for index in range(NODES)]
        for name in names:
            self.paths[name] = Paths(name)
            self.kinds[name] = self._random.choice(KINDS)
        for name in names:
            for other in self._random.sample(names, PEERS // 2):
                if other != name:
                    self._put(self._random.random() * 2, "relayed", name, other)

    def run(self) -> None:
        while self._events:
            now, _, what, who = heapq.heappop(self._events)
            if now > UNTIL_S:
                return
            match what:
                case "relayed":
                    self._relayed(now, *who)
                case "wake":
                    self._wake(now, *who)
                case "offer":
                    self._offer(now, *who)
                case _:
                    self._end(now, Outcome(what), *who)
            for name in who:
                at = self.paths[name].deadline
                if at < self._woken_at.get(name, UNTIL_S):
                    self._woken_at[name] = at
                    self._put(at, "wake", name)

    def _put(self, at: float, what: str, *who: PeerId) -> None:
        heapq.heappush(self._events, (at, next(self._numbers), what, who))

    def _relayed(self, now: float, one: PeerId, other: PeerId) -> None:
        if frozenset((one, other)) not in self.attempts:
            self.attempts[frozenset((one, other))] = []
            self.paths[one].changed(other, Way.RELAYED, now)
            self.paths[other].changed(one, Way.RELAYED, now)

    def _wake(self, now: float, one: PeerId) -> None:
        self._woken_at.pop(one, None)
        for other in self.paths[one].due(now):
            self._count(one, 1)
            self._put(now + 0.1 + self._random.random() / 5, "offer", one, other)

    def _offer(self, now: float, one: PeerId, other: PeerId) -> None:
        if self.paths[other].offered(one, now):
            self._put(now + 0.1, Outcome.BUSY.value, one, other)
            return
        self._count(other, 1)
        self.attempts[frozenset((one, other))].append(now)
        if not can_meet(self.kinds[one], self.kinds[other]):
            outcome = Outcome.HOPELESS if self.kinds[one] == self.kinds[other] else Outcome.FAILED
        else:
            outcome = Outcome.FAILED if self._random.random() < LOSS else Outcome.DIRECT
        for each, peer in ((one, other), (other, one)):
            self._put(now + 0.5 + self._random.random(), outcome.value, each, peer)

    def _end(self, now: float, outcome: Outcome, one: PeerId, other: PeerId) -> None:
        self._count(one, -1)
        if outcome is Outcome.DIRECT:
            self.direct_at.setdefault(frozenset((one, other)), now)
            self.paths[one].changed(other, Way.DIRECT, now)
        self.paths[one].ended(other, outcome, outcome.value, now)

    def _count(self, one: PeerId, more: int) -> None:
        self.under_way[one] += more
        self.most_under_way = max(self.most_under_way, self.under_way[one])


@pytest.fixture(scope="module")
def worlds() -> list[World]:
    made = [World(seed) for seed in (1, 1, 2)]
    for world in made:
        world.run()
    return made


def test_whoever_can_meet_does_and_most_of_them_soon(worlds: list[World]) -> None:
    for world in worlds:
        able = [pair for pair in world.attempts if can_meet(*(world.kinds[each] for each in pair))]
        assert len(able) > 600
        assert set(world.direct_at) == set(able)
        soon = sum(at < 15.0 for at in world.direct_at.values())
        assert soon > 0.9 * len(able)


def test_nobody_does_more_than_is_allowed(worlds: list[World]) -> None:
    for world in worlds:
        assert world.most_under_way == UNDER_WAY_MAX
        for pair, times in world.attempts.items():
            assert times, sorted(pair)
            for at in times:
                assert sum(at <= each < at + PAUSE_S_MIN for each in times) <= ATTEMPTS_MAX


def test_equal_seeds_give_equal_runs(worlds: list[World]) -> None:
    one, same, other = worlds
    assert (one.direct_at, one.attempts) == (same.direct_at, same.attempts)
    assert one.direct_at != other.direct_at
