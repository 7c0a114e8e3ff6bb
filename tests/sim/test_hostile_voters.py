"""A voter that keeps no rule among honest ones: it costs attempts while it is its turn, and then its own seat."""

from pathlib import Path
from typing import Any

import pytest
import trio

from shoal.training.agreed import Share
from shoal.training.calls import Ballots
from shoal.training.effects import Recovered
from shoal.training.events import MembersChanged, RoundClosed, Waiting
from shoal.training.members import Expel, Suspend
from shoal.training.unwritten import KEPT_MAX
from shoal.training.votes import Polka, Step, Vote, cast, signatures_of, value_of
from shoal.transport.blobs import BlobRef
from shoal.transport.port import Code, Refusal
from tests.sim.harness import make_nodes, make_spec, simulated
from tests.sim.villain import besieged, core_of, expect_unharmed, members, share_of, take_nothing


async def test_who_votes_for_two_things_at_once_is_expelled_and_contributes_no_more(
    autojump_clock: object, folder: Path
) -> None:
    async with besieged(folder, count=3, quorum="two_thirds") as (swarm, villain):
        await villain.join()
        honest = {node.peer_id for node in swarm.nodes}
        for _ in range(5):
            head = await villain.head()
            await villain.offer(villain.contribution(head, head.round + 1))
            for attempt in range(3):
                await villain.say(
                    villain.vote(head.round + 1, Step.PREVOTE, b"", attempt),
                    villain.vote(head.round + 1, Step.PREVOTE, bytes(32), attempt),
                )
        await swarm.until(lambda: villain.peer_id not in members(swarm))
        assert members(swarm) == honest
        assert core_of(swarm.nodes[0]).electorate.is_barred(villain.peer_id)
        records = swarm.nodes[0].running.log()
        (expelled,) = [record for record in records for change in record.changes if isinstance(change, Expel)]
        for _ in range(3):
            head = await villain.head()
            await villain.offer(villain.contribution(head, head.round + 1))
            await villain.tell(await villain.join_change())
            await trio.sleep(1.0)
        await expect_unharmed(swarm, 4)
        later = [record for record in swarm.nodes[0].running.log() if record.round >= expelled.round]
        assert all(share.member in honest for record in later for share in record.taken)
        assert members(swarm) == honest


async def test_different_votes_to_everybody_expel_nobody_honest(autojump_clock: object, folder: Path) -> None:
    async with besieged(folder, quorum="two_thirds") as (swarm, villain):
        await villain.join()
        honest = {node.peer_id for node in swarm.nodes}
        for number in range(30):
            round = (await villain.head()).round + 1
            for node, choice in zip(swarm.nodes, (b"", bytes(32), b"x" * 32, b"y" * 32), strict=True):
                ballots = [villain.vote(round, step, choice, number % 3) for step in Step]
                await villain.ask(villain.calls.ballots, Ballots(tuple(ballots)), node.peer_id)
            await trio.sleep(0.2)
        await expect_unharmed(swarm, 4, lost_attempts=2)
        assert honest <= members(swarm)
        for record in swarm.nodes[0].running.log():
            gone = {change.member for change in record.changes if isinstance(change, Expel | Suspend)}
            assert not gone & honest


async def test_proposals_of_what_nobody_has_cost_their_proposers_turns_alone(
    autojump_clock: object, folder: Path
) -> None:
    async with besieged(folder) as (swarm, villain):
        await villain.join()
        for number in range(12):
            position, head = await villain.position(), await villain.head()
            nobodys = Share(villain.peer_id, head.round + 1, head.round, bytes(32), 1)
            of_others = Share(swarm.nodes[0].peer_id, head.round + 1, head.round, bytes(32), 1)
            unsound = share_of(villain.contribution(head, head.round + 1, payload=b"\xff" * 8))
            for shares in ((nobodys, of_others), (unsound, of_others), (nobodys,), ()):
                record = villain.record(position, head.digest, *sorted(shares, key=lambda share: share.member))
                await villain.say(villain.proposal(position, record, number % 4))
            await trio.sleep(0.3)
        await expect_unharmed(swarm, 6, lost_attempts=3)
        assert take_nothing(swarm, villain)


async def test_many_proposals_for_far_attempts_take_neither_memory_nor_disk(
    autojump_clock: object, folder: Path
) -> None:
    async with besieged(folder, quorum="two_thirds") as (swarm, villain):
        await villain.join()
        for number in range(150):
            position, head = await villain.position(), await villain.head()
            offered = villain.contribution(head, head.round + 1, 1 + number, BlobRef(bytes(32), 9_000))
            record = villain.record(position, head.digest, share_of(offered))
            await villain.say(villain.proposal(position, record, 5 * number + 10))
            for node in swarm.nodes:
                waiting = core_of(node)._situation.deliberation._waiting  # pyright: ignore[reportPrivateUsage]
                assert len(waiting) <= 3
        assert take_nothing(swarm, villain)
        await expect_unharmed(swarm, 6, lost_attempts=3)


async def test_huge_polkas_at_full_rate_are_soon_not_even_verified(autojump_clock: object, folder: Path) -> None:
    async with besieged(folder) as (swarm, villain):
        await villain.join()
        keys = [node.identity for node in swarm.nodes]
        replies: list[Any] = []
        for _ in range(3):
            round = (await villain.head()).round + 1
            value = value_of(b"v" * 100_000)
            votes = [cast(each, bytes(32), round, 0, Step.PREVOTE, value.hash) for each in keys]
            polka = Polka(0, value.data, signatures_of(votes))

            async def say(vote: Vote, polka: Polka = polka) -> None:
                shown = Vote(vote.voter, vote.round, vote.attempt, vote.step, b"", vote.signature, polka)
                target = swarm.nodes[0].peer_id
                replies.append(
                    await villain.transport.request(target, villain.calls.ballots, Ballots((shown,)), timeout_s=60.0)
                )

            async with trio.open_nursery() as nursery:
                for attempt in range(200):
                    nursery.start_soon(say, villain.vote(round, Step.PREVOTE, b"", attempt))
        assert any(isinstance(reply, Refusal) and "too many signatures" in reply.message for reply in replies)
        await expect_unharmed(swarm, 6, lost_attempts=3)


async def test_a_voter_that_never_says_anything_costs_its_turns_alone(autojump_clock: object, folder: Path) -> None:
    async with besieged(folder) as (swarm, villain):
        await villain.join()
        await expect_unharmed(swarm, 10, lost_attempts=3)


async def test_a_removal_takes_a_quorum(autojump_clock: object, folder: Path) -> None:
    async with besieged(folder) as (swarm, villain):
        await villain.join()
        assert await swarm.nodes[0].running.remove(villain.peer_id) is None
        await swarm.nodes[1].running.remove(villain.peer_id)
        await expect_unharmed(swarm, 4, lost_attempts=2)
        assert villain.peer_id in members(swarm)
        await swarm.nodes[2].running.remove(villain.peer_id)
        await swarm.until(lambda: villain.peer_id not in members(swarm))
        await villain.tell(await villain.join_change())
        await expect_unharmed(swarm, 4)
        assert villain.peer_id not in members(swarm)


@pytest.mark.parametrize("is_frozen", [True, False])
async def test_without_the_founder_nothing_begins_and_with_it_again_everything_does(
    autojump_clock: object, folder: Path, is_frozen: bool
) -> None:
    """It alone has a vote until the first record: until then the others train, and say what they wait for."""
    nodes = make_nodes(folder, 4)
    async with simulated(nodes, make_spec(nodes, members_start=3), is_full=True) as swarm:
        await swarm.start(0, 1, 2, 3) if is_frozen else await swarm.start(1, 2, 3)
        if is_frozen:
            await trio.sleep(0.5)
            swarm.cut(0)
        await trio.sleep(60.0)
        assert [node.round for node in nodes[1:]] == [0, 0, 0]
        for node in nodes[1:]:
            assert any("too few to agree" in waiting.reason for waiting in node.observed(Waiting))
        if is_frozen:
            swarm.network.heal()
        else:
            await swarm.start(0)
        await swarm.until_round(4)
        assert len(set(swarm.digests(4))) == 1
        assert members(swarm) == {node.peer_id for node in nodes}
        assert all(node.observed(MembersChanged) for node in nodes)
        await swarm.until(lambda: len(nodes[0].observed(RoundClosed)[-1].contributors) == 4)


async def test_no_ballots_are_heard_while_the_disk_has_no_room_for_what_follows_from_them(
    autojump_clock: object, folder: Path
) -> None:
    async with besieged(folder) as (swarm, villain):
        await villain.hello()
        node = swarm.nodes[0]
        cores = node.running._cores  # pyright: ignore[reportPrivateUsage]
        assert cores is not None
        for _ in range(KEPT_MAX):
            cores.unwritten.put(Recovered())
        vote = villain.vote(10**6, Step.PREVOTE, b"")
        (reply,) = await villain.ask(villain.calls.ballots, Ballots((vote,)), node.peer_id)
        assert isinstance(reply, Refusal)
        assert reply.code is Code.BUSY
        await expect_unharmed(swarm, lost_attempts=1)
