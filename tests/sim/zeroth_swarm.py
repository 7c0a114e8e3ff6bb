"""Simulated swarms that train a quadratic by shared seeds, some of whose members make up their slopes."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import trio

from shoal.training.checkpoint import Local
from shoal.training.method import Turn, Work
from shoal.training.records import Contribution, Head, seal_contribution, turn_seed
from shoal.training.scalar_codes import decoded, encode
from shoal.training.service import SwarmService
from shoal.training.spec import SignedSpec, Spec, open_spec, swarm_id_of
from shoal.training.zeroth import Zeroth
from shoal.training.zeroth_settings import ZerothSettings, parse_settings
from shoal.training.zeroth_state import State
from tests.sim.harness import LOOK_S, Node, Swarm, make_nodes, make_spec
from tests.training.quadratic import Quadratic

SETTINGS = {"directions": 8, "lr": 0.05}

Forge = Callable[[bytes, Turn], bytes]


class Lying(Zeroth):
    """Sends other codes than it found."""

    forge: Forge

    def contribute(self, state: State, local: Local, turn: Turn) -> Work[Local]:
        work = super().contribute(state, local, turn)
        found = bytes(work.payload[0])
        codes = self.forge(found, turn)
        return Work((codes,), work.samples * len(codes) // len(found), work.local, work.metrics)


def tenfold_and_backwards(codes: bytes, turn: Turn) -> bytes:
    return bytes(encode(-10 * decoded(code, -8), -8) for code in codes)


def constant(codes: bytes, turn: Turn) -> bytes:
    return bytes([80] * len(codes))


def people(
    folder: Path,
    count: int,
    liars: dict[int, Forge] | None = None,
    members_start: int | None = None,
    **settings: object,
) -> tuple[list[Node], SignedSpec]:
    """Members of a swarm that trains a quadratic; some forge what they send."""
    nodes = make_nodes(folder, count)
    signed = make_spec(nodes, method="zeroth", members_start=members_start or count, settings=SETTINGS | settings)
    for number, node in enumerate(nodes):
        node.method = method_of(signed, (liars or {}).get(number))
    return nodes, signed


def method_of(signed: SignedSpec, forge: Forge | None = None) -> Zeroth:
    """Of one member."""
    spec = open_spec(signed)
    assert isinstance(spec, Spec)
    parsed = parse_settings(spec.settings)
    assert isinstance(parsed, ZerothSettings)
    if forge is None:
        return Zeroth(spec, parsed, Quadratic())
    lying = Lying(spec, parsed, Quadratic())
    lying.forge = forge
    return lying


def members(service: SwarmService) -> set[str]:
    view = service.membership()
    return set() if view is None else {row.peer for row in view.members}


def banned(service: SwarmService) -> set[str]:
    view = service.membership()
    return set() if view is None else {row.peer for row in view.members if row.banned_until is not None}


def trust(node: Node, other: Node) -> float:
    view = node.running.membership()
    assert view is not None
    return next(row.trust for row in view.members if row.peer == other.peer_id)


def loss(node: Node) -> float:
    return Quadratic().evaluate(node.running.state().parameters)["validation_loss"]


async def started(swarm: Swarm) -> None:
    await swarm.start(*range(len(swarm.nodes)), introducer=0)


Plan = Callable[[int], Iterable[tuple[int, int]]]


@dataclass
class Besides:
    """Has a member offer contributions from states of its past, beside what its engine makes.

    `plan` gives, for the newest state's round, from which states: how many before the newest, and for the how many-th
    round after it.
    """

    node: Node
    spec: SignedSpec
    method: Zeroth
    plan: Plan
    offered_count: int = 0

    async def run(self) -> None:
        """Until cancelled."""
        newest = 0
        while True:
            bases = [] if self.node.service is None else self._bases()
            if bases and bases[0].round > newest:
                newest = bases[0].round
                for back, ahead in self.plan(newest):
                    if back < len(bases):
                        await self._offer(bases[back], ahead)
            await trio.sleep(LOOK_S)

    def _bases(self) -> list[Head]:
        """The states that are still here, the newest first; of one that several records left as it was, the first."""
        return list({head.digest: head for head in self.node.running.saved_heads()}.values())

    async def _offer(self, base: Head, ahead: int) -> None:
        me, swarm, round = self.node.peer_id, swarm_id_of(self.spec.spec), base.round + ahead
        state = await self.node.running.saved_state(base)
        engine = self.node.running._engine  # pyright: ignore[reportPrivateUsage]
        assert not isinstance(state, str)
        assert engine is not None
        seed, clock = turn_seed(swarm, round, base.round, me), trio.current_time
        turn = Turn(round, base.round, me, (me,), seed, math.inf, clock, lambda: False)
        work = self.method.contribute(state, Local(), turn)
        body = Contribution(base.round, base.record, base.digest, work.samples, b"".join(map(bytes, work.payload)))
        engine.offer(seal_contribution(self.node.identity, swarm, round, body))
        self.offered_count += 1
