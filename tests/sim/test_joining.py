"""Who comes late, comes back from a copy, leaves or is removed: simulated swarms of real engines."""

import shutil
from pathlib import Path

import trio

from shoal.training.archive_reading_service import LOG_NAME
from shoal.training.calls import LOG_TOLD_MAX
from shoal.training.events import Finished, MembersChanged, Problem, Resynced, RoundClosed, RoundStarted, Waiting
from tests.sim.harness import Node, Swarm, make_nodes, make_spec, simulated


def takes_part(node: Node, other: Node) -> bool:
    return other.peer_id in node.observed(RoundClosed)[-1].contributors


async def test_who_comes_after_many_rounds_is_shown_the_way_and_takes_part_at_once(
    autojump_clock: object, folder: Path
) -> None:
    nodes = make_nodes(folder, 4)
    for node in nodes:
        node.turn_s = 0.1
    async with simulated(nodes, make_spec(nodes, members_start=3)) as swarm:
        await swarm.start(0, 1, 2, introducer=0)
        await swarm.until_round(LOG_TOLD_MAX + 40)
        trusted = nodes[0].running.status().record
        await swarm.until_round(LOG_TOLD_MAX + 60)
        await swarm.start(3, introducer=1, trusted=trusted)
        start = max(node.round for node in nodes)
        await swarm.until(lambda: nodes[3].round > start + 2 and takes_part(nodes[0], nodes[3]))
        assert len(nodes[3].observed(Resynced)) == 1
        # Where a round ends just while it asks for a head, it is told one beyond the log that it has: it tries again
        # after a second, six rounds here.
        assert nodes[3].observed(RoundClosed)[0].round <= start + 9
        assert len(nodes[3].running.log()) < 40  # the rounds before were leapt over
        assert len(set(swarm.digests(nodes[3].round - 1))) == 1


async def test_nobody_begins_before_as_many_are_in_view_as_the_spec_awaits(
    autojump_clock: object, folder: Path
) -> None:
    nodes = make_nodes(folder, 3)
    async with simulated(nodes, make_spec(nodes, members_start=3)) as swarm:
        await swarm.start(0, 1, introducer=0)
        await trio.sleep(120.0)
        assert not [node.observed(RoundStarted) for node in nodes[:2] if node.observed(RoundStarted)]
        await swarm.start(2, introducer=1)
        await swarm.until_round(2)


async def test_a_record_that_nobody_knows_is_waited_for_and_no_other_log_is_followed(
    autojump_clock: object, folder: Path
) -> None:
    nodes = make_nodes(folder, 3)
    async with simulated(nodes, make_spec(nodes, members_start=2)) as swarm:
        await swarm.start(0, 1, introducer=0)
        await swarm.until_round(5)
        await swarm.start(2, introducer=1, trusted=b"?" * 32)
        await trio.sleep(60.0)
        assert nodes[2].round == 0
        assert any("the invite names" in waiting.reason for waiting in nodes[2].observed(Waiting))
        assert nodes[2].peer_id not in {member.peer for member in nodes[0].running.status().members if member.votes}


async def test_who_leaves_is_out_by_the_next_record_down_to_one(autojump_clock: object, folder: Path) -> None:
    nodes = make_nodes(folder, 4)
    for node in nodes:
        node.turn_s = 8.0
    async with simulated(nodes, make_spec(nodes, members_start=4)) as swarm:
        await swarm.start(0, 1, 2, 3, introducer=0)
        await swarm.until_round(2)
        for number in (0, 1, 2):  # the founder first
            await trio.sleep(1.0)
            at = trio.current_time()
            await nodes[number].running.leave()
            assert trio.current_time() - at < 4.0
        told = [change for told in nodes[3].observed(MembersChanged) for change in told.changes if "leaves" in change]
        assert told == [f"{node.peer_id} leaves" for node in nodes[:3]]
        round = nodes[3].round
        await swarm.until_round(round + 3, 3)  # alone, and a quorum


async def test_a_departure_costs_nobody_its_turn(autojump_clock: object, folder: Path) -> None:
    nodes = make_nodes(folder, 3)
    for node in nodes:
        node.turn_s = 8.0
    async with simulated(nodes, make_spec(nodes, members_start=3)) as swarm:
        await swarm.start(0, 1, 2, introducer=0)
        await swarm.until_round(2)
        await trio.sleep(4.0)
        await nodes[2].running.leave()
        await swarm.until_round(5, 0, 1)
        taken = [(share.member, share.round) for record in nodes[0].running.log() for share in record.taken]
        assert {(node.peer_id, 3) for node in nodes[:2]} <= set(taken)  # begun before it left, taken after


async def test_a_quorum_removes_a_member_for_good(autojump_clock: object, folder: Path) -> None:
    nodes = make_nodes(folder, 4)
    async with simulated(nodes, make_spec(nodes, members_start=4)) as swarm:
        await swarm.start(0, 1, 2, 3, introducer=0)
        await swarm.until_round(2)
        for number in (1, 2):
            assert await nodes[number].running.remove(nodes[3].peer_id) is None
        await swarm.until_round(nodes[0].round + 3, 0, 1, 2)
        assert takes_part(nodes[0], nodes[3])  # two of four are no quorum without it
        assert await nodes[0].running.remove(nodes[3].peer_id) is None
        await swarm.until_round(nodes[0].round + 3, 0, 1, 2)
        assert not takes_part(nodes[0], nodes[3])
        assert any("removed this node" in waiting.reason for waiting in nodes[3].observed(Waiting))
        swarm.kill(3)
        await swarm.start(3, introducer=0)
        await swarm.until_round(nodes[0].round + 3, 0, 1, 2)
        assert not takes_part(nodes[0], nodes[3])


async def test_a_restored_copy_abstains_and_the_swarm_goes_on(autojump_clock: object, folder: Path) -> None:
    nodes = make_nodes(folder, 4)
    async with simulated(nodes, make_spec(nodes, members_start=4)) as swarm:
        await swarm.start(0, 1, 2, 3, introducer=0)
        await swarm.until_round(3)
        swarm.kill(3)
        copy = folder / "copy"
        shutil.copytree(nodes[3].directory, copy)
        await swarm.start(3, introducer=0)
        await swarm.until_round(6)
        swarm.kill(0, 1)
        await trio.sleep(60.0)  # the two that are left vote, and are too few
        swarm.kill(3)
        shutil.rmtree(nodes[3].directory)
        shutil.copytree(copy, nodes[3].directory)
        await swarm.start(3, introducer=2)
        await swarm.until(lambda: any("It abstains until the round is over" in text for text in swarm.problems()))
        await swarm.start(0, 1, introducer=2)
        await swarm.until_round(12)
        assert len(set(swarm.digests(12))) == 1
        assert takes_part(nodes[0], nodes[3])
        assert not any("expelled" in change for told in nodes[0].observed(MembersChanged) for change in told.changes)


async def test_a_member_whose_log_is_damaged_takes_it_from_the_others(autojump_clock: object, folder: Path) -> None:
    nodes = make_nodes(folder, 4)
    async with simulated(nodes, make_spec(nodes, members_start=4, rounds_max=16)) as swarm:
        await swarm.start(0, 1, 2, 3, introducer=0)
        await swarm.until_round(4)
        swarm.kill(3)
        path = nodes[3].directory / LOG_NAME
        data = bytearray(path.read_bytes())
        data[4096 : 4096 + 4096] = bytes(4096)
        path.write_bytes(data)
        for side in ("-wal", "-shm"):
            path.with_name(LOG_NAME + side).unlink(missing_ok=True)
        await swarm.start(3, introducer=0)
        await swarm.until(lambda: all(node.observed(Finished) for node in nodes))
        assert any("the log was damaged" in problem.message for problem in nodes[3].observed(Problem))
        assert len(set(swarm.digests(16))) == 1
        assert takes_part(nodes[0], nodes[3])
        assert not path.with_name(LOG_NAME + ".damaged").exists()


async def test_members_whose_states_all_differ_stop_and_list_them(autojump_clock: object, folder: Path) -> None:
    nodes = make_nodes(folder, 2)
    faulty = nodes[1].method
    assert faulty is not None
    faulty.wrong_from = 3
    async with simulated(nodes, make_spec(nodes, members_start=2, quorum="two_thirds")) as swarm:
        await swarm.start(0, 1, introducer=0)
        await swarm.until(lambda: any("no quorum has computed one" in each.reason for each in said(swarm)))
        (text,) = {each.reason for each in nodes[0].observed(Waiting) if "no quorum" in each.reason}
        assert all(digest is not None and digest[:12] in text for digest in swarm.digests(3))
        assert nodes[1].peer_id in text
        assert "python" in text
        await trio.sleep(100.0)
        assert [node.round for node in nodes] == [3, 3]


def said(swarm: Swarm) -> list[Waiting]:
    return [waiting for node in swarm.nodes for waiting in node.observed(Waiting)]
