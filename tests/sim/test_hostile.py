"""A hostile member of a small swarm: whatever it sends, the others' rounds close on time, whole and equal."""

import random
import tempfile
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from blake3 import blake3

from shoal.training.events import RoundClosed
from shoal.training.records import (
    AskContributions,
    AskHead,
    AskRecord,
    Calls,
    Contribution,
    Have,
    Head,
    Hello,
    Offer,
    Presence,
    Propose,
    Record,
    Standing,
    Taken,
    TellHead,
    seal_contribution,
    seal_proposal,
)
from shoal.training.spec import swarm_id_of
from shoal.transport.blobs import BlobRef
from shoal.transport.identity import Identity
from shoal.transport.memory_node import MemoryTransport
from shoal.transport.port import Code, Refusal, Unary
from shoal.transport.wire import Message
from tests.sim.harness import Swarm, make_nodes, make_spec, simulated


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory where the system has such a place."""
    shared_memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared_memory if shared_memory.is_dir() else None) as path:
        yield Path(path)


@dataclass
class Villain:
    """Knows the protocol, holds one key, keeps no rule."""

    identity: Identity
    transport: MemoryTransport
    swarm: Swarm
    swarm_id: bytes
    calls: Calls

    @property
    def victim_head(self) -> Head:
        status = self.swarm.nodes[0].running.status()
        return Head(status.round, self.record, bytes.fromhex(status.state_digest))

    record: bytes = bytes(32)

    async def hello(self, standing: Standing, head: Head | None = None, sequence: int = 1) -> None:
        presence = Presence(sequence, standing, tuple(self.transport.addresses()))
        said = Hello(1, presence, head or Head(0, self.swarm_id, b""))
        for node in self.swarm.nodes:
            await self.transport.request(node.peer_id, self.calls.hello, said, timeout_s=1.0)

    async def tell_all(self, method: Unary[Message, Message], message: Message) -> list[Message]:
        replies = [
            await self.transport.request(node.peer_id, method, message, timeout_s=1.0) for node in self.swarm.nodes
        ]
        assert all(not isinstance(reply, Refusal) or reply.code is not Code.INTERNAL for reply in replies)
        return replies

    async def learn_head(self) -> TellHead:
        told = await self.transport.request(self.swarm.nodes[0].peer_id, self.calls.head, AskHead(), timeout_s=1.0)
        assert isinstance(told, TellHead)
        return told


@asynccontextmanager
async def besieged(folder: Path) -> AsyncGenerator[tuple[Swarm, Villain], None]:
    """Four honest members in round 3, and a villain connected to all of them."""
    nodes = make_nodes(folder, 4, payload_bytes=6_000)
    spec = make_spec(nodes, members_start=4, members_min=2, payload_bytes_max=10_000, samples_max=1000)
    async with simulated(nodes, spec, is_full=True) as swarm:
        identity = Identity.from_seed(blake3(b"villain").digest())
        await swarm.start(0, 1, 2, 3)
        transport = await swarm.network.open(identity.peer_id)
        swarm_id = swarm_id_of(spec.spec)
        await swarm.until_round(2)
        yield swarm, Villain(identity, transport, swarm, swarm_id, Calls(swarm_id))


async def expect_unharmed(swarm: Swarm, villain: Villain, rounds: int = 3) -> None:
    """From here on, rounds close among the honest as if nobody else were there."""
    start = max(node.round for node in swarm.nodes)
    begun_at = trio.current_time()
    await swarm.until_round(start + rounds)
    assert trio.current_time() - begun_at < 2.5 * rounds
    for round in range(start + 1, start + rounds + 1):
        assert len(set(swarm.digests(round))) == 1
    for closed in swarm.nodes[0].observed(RoundClosed)[start:]:
        assert {node.peer_id for node in swarm.nodes} <= set(closed.contributors)


async def test_garbage_to_every_method_is_refused_and_harms_nobody(autojump_clock: object, folder: Path) -> None:
    async with besieged(folder) as (swarm, villain):
        await villain.hello(Standing.PAUSED)
        draw = random.Random(7)

        class Garbage(Message, frozen=True):
            data: bytes

        for _ in range(30):
            for name in villain.calls.names():
                method: Unary[Message, Message] = Unary(name, Garbage, Garbage, 2**20, 2**20)
                garbage = Garbage(draw.randbytes(draw.choice((0, 1, 30, 6_000))))
                for reply in await villain.tell_all(method, garbage):
                    assert isinstance(reply, Refusal)
        await expect_unharmed(swarm, villain)


async def test_strangers_are_told_to_say_hello_first(autojump_clock: object, folder: Path) -> None:
    async with besieged(folder) as (swarm, villain):
        told = await villain.learn_head()
        offered = seal_contribution(villain.identity, villain.swarm_id, 3, Contribution(told.head.record, b"", 1, b""))
        replies = await villain.tell_all(villain.calls.offer, Offer(offered.envelope))  # type: ignore[arg-type]
        assert all(isinstance(reply, Refusal) and reply.code is Code.REFUSED for reply in replies)
        await expect_unharmed(swarm, villain)


async def test_unsound_contributions_never_enter_a_record(autojump_clock: object, folder: Path) -> None:
    async with besieged(folder) as (swarm, villain):
        await villain.hello(Standing.PAUSED)
        for _ in range(3):
            head = (await villain.learn_head()).head
            base, digest = head.record, head.digest
            for round, contribution in [
                (head.round + 1, Contribution(base, digest, 1001, bytes(8))),  # too many samples
                (head.round + 1, Contribution(base, digest, 1, BlobRef(bytes(32), 10_001))),  # too large
                (head.round + 1, Contribution(base, digest, 1, BlobRef(bytes(32), 9_000))),  # nobody has it
                (head.round + 1, Contribution(base, digest, 1, b"\xff" * 8)),  # refused by the method
                (head.round + 1, Contribution(bytes(32), digest, 1, bytes(8))),  # another base
                (head.round + 1, Contribution(base, bytes(32), 1, bytes(8))),  # another state
                (head.round + 2, Contribution(base, digest, 1, bytes(8))),
                (head.round, Contribution(base, digest, 1, bytes(8))),
                (2**31, Contribution(base, digest, 1, bytes(8))),
                (0, Contribution(base, digest, 1, bytes(8))),
            ]:
                offered = seal_contribution(villain.identity, villain.swarm_id, round, contribution)
                await villain.tell_all(villain.calls.offer, Offer(offered.envelope))  # type: ignore[arg-type]
            await trio.sleep(1.0)
        await expect_unharmed(swarm, villain)
        for node in swarm.nodes:
            assert not any(villain.identity.peer_id in closed.contributors for closed in node.observed(RoundClosed))


async def test_forged_envelopes_are_refused_and_soon_not_even_verified(autojump_clock: object, folder: Path) -> None:
    async with besieged(folder) as (swarm, villain):
        await villain.hello(Standing.PAUSED)
        head = (await villain.learn_head()).head
        good = seal_contribution(
            swarm.nodes[1].identity, bytes(32), head.round + 1, Contribution(head.record, head.digest, 1, bytes(8))
        )
        reasons: set[str] = set()

        async def send(number: int) -> None:
            forged = good.envelope[:-4] + number.to_bytes(4, "big")
            target = swarm.nodes[0].peer_id
            reply = await villain.transport.request(target, villain.calls.offer, Offer(forged), timeout_s=5.0)
            assert isinstance(reply, Refusal)
            reasons.add(reply.message)

        for batch in range(22):
            async with trio.open_nursery() as nursery:
                for number in range(100):
                    nursery.start_soon(send, 100 * batch + number)
        assert any("not signed" in reason for reason in reasons)
        assert any("too many" in reason for reason in reasons)
        await expect_unharmed(swarm, villain)


async def test_lying_proposals_are_refused_or_given_up(autojump_clock: object, folder: Path) -> None:
    async with besieged(folder) as (swarm, villain):
        await villain.hello(Standing.PAUSED)
        me = villain.identity.peer_id
        others = sorted(node.peer_id for node in swarm.nodes)
        for _ in range(3):
            head = (await villain.learn_head()).head
            for taken in [
                (Taken(me, bytes(32)),),  # fewer than members_min
                tuple(
                    sorted((Taken(me, bytes(32)), Taken(others[0], bytes(32))), key=lambda row: row.member)
                ),  # nobody's
            ]:
                for base in (head.digest, bytes(32)):
                    record = Record(head.record, head.round + 1, base, taken)
                    proposed = seal_proposal(villain.identity, villain.swarm_id, record)
                    await villain.tell_all(villain.calls.propose, Propose(proposed.envelope))  # type: ignore[arg-type]
            await trio.sleep(0.3)
        await expect_unharmed(swarm, villain)
        assert all(closed.proposer != me for node in swarm.nodes for closed in node.observed(RoundClosed))


async def test_a_head_that_leads_nowhere_is_doubted_and_rounds_go_on(autojump_clock: object, folder: Path) -> None:
    async with besieged(folder) as (swarm, villain):
        for sequence, head in enumerate(
            [
                Head(10**6, bytes(32), bytes(32)),
                Head(2**31, b"\x01" * 32, b""),
                Head(4, bytes(32), bytes(32)),
                Head(3, bytes(32), bytes(32)),
            ],
            1,
        ):
            await villain.hello(Standing.PAUSED, head, sequence)
            await villain.tell_all(villain.calls.have, Have(head, (), False))  # type: ignore[arg-type]
            await trio.sleep(0.5)
        await trio.sleep(3.0)
        await expect_unharmed(swarm, villain)


async def test_two_contributions_to_one_round_count_once_and_are_kept_as_evidence(
    autojump_clock: object, folder: Path
) -> None:
    async with besieged(folder) as (swarm, villain):
        head = (await villain.learn_head()).head
        await villain.hello(Standing.TRAINER, head)
        sent = 0
        for number in range(20):
            contribution = Contribution(head.record, head.digest, 1 + number, bytes(8))
            offered = seal_contribution(villain.identity, villain.swarm_id, head.round + 1, contribution)
            targets = swarm.nodes[number % 4 :]  # another first one to each
            for node in targets:
                await villain.transport.request(
                    node.peer_id, villain.calls.offer, Offer(offered.envelope), timeout_s=1.0
                )
                sent += 1
        await villain.hello(Standing.PAUSED, head, 2)
        await swarm.until_round(head.round + 1)
        assert len(set(swarm.digests(head.round + 1))) == 1
        for node in swarm.nodes:
            closed = node.observed(RoundClosed)[head.round]
            assert closed.contributors.count(villain.identity.peer_id) <= 1
        await expect_unharmed(swarm, villain)


async def test_asking_for_what_is_not_there_gets_a_clear_answer(autojump_clock: object, folder: Path) -> None:
    async with besieged(folder) as (swarm, villain):
        replies = await villain.tell_all(villain.calls.record, AskRecord(10**6))  # type: ignore[arg-type]
        assert all(isinstance(reply, Refusal) and reply.code is Code.NOT_FOUND for reply in replies)
        asked = AskContributions((bytes(32),) * 32)
        for reply in await villain.tell_all(villain.calls.contributions, asked):  # type: ignore[arg-type]
            assert reply.contributions == ()  # type: ignore[attr-defined]
        await expect_unharmed(swarm, villain)


async def test_a_member_that_only_pretends_to_work_delays_rounds_to_their_deadline_and_no_further(
    autojump_clock: object, folder: Path
) -> None:
    async with besieged(folder) as (swarm, villain):
        head = (await villain.learn_head()).head
        await villain.hello(Standing.TRAINER, head)
        await swarm.until_round(head.round + 2)
        for node in swarm.nodes:
            for closed in node.observed(RoundClosed)[head.round :]:
                assert closed.seconds < 20.0 + 5.0 + 1.0
                assert {each.peer_id for each in swarm.nodes} <= set(closed.contributors)


@pytest.mark.parametrize("rounds_ahead", [1, 10**6])
async def test_a_head_whose_checkpoint_nobody_serves_stops_no_round(
    autojump_clock: object, folder: Path, rounds_ahead: int
) -> None:
    async with besieged(folder) as (swarm, villain):
        honest = (await villain.learn_head()).head
        taken = (Taken(villain.identity.peer_id, bytes(32)),)
        record = Record(honest.record, honest.round + rounds_ahead, honest.digest, taken)
        proposed = seal_proposal(villain.identity, villain.swarm_id, record)
        head = Head(record.round, proposed.hash, bytes(32))
        told = TellHead(head, proposed.envelope, BlobRef(bytes(32), 16))
        villain.transport.serve(villain.calls.head, lambda peer, request: told)
        await villain.hello(Standing.PAUSED, head)
        await villain.tell_all(villain.calls.have, Have(head, (), False))  # type: ignore[arg-type]
        await trio.sleep(6.0)
        await expect_unharmed(swarm, villain)
