"""Keys that cost nothing: a thousand of them behave well for a hundred rounds, and then attack at once."""

import os
from dataclasses import dataclass, field

import numpy as np
import pytest

from shoal.training.checkpoint import State
from shoal.training.conduct import Behaviour, after
from shoal.training.diloco import Diloco
from shoal.training.diloco_settings import DilocoSettings, settings_of
from shoal.training.members import Electorate, electorate_of
from shoal.training.method import Share
from shoal.training.payload import write_payload
from shoal.training.ports import BytesReader
from shoal.training.reputation import TRUST_MAX
from shoal.training.spec import Quorum, Spec, spec_from
from shoal.training.weights import Taken, weights
from shoal.transport.identity import Identity
from shoal.transport.port import PeerId
from shoal.transport.wire import Malformed
from tests.sim.robust_swarm import COUNT, LAYOUT, SETTINGS, Downhill

VOTERS = 8
GOOD_ROUNDS, BAD_ROUNDS = 100, 20
STEP = 0.1
SOAK = pytest.mark.skipif("SHOAL_SOAK" not in os.environ, reason="takes minutes: SHOAL_SOAK=1")


@dataclass
class World:
    """The method, weights and conduct as the log has them, without a network."""

    strangers: int
    state: State = field(init=False)
    behaviour: Behaviour = field(default_factory=Behaviour)
    round: int = 0

    def __post_init__(self) -> None:
        spec = spec_from(
            {"members_max": 1024, "settings": dict(SETTINGS)}, Identity.from_seed(bytes(32)).peer_id, bytes(16)
        )
        assert isinstance(spec, Spec)
        settings = settings_of(spec)
        assert isinstance(settings, DilocoSettings)
        self.method = Diloco(spec, settings, Downhill())
        self.state = self.method.start(spec)[0]
        self.voters = [PeerId(f"voter {number:04}".ljust(40, ".")) for number in range(VOTERS)]
        self.others = [PeerId(f"other {number:04}".ljust(40, ".")) for number in range(self.strangers)]
        votes = {**dict.fromkeys(self.voters, 10), **dict.fromkeys(self.others, 0)}
        self.electorate: Electorate = electorate_of(Quorum.TWO_THIRDS, votes)

    @property
    def progress(self) -> float:
        return -float(self.state.parameters.mean())

    def trusts(self) -> dict[PeerId, int]:
        reputation = self.behaviour.conduct.reputation
        known = {PeerId(each.member): reputation.trust(each.member, self.round + 1) for each in reputation.standings}
        return {member: known.get(member, TRUST_MAX) for member in (*self.voters, *self.others)}

    def go_on(self, are_good: bool) -> float:
        """One round. By how much the strangers have moved the state beside what the voters did, relative to that."""
        self.round += 1
        random = np.random.default_rng(self.round)
        evidence = self.method.evidence(self.state)
        conduct = after(self.behaviour, self.round, self.electorate, evidence, ())
        assert not isinstance(conduct, Malformed)
        self.behaviour = Behaviour(conduct, tuple(sorted((*self.voters, *self.others))))
        trusts = self.trusts()
        allowed = [member for member in self.behaviour.members if trusts[member]]
        self.behaviour = Behaviour(conduct, tuple(allowed))
        taken = [Taken(member, self.round - 1, 1 if member in self.voters else 2**20, 0) for member in allowed]
        counted = weights(taken, self.electorate, lambda member: trusts[member])
        shares: list[Share] = []
        for member, weight in zip(allowed, counted, strict=True):
            is_voter = member in self.voters
            honest = STEP + 1.5 * STEP * random.standard_normal(COUNT)  # there is always something to learn
            values = honest if is_voter or are_good else -20 * honest
            payload = BytesReader(b"".join(map(bytes, write_payload("float32", LAYOUT, values.astype(np.float32)))))
            shares.append(Share(self.round, member, 1, weight, self.round - 1, payload, is_voter))
        alone = self.method.apply(self.state, [share for share in shares if share.is_voters])[0].parameters.copy()
        before, self.state = self.state, self.method.apply(self.state, shares)[0]
        own = float(np.linalg.norm(alone - before.parameters))
        return float(np.linalg.norm(self.state.parameters - alone)) / own


@pytest.mark.parametrize("strangers", [150, pytest.param(1000, marks=SOAK)])
def test_a_crowd_without_votes_that_turns_after_a_hundred_rounds_does_bounded_harm(strangers: int) -> None:
    world = World(strangers)
    for _ in range(GOOD_ROUNDS):
        world.go_on(are_good=True)
    trusts = world.trusts()
    assert min(trusts.values()) == TRUST_MAX  # all of them have earned it
    begins = world.progress
    moved = [world.go_on(are_good=False) for _ in range(BAD_ROUNDS)]
    assert max(moved) <= 0.45  # a fifth of the result, against the voters' four: (4 - 1) / 5 of it is left at least
    assert moved[-1] == 0.0
    assert not any(world.trusts()[member] for member in world.others)
    assert all(world.trusts()[member] == TRUST_MAX for member in world.voters)
    assert world.progress - begins > 0.85 * BAD_ROUNDS * STEP * SETTINGS["outer_lr"]
