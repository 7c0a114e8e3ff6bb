"""A hostile peer beside a small swarm: whatever it sends, the others' rounds close on time, whole and equal."""

import random
from pathlib import Path
from typing import Any

import pytest
import trio
from msgspec.structs import replace

from shoal.training.agreed import record_value, remove_statement
from shoal.training.allowance import ENVELOPES_BURST, ENVELOPES_PER_S
from shoal.training.answers_service import LOG_COST
from shoal.training.calls import AskContributions, AskLog, AskProof, Have, Offer, TellHead, topic
from shoal.training.events import RoundClosed
from shoal.training.members import Leave, Remove
from shoal.training.records import Contribution, Head, Standing, seal_contribution
from shoal.training.votes import Decided, Signed, Step, Vote, cast, signatures_of
from shoal.transport.blobs import BlobRef
from shoal.transport.port import Code, Refusal, Unary
from shoal.transport.wire import Message
from tests.sim.villain import besieged, core_of, expect_unharmed, members, take_nothing
from tests.training.seated import stranger

ASKED = 200  # times


async def test_garbage_to_every_method_is_refused_and_harms_nobody(autojump_clock: object, folder: Path) -> None:
    async with besieged(folder) as (swarm, villain):
        await villain.hello()
        draw = random.Random(7)

        class Garbage(Message, frozen=True):
            data: bytes

        for _ in range(30):
            for name in villain.calls.names():
                method: Unary[Message, Message] = Unary(name, Garbage, Garbage, 2**20, 2**20)
                garbage = Garbage(draw.randbytes(draw.choice((0, 1, 30, 6_000))))
                for reply in await villain.ask(method, garbage):
                    assert isinstance(reply, Refusal)
        for _ in range(300):
            kind = draw.randrange(5)
            villain.transport.publish(
                topic(villain.swarm_id), bytes([kind]) + draw.randbytes(draw.choice((0, 1, 30, 600)))
            )
        await expect_unharmed(swarm)


async def test_strangers_are_told_to_say_hello_first(autojump_clock: object, folder: Path) -> None:
    async with besieged(folder) as (swarm, villain):
        head = await villain.head()
        offered = villain.contribution(head, head.round + 1)
        vote = villain.vote(head.round + 1, Step.PREVOTE, b"")
        word = Leave(villain.peer_id, vote.signature)
        for replies in (
            await villain.offer(offered),
            await villain.say(vote),
            await villain.tell(word),
            await villain.ask(villain.calls.have, Have(head, (), False, 0)),
            await villain.ask(villain.calls.log, AskLog(1)),
            await villain.ask(villain.calls.proof, AskProof(villain.swarm_id)),
        ):
            assert all(isinstance(reply, Refusal) and reply.code is Code.REFUSED for reply in replies)
        await expect_unharmed(swarm)


async def test_who_asks_for_the_log_or_proofs_of_it_without_end_is_soon_told_to_wait(
    autojump_clock: object, folder: Path
) -> None:
    async with besieged(folder) as (swarm, villain):
        await villain.hello()
        replies: list[Any] = []

        async def ask(method: Any, request: Any) -> None:
            replies.extend(await villain.ask(method, request, swarm.nodes[0].peer_id))

        for method, request in ((villain.calls.proof, AskProof(villain.swarm_id)), (villain.calls.log, AskLog(1))):
            replies.clear()
            began_at = trio.current_time()
            async with trio.open_nursery() as nursery:
                for _ in range(ASKED):
                    nursery.start_soon(ask, method, request)
            told = [reply for reply in replies if not isinstance(reply, Refusal)]
            took_s = trio.current_time() - began_at
            assert len(told) <= (ENVELOPES_BURST + ENVELOPES_PER_S * took_s) / LOG_COST < ASKED
            assert {reply.code for reply in replies if isinstance(reply, Refusal)} == {Code.BUSY}
        await expect_unharmed(swarm)


async def test_unsound_contributions_never_enter_a_record(autojump_clock: object, folder: Path) -> None:
    async with besieged(folder) as (swarm, villain):
        await villain.join()
        for _ in range(3):
            head = await villain.head()
            good, next = Head(head.round, head.record, head.digest), head.round + 1
            for base, round, samples, payload in [
                (good, next, 1001, bytes(8)),  # too many samples
                (good, next, 1, BlobRef(bytes(32), 10_001)),  # too large
                (good, next, 1, BlobRef(bytes(32), 9_000)),  # nobody has it
                (good, next, 1, b"\xff" * 8),  # refused by the method
                (Head(head.round, bytes(32), head.digest), next, 1, bytes(8)),  # another base
                (Head(head.round, head.record, bytes(32)), next, 1, bytes(8)),  # another state
                (Head(head.round + 1, bytes(32), head.digest), next + 1, 1, bytes(8)),  # of a round to come
                (Head(0, villain.swarm_id, bytes(32)), 1, 1, bytes(8)),  # uncertified
                (good, next + 5, 1, bytes(8)),  # too far ahead of its base
                (good, 2**31, 1, bytes(8)),
            ]:
                await villain.offer(villain.contribution(base, round, samples, payload))  # type: ignore[arg-type]
            await trio.sleep(1.0)
        await expect_unharmed(swarm, 5, lost_attempts=2)
        assert take_nothing(swarm, villain)


async def test_what_starts_from_too_old_a_state_is_not_taken(autojump_clock: object, folder: Path) -> None:
    async with besieged(folder, stale_rounds_max=1) as (swarm, villain):
        await villain.join()
        old = await villain.head()
        await swarm.until_round(old.round + 3)
        await villain.offer(villain.contribution(old, old.round + 1))
        await villain.offer(villain.contribution(old, old.round + 2))
        await expect_unharmed(swarm, 3, lost_attempts=2)
        assert take_nothing(swarm, villain)


async def test_one_payload_for_many_rounds_counts_as_one_walk_and_none_is_taken_twice(
    autojump_clock: object, folder: Path
) -> None:
    async with besieged(folder) as (swarm, villain):
        await villain.join()
        for _ in range(4):
            head = await villain.head()
            for round in range(head.round + 1, head.round + 12):
                offered = villain.contribution(head, round)
                await villain.offer(offered)
                await villain.offer(offered)
            await swarm.until_round(head.round + 1)
        await expect_unharmed(swarm, 6, lost_attempts=2)
        taken = [
            (share.round, share.base_round)
            for record in swarm.nodes[1].running.log()
            for share in record.taken
            if share.member == villain.peer_id
        ]
        assert taken
        assert len(taken) == len(set(taken))
        assert all(round <= base + 1 + villain.spec.stale_rounds_max for round, base in taken)


async def test_forged_envelopes_are_refused_and_soon_not_even_verified(autojump_clock: object, folder: Path) -> None:
    async with besieged(folder) as (swarm, villain):
        await villain.hello()
        head = await villain.head()
        body = Contribution(head.round, head.record, head.digest, 1, bytes(8))
        good = seal_contribution(swarm.nodes[1].identity, bytes(32), head.round + 1, body)
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
        await expect_unharmed(swarm)


async def test_forged_ballots_are_not_believed_and_soon_not_even_verified(autojump_clock: object, folder: Path) -> None:
    """Those with many prevotes, too: what counts is signatures."""
    async with besieged(folder) as (swarm, villain):
        await villain.hello()
        position = await villain.position()
        round, honest = position.round + 1, [node.identity for node in swarm.nodes]
        value = record_value(villain.record(position, bytes(32)))
        forged = [
            Vote(each.peer_id, round, 0, step, value.hash, villain.vote(round, step, value.hash).signature)
            for each in honest
            for step in Step
        ]
        certificate = tuple(Signed(vote.voter, vote.signature) for vote in forged if vote.step is Step.PRECOMMIT)
        replies: list[Any] = []

        async def say() -> None:
            replies.extend(await villain.say(*forged[:4], Decided(round, 0, value.data, certificate), *forged[5:]))
            villain.gossip(2, *forged[:2])

        for _ in range(20):
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(say)
        assert any(isinstance(reply, Refusal) and reply.code is Code.BUSY for reply in replies)
        await expect_unharmed(swarm)


async def test_ballots_of_others_that_are_repeated_by_a_stranger_change_nothing(
    autojump_clock: object, folder: Path
) -> None:
    async with besieged(folder) as (swarm, villain):
        await villain.hello()
        node = swarm.nodes[1].identity
        for ahead in (0, 1, 7, 10**6):
            round = (await villain.position()).round + ahead
            votes = [cast(node, villain.swarm_id, max(0, round - 3), 0, step, bytes(32)) for step in Step]
            decided = Decided(round, 0, b"x", signatures_of(votes[1:]))
            await villain.say(*votes, decided)
            villain.gossip(2, *votes, decided)
            await trio.sleep(0.3)
        await expect_unharmed(swarm)


@pytest.mark.parametrize("rounds_ahead", [1, 10**6])
async def test_heads_and_logs_that_do_not_exist_cost_a_request(
    autojump_clock: object, folder: Path, rounds_ahead: int
) -> None:
    async with besieged(folder) as (swarm, villain):
        honest = await villain.head()
        head = Head(honest.round + rounds_ahead, bytes(32), bytes(32))
        asked = 0

        def tell_log(peer: object, request: AskLog) -> Refusal:
            nonlocal asked
            asked += 1
            return Refusal(Code.NOT_FOUND, "what log?")

        villain.transport.serve(villain.calls.log, tell_log)
        villain.transport.serve(villain.calls.head, lambda peer, request: TellHead(head, BlobRef(bytes(32), 16)))
        await villain.hello(Standing.PAUSED, head)
        for _ in range(60):
            await villain.ask(villain.calls.have, Have(head, (), False, 0))
            await villain.say(villain.vote(head.round + 1, Step.PREVOTE, b""))
            await trio.sleep(0.1)
        assert asked <= 4 * 6  # doubt lasts for 5, 10, 20 s, and what was asked is asked by each
        await expect_unharmed(swarm)


async def test_a_checkpoint_of_another_state_is_not_taken_over(autojump_clock: object, folder: Path) -> None:
    """By somebody who comes late, and is told the right head with the wrong checkpoint."""
    async with besieged(folder, count=5) as (swarm, villain):
        swarm.kill(4)
        await swarm.until_round(12, 0, 1, 2, 3)
        honest = await villain.head()
        lie = swarm.nodes[0].disk.put(bytes(16), "lie")
        lied = Head(honest.round, honest.record, bytes(32))
        villain.transport.serve(villain.calls.head, lambda peer, request: TellHead(lied, lie))
        await swarm.start(4)
        for standing in (Standing.TRAINER, Standing.PAUSED):
            for head in (honest, lied):
                await villain.hello(standing, head, 3 + standing)
        await swarm.until_round(honest.round + 3)
        assert len(set(swarm.digests(honest.round + 3))) == 1
        await expect_unharmed(swarm)


async def test_two_contributions_to_one_round_count_once(autojump_clock: object, folder: Path) -> None:
    async with besieged(folder) as (swarm, villain):
        await villain.join()
        head = await villain.head()
        for number in range(20):
            offered = villain.contribution(head, head.round + 1, 1 + number)
            await villain.offer(offered, *(node.peer_id for node in swarm.nodes[number % 4 :]))  # another first to each
        await swarm.until_round(head.round + 1)
        for record in swarm.nodes[0].running.log():
            places = [(share.member, share.round, share.base_round) for share in record.taken]
            assert len(places) == len(set(places))
        await expect_unharmed(swarm, lost_attempts=1)


async def test_asking_for_what_is_not_there_gets_an_empty_answer(autojump_clock: object, folder: Path) -> None:
    async with besieged(folder) as (swarm, villain):
        await villain.hello()
        assert all(reply.log == () for reply in await villain.ask(villain.calls.log, AskLog(10**6)))
        asked = AskContributions((bytes(32),) * 32)
        assert all(reply.contributions == () for reply in await villain.ask(villain.calls.contributions, asked))
        await expect_unharmed(swarm)


async def test_nobody_waits_for_a_stranger_that_pretends_to_work(autojump_clock: object, folder: Path) -> None:
    async with besieged(folder) as (swarm, villain):
        for sequence in range(1, 6):
            await villain.hello(Standing.TRAINER, await villain.head(), sequence)
            await trio.sleep(0.5)
        await expect_unharmed(swarm)


async def test_a_member_that_only_pretends_to_work_delays_rounds_to_their_deadline_and_no_further(
    autojump_clock: object, folder: Path
) -> None:
    async with besieged(folder) as (swarm, villain):
        await villain.join()
        head = await villain.head()
        await villain.hello(Standing.TRAINER, head, 2)
        await swarm.until_round(head.round + 2)
        for node in swarm.nodes:
            for closed in node.observed(RoundClosed)[head.round :]:
                assert closed.seconds < 20.0 + 5.0 + 5.0
                assert {each.peer_id for each in swarm.nodes} <= set(closed.contributors)


async def test_who_pretends_to_work_in_every_round_is_soon_not_waited_for(autojump_clock: object, folder: Path) -> None:
    async with besieged(folder) as (swarm, villain):
        await villain.join()
        first = (await villain.head()).round
        for sequence in range(2, 200):
            head = await villain.head()
            if head.round >= first + 12:
                break
            await villain.hello(Standing.TRAINER, head, sequence)
            await trio.sleep(0.5)
        for node in swarm.nodes:
            rounds = [closed for closed in node.observed(RoundClosed) if closed.round > first]
            assert len(rounds) >= 12
            assert sum(closed.seconds >= 20.0 for closed in rounds) <= 3


async def test_words_of_others_lead_to_nothing(autojump_clock: object, folder: Path) -> None:
    """A join for another peer, a leave that its member did not sign, a removal signed by too few, by nobody."""
    async with besieged(folder) as (swarm, villain):
        await villain.join()
        before = (await villain.position()).electorate
        target = swarm.nodes[2].peer_id
        word = villain.vote(1, Step.PREVOTE, b"").signature
        statement = remove_statement(villain.swarm_id, target, before.by_member[target].since)
        own = Signed(villain.peer_id, villain.identity.sign(statement))
        stolen = replace(await villain.join_change(), member=stranger(77).peer_id)
        for _ in range(3):
            await villain.tell(
                Leave(target, word),
                Remove(target, (own,)),
                Remove(target, (own,) * 8),
                Remove(target, tuple(Signed(node.peer_id, word) for node in swarm.nodes)),
                stolen,
            )
            villain.gossip(3, Leave(target, word), stolen)
            await trio.sleep(0.5)
        await expect_unharmed(swarm, 5, lost_attempts=2)
        for node in swarm.nodes:
            assert core_of(node).words.removers() == {target: (villain.peer_id,)}
        after = (await villain.position()).electorate
        assert {seat.member for seat in after.seats} == {seat.member for seat in before.seats}


async def test_who_left_is_not_brought_back_by_a_stranger(autojump_clock: object, folder: Path) -> None:
    """Were it, a swarm whose members left properly would have to wait for them again."""
    async with besieged(folder) as (swarm, villain):
        await villain.hello()
        log = swarm.nodes[0].running.log()
        joins = [change for record in log for change in record.changes if change.member == swarm.nodes[3].peer_id]
        await swarm.nodes[3].running.leave()
        await swarm.until(lambda: swarm.nodes[3].peer_id not in members(swarm))
        swarm.kill(3)
        for _ in range(3):
            await villain.tell(*joins)
            villain.gossip(3, *joins)
            await trio.sleep(0.5)
        await expect_unharmed(swarm, 4)
        assert swarm.nodes[3].peer_id not in members(swarm)


async def test_hellos_with_votes_that_one_never_cast_silence_nobody(autojump_clock: object, folder: Path) -> None:
    """Nor do those that one has cast, in rounds that are over."""
    async with besieged(folder) as (swarm, villain):
        await villain.hello()
        position = await villain.position()
        old = [
            cast(node.identity, villain.swarm_id, round, 0, step, bytes(32))
            for node in swarm.nodes
            for round in range(1, position.round + 1)
            for step in Step
        ]
        forged = [
            Vote(node.peer_id, position.round + ahead, 0, step, b"", villain.vote(1, step, b"").signature)
            for node in swarm.nodes
            for ahead in range(1, 9)
            for step in Step
        ]
        for sequence in range(2, 22):
            draw = random.Random(sequence)
            await villain.hello(Standing.PAUSED, None, sequence, draw.choices([*old, *forged], k=8))
        await expect_unharmed(swarm, 4)
        assert not any("abstains" in problem for problem in swarm.problems())
