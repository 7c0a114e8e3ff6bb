"""Members of bench/attacks.py that learn, and do some of one another's turns again, as in a swarm with public data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from shoal.training.comparing import COMPARED_MAX, COMPARISON, Allowance, Gain, is_comparing, most_doubtful

from .aggregate import Held
from .digits import SIZE, Images, Vector, evaluate, gradient

BATCH: Final = 32
LR: Final = 0.1  # at 0.2 it depends on the first rounds' noise which minimum is found: losses that differ by a tenth
AUDIT_SHARE: Final = 1 / 16  # of its time that a member spends on others' turns: half by a draw, half by comparison
TOLERANCE: Final = 1e-4  # of a contribution's length
VERDICT_ROUNDS: Final = 4  # from a contribution: the draw, the first word, all others', the quorum's
EXAMINED: Final = 64  # images


class Turn(NamedTuple):
    """Where it began, what it had to train on, and what became of it."""

    anchor: Vector
    momentum: Vector  # its member's
    batches: NDArray[np.int64]  # (steps, BATCH) of the member's shard
    row: Vector


class Offer(NamedTuple):
    """What one member contributes to a round."""

    number: int  # the member's
    row: Held
    samples: int


class Member:
    """Its shard, its draws, its pace, and its momentum where that is the member's."""

    def __init__(self, shard: Images, seed: int, steps: int, momentum: float) -> None:
        self.shard = shard
        self.random = np.random.default_rng(seed)
        self.steps = steps
        self._beta = momentum
        self._momentum = np.zeros(SIZE, np.float32)

    def contribution(self, anchor: Vector) -> Turn:
        before = self._momentum
        batches = self.random.integers(len(self.shard), size=(self.steps, BATCH))
        self._momentum = trained(self.shard, batches, anchor, before, self._beta)
        return Turn(anchor, before, batches, self._momentum)


def trained(shard: Images, batches: NDArray[np.int64], anchor: Vector, momentum: Vector, beta: float) -> Vector:
    local = anchor.copy()
    for batch in batches:
        local -= np.float32(LR) * gradient(local, shard.part(batch))
    row = momentum.copy()
    row *= np.float32(beta)
    row += np.float32(1 - beta) * (anchor - local)
    return row


@dataclass
class Judges:
    """The honest members as judges of all: attackers say nothing. They draw and compare as members of a swarm do."""

    shards: Sequence[Images]  # what each member has to train on
    images: Images  # all of them
    numbers: Sequence[int]  # the judges'
    momentum: float  # a member's own
    seed: int
    allowances: dict[int, Allowance] = field(default_factory=dict[int, Allowance])
    found: dict[int, int] = field(default_factory=dict[int, int])  # the round of the verdict, by member

    def look(self, round: int, offers: Sequence[Offer], turns: Mapping[int, Turn]) -> list[int]:
        """What a round took is looked into. Returns whom a verdict of this round says to have made up its work."""
        if round > 1:  # members of round 1 are not agreed on, so nobody knows what each had to train on
            record = blake3(f"{self.seed}/{round}".encode()).digest()
            for judge in self.numbers:
                others = [offer for offer in offers if offer.number != judge]
                for offer in self._done_again(record, judge, others, turns):
                    if not self._holds(offer, turns[offer.number]):
                        self.found.setdefault(offer.number, round + VERDICT_ROUNDS)
        due = [number for number, verdict in self.found.items() if verdict <= round]
        for number in due:
            del self.found[number]
        return due

    def _done_again(self, record: bytes, judge: int, offers: Sequence[Offer], turns: Mapping[int, Turn]) -> list[Offer]:
        random, part = np.random.default_rng([judge, *record]), AUDIT_SHARE / 2
        drawn = [offer for offer in offers if random.random() < part / (len(offers) + 1)]
        allowance = self.allowances.setdefault(judge, Allowance())
        allowance.earn(part)
        if allowance.is_enough and is_comparing(record, str(judge)):
            allowance.spend(COMPARISON)
            order: list[int] = random.permutation(len(offers)).tolist()
            some = [offers[place] for place in order[:COMPARED_MAX]]
            other = self.images.part(random.integers(len(self.images), size=EXAMINED))
            place = most_doubtful([self._gain(offer, turns[offer.number], other) for offer in some])
            if place is not None:
                allowance.spend(1)
                drawn.append(some[place])
        return drawn

    def _gain(self, offer: Offer, turn: Turn, other: Images) -> Gain:
        shard = self.shards[offer.number]
        own = shard.part(self._batches(offer.number, turn).reshape(-1)[:EXAMINED])
        moved = turn.anchor - offer.row.vector
        return Gain(*(evaluate(turn.anchor, each)[0] - evaluate(moved, each)[0] for each in (own, other)))

    def _holds(self, offer: Offer, turn: Turn) -> bool:
        """Whether what was sent is what the turn comes to, and so much work."""
        batches = self._batches(offer.number, turn)
        row = trained(self.shards[offer.number], batches, turn.anchor, turn.momentum, self.momentum)
        distance = np.linalg.norm(offer.row.vector - row)
        return offer.samples == batches.size and bool(distance <= TOLERANCE * np.linalg.norm(row))

    def _batches(self, number: int, turn: Turn) -> NDArray[np.int64]:
        """Who trains on other data than it should has drawn from more."""
        return turn.batches % len(self.shards[number])
