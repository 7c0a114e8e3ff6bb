"""What rounds took, made by real keys, for a toy method; with the states that they lead to."""

from collections.abc import Iterable
from dataclasses import dataclass

from shoal.training.history import Made, made_of, shares_of
from shoal.training.records import Contribution, Head, Offered, seal_contribution
from shoal.training.replay_service import applied
from shoal.training.spec import Spec
from shoal.transport.blobs import BlobRef
from shoal.transport.identity import Identity
from shoal.transport.wire import Malformed
from tests.sim.harness import ToyMethod, ToyState

METHOD = ToyMethod()
SEVEN = (7).to_bytes(8, "little")
KEYS = sorted((Identity.from_seed(bytes([n]) * 32) for n in range(1, 5)), key=lambda identity: identity.peer_id)


def offer(key: Identity, swarm: bytes, round: int, payload: bytes | BlobRef = SEVEN) -> Offered:
    body = Contribution(round - 1, bytes(32), bytes(32), 1 + round % 9, payload)
    return seal_contribution(key, swarm, round, body)


def made(swarm: bytes, round: int, keys: Iterable[Identity] = KEYS) -> Made:
    """Everybody of `keys` contributed a number of its own."""
    offers = [
        offer(key, swarm, round, ((31 * round + place) % 1000).to_bytes(8, "little")) for place, key in enumerate(keys)
    ]
    row = made_of(round, offers, [1000 + place for place in range(len(offers))])
    assert row is not None
    return row


@dataclass(frozen=True)
class Course:
    """What so many rounds took; every fifth took nothing."""

    swarm: bytes
    spec: Spec
    rounds: int

    @property
    def rows(self) -> list[Made]:
        return [made(self.swarm, round, KEYS if round % 5 else ()) for round in range(1, self.rounds + 1)]

    def states(self) -> list[ToyState]:
        """After each round, the start first."""
        states = [METHOD.start(self.spec)[0]]
        for row in self.rows:
            shares = shares_of(row, self.swarm, self.spec, METHOD)
            assert not isinstance(shares, Malformed), shares
            states.append(applied(METHOD, states[-1], [shares]))
        return states

    def head(self, round: int) -> Head:
        return Head(round, round.to_bytes(32, "big"), METHOD.digest(self.states()[round]) or b"")
