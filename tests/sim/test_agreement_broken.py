"""The simulation of agreement finds what is broken: with one rule broken on purpose, two records for a round."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

import pytest

from shoal.training.agreeing import Agreement
from shoal.training.members import Electorate, Seat, electorate_of
from shoal.training.spec import Quorum
from shoal.training.votes import Journal, Value
from shoal.training.voting import Voting
from shoal.transport.port import PeerId

from .agreement_liars import any_liar
from .agreement_member import Violation
from .agreement_world import Plan, World

SEEDS: Final = 500  # within which what is broken is found


class Unbound(Voting):
    """Forgets what binds it."""

    def _is_free_for(self, value: Value, polka_attempt: int | None) -> bool:
        return True


class UnboundAgreement(Agreement):
    def _open(self, journal: Journal | None) -> Voting:
        electorate, follows = self.position.electorate, self._can_follow
        return Unbound(self.swarm, self.round, electorate, self._signer, self._timeouts, follows, journal)


class Half(Electorate):
    """Half of the votes are enough, whoever has them."""

    def is_quorum(self, members: Iterable[PeerId]) -> bool:
        return 2 * self.count(members) >= self.total


class Shrinking(Electorate):
    """Who is suspended does not count."""

    def is_quorum(self, members: Iterable[PeerId]) -> bool:
        active = {PeerId(seat.member) for seat in self.seats if not seat.is_suspended}
        return 3 * self.count(set(members) & active) > 2 * self.count(active)


def of(kind: type[Electorate], quorum: Quorum, votes: Mapping[PeerId, int]) -> Electorate:
    return kind(quorum, tuple(Seat(member, votes[member], 0) for member in sorted(votes)))


@dataclass(frozen=True)
class Break:
    """How a world is made in which one rule does not hold."""

    make_agreement: Callable[..., Agreement] = Agreement
    make_electorate: Callable[[Quorum, Mapping[PeerId, int]], Electorate] = electorate_of
    forgets: bool = False


LOCK: Final = Break(make_agreement=UnboundAgreement)
HALF: Final = Break(make_electorate=partial(of, Half))
ONCE: Final = Break(forgets=True)
SUSPENSION: Final = Break(make_electorate=partial(of, Shrinking))


def majority(seed: int, broken: Break) -> World:
    plan = Plan(seed, 4 + seed % 4)
    return World(plan, broken.make_agreement, broken.make_electorate, broken.forgets)


def two_thirds(seed: int, broken: Break) -> World:
    count = 4 + seed % 4
    plan = Plan(seed, count, Quorum.TWO_THIRDS, liars=(count - 1) // 3)
    return World(plan, broken.make_agreement, broken.make_electorate, broken.forgets, any_liar)


@pytest.mark.parametrize(
    ("make", "broken"),
    [
        pytest.param(majority, LOCK, id="majority-locks"),
        pytest.param(majority, HALF, id="majority-quorum"),
        pytest.param(majority, ONCE, id="majority-vote-once"),
        pytest.param(two_thirds, LOCK, id="two-thirds-locks"),
        pytest.param(two_thirds, HALF, id="two-thirds-quorum"),
        pytest.param(two_thirds, ONCE, id="two-thirds-vote-once"),
        pytest.param(two_thirds, SUSPENSION, id="two-thirds-suspension"),
    ],
)
def test_a_rule_that_is_broken_on_purpose_is_found(make: Callable[[int, Break], World], broken: Break) -> None:
    assert any(is_found(make(seed, broken)) for seed in range(SEEDS))


def is_found(world: World) -> bool:
    """Whether two records for one round came about. (That no next one came about is another matter.)"""
    try:
        world.check()
    except Violation as violation:
        return "ended twice" in str(violation) or "two certified records" in str(violation)
    return False
