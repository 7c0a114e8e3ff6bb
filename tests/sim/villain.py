"""A peer that knows the protocol, holds a key and keeps no rule, beside a small swarm of real engines."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio
from blake3 import blake3

from shoal.training.admission import join_change
from shoal.training.agreed import AgreedRecord, Position, Share, next_record, record_value
from shoal.training.calls import (
    PROTOCOL_VERSION,
    AskHead,
    AskLog,
    Ballots,
    Calls,
    Hello,
    Offer,
    TellHead,
    TellLog,
    Words,
    topic,
)
from shoal.training.events import RoundClosed
from shoal.training.ledger import closed_by
from shoal.training.members import Change, Join
from shoal.training.records import Contribution, Head, Offered, Presence, Standing, seal_contribution
from shoal.training.rounds import Rounds
from shoal.training.skipping import beginning
from shoal.training.spec import Spec, open_spec, swarm_id_of
from shoal.training.votes import Ballot, Proposal, Step, Vote, cast, propose
from shoal.transport.blobs import BlobRef
from shoal.transport.identity import Identity
from shoal.transport.memory_node import MemoryTransport
from shoal.transport.port import Code, PeerId, Refusal
from shoal.transport.wire import encode
from tests.sim.harness import Node, Swarm, make_nodes, make_spec, simulated

ROUND_S = 1.25  # of the honest alone: a turn of a second, and what agreement takes
LOST_ATTEMPT_S = 4.5  # nobody proposes for silence_s, and votes for nothing are waited for


@dataclass
class Villain:
    """Connected to all; it serves nothing."""

    identity: Identity
    transport: MemoryTransport
    swarm: Swarm
    swarm_id: bytes
    spec: Spec
    calls: Calls

    @property
    def peer_id(self) -> PeerId:
        return self.identity.peer_id

    async def ask(self, method: Any, message: Any, *targets: PeerId) -> list[Any]:
        """Of all nodes, or these. Whatever is sent, nobody has an error of its own."""
        peers = targets or tuple(node.peer_id for node in self.swarm.nodes if node.service is not None)
        replies = [await self.transport.request(peer, method, message, timeout_s=1.0) for peer in peers]
        assert all(not isinstance(reply, Refusal) or reply.code is not Code.INTERNAL for reply in replies)
        return replies

    async def hello(
        self, standing: Standing = Standing.PAUSED, head: Head | None = None, sequence: int = 1, yours: Any = ()
    ) -> list[Any]:
        presence = Presence(sequence, standing, tuple(self.transport.addresses()))
        said = Hello(PROTOCOL_VERSION, presence, head or Head(0, self.swarm_id, b""), "villainous", tuple(yours))
        return await self.ask(self.calls.hello, said)

    async def say(self, *ballots: Ballot) -> list[Any]:
        return await self.ask(self.calls.ballots, Ballots(ballots))

    async def tell(self, *changes: Change) -> list[Any]:
        return await self.ask(self.calls.words, Words(changes))

    async def offer(self, offered: Offered, *targets: PeerId) -> list[Any]:
        return await self.ask(self.calls.offer, Offer(offered.envelope), *targets)

    def gossip(self, kind: int, *parts: Ballot | Change) -> None:
        message = Words(parts) if kind == 3 else Ballots(parts)  # type: ignore[arg-type]
        self.transport.publish(topic(self.swarm_id), bytes([kind]) + encode(message))

    async def head(self) -> Head:
        told = (await self.ask(self.calls.head, AskHead(), self.swarm.nodes[0].peer_id))[0]
        assert isinstance(told, TellHead)
        return told.head

    async def position(self) -> Position:
        """Where the log stands, as it is told to who has said hello."""
        position = beginning(self.swarm_id, self.spec)
        while True:
            told = (await self.ask(self.calls.log, AskLog(position.round + 1), self.swarm.nodes[0].peer_id))[0]
            assert isinstance(told, TellLog), told
            if not told.log:
                return position
            for decided in told.log:
                _, position = closed_by(position, decided)

    async def join(self) -> None:
        """Become a member with a vote, as the list allows."""
        await self.hello()
        await self.tell(await self.join_change())
        await self.swarm.until(lambda: self.peer_id in members(self.swarm))

    async def join_change(self) -> Join:
        change = join_change(self.spec, self.swarm_id, self.identity, None, (await self.position()).round)
        assert isinstance(change, Join)
        return change

    def contribution(self, base: Head, round: int, samples: int = 1, payload: bytes | BlobRef = bytes(8)) -> Offered:
        body = Contribution(base.round, base.record, base.digest, samples, payload)
        return seal_contribution(self.identity, self.swarm_id, round, body)

    def record(self, position: Position, base_digest: bytes, *shares: Share, changes: Any = ()) -> AgreedRecord:
        record = next_record(position, base_digest, shares, tuple(changes))
        assert isinstance(record, AgreedRecord), record
        return record

    def proposal(self, position: Position, record: AgreedRecord, since: int = 0) -> Proposal:
        """In the first attempt from `since` on whose turn it is."""
        round = position.round + 1
        attempt = next(n for n in range(since, 1000) if position.electorate.proposer(round, n) == self.peer_id)
        return propose(self.identity, self.swarm_id, round, attempt, record_value(record), None)

    def vote(self, round: int, step: Step, choice: bytes, attempt: int = 0) -> Vote:
        return cast(self.identity, self.swarm_id, round, attempt, step, choice)


def share_of(offered: Offered, **other: Any) -> Share:
    contribution = offered.contribution
    known = {"round": offered.round, "base_round": contribution.base_round, "samples": contribution.samples}
    return Share(member=offered.member, contribution=offered.hash, **(known | other))


VILLAIN = Identity.from_seed(blake3(b"villain").digest())


@asynccontextmanager
async def besieged(folder: Path, count: int = 4, **values: Any) -> AsyncGenerator[tuple[Swarm, Villain], None]:
    """Honest members in round 3, and a villain connected to all of them, on the list and not let in yet."""
    nodes = make_nodes(folder, count, payload_bytes=6_000)
    allowed = [*(node.peer_id for node in nodes), VILLAIN.peer_id]
    bounds = {"members_start": count, "members_min": 2, "payload_bytes_max": 10_000, "samples_max": 1000}
    spec = make_spec(nodes, **({"allowed": allowed} | bounds | values))
    async with simulated(nodes, spec, is_full=True) as swarm:
        await swarm.start(*range(count))
        transport = await swarm.network.open(VILLAIN.peer_id)
        swarm_id, opened = swarm_id_of(spec.spec), open_spec(spec)
        assert isinstance(opened, Spec)
        await swarm.until_round(2)
        yield swarm, Villain(VILLAIN, transport, swarm, swarm_id, opened, Calls(swarm_id))


async def expect_unharmed(swarm: Swarm, rounds: int = 3, *, lost_attempts: int = 0) -> None:
    """From here on, rounds close among the honest as if nobody else were there, but for so many lost attempts."""
    running = [node for node in swarm.nodes if node.service is not None]
    start = max(node.round for node in running)
    begun_at = trio.current_time()
    await swarm.until_round(start + rounds)
    took_s = trio.current_time() - begun_at
    assert took_s < ROUND_S * (rounds + 1) + LOST_ATTEMPT_S * lost_attempts, f"{took_s} s"
    for round in range(start + 1, start + rounds + 1):
        assert len({node.digest(round) for node in running}) == 1
    for node in running:
        last = node.observed(RoundClosed)[-1]
        assert {each.peer_id for each in running} <= set(last.contributors)


def members(swarm: Swarm) -> set[str]:
    """As node 0 has it in its log."""
    return {seat.member for seat in core_of(swarm.nodes[0]).electorate.seats}


def core_of(node: Node) -> Rounds:
    """What the engine there thinks."""
    cores = node.running._cores  # pyright: ignore[reportPrivateUsage]
    assert cores is not None
    return cores.rounds


def take_nothing(swarm: Swarm, villain: Villain) -> bool:
    """Whether no round has ever taken anything of the villain's."""
    return not any(
        villain.peer_id in closed.contributors for node in swarm.nodes for closed in node.observed(RoundClosed)
    )
