"""Whole swarms, simulated: what a round promises when all goes well, and when members die, freeze, part or lag."""

from pathlib import Path

import trio

from shoal.training.events import Finished, Resynced, RoundClosed
from shoal.training.records import Standing
from shoal.training.rounds import Phase
from shoal.transport.conditions import Conditions
from tests.sim.harness import make_nodes, make_spec, simulated


async def test_four_members_close_twenty_rounds_with_equal_digests(autojump_clock: object, folder: Path) -> None:
    nodes = make_nodes(folder, 4)
    async with simulated(nodes, make_spec(nodes, members_start=4, rounds_max=20)) as swarm:
        await swarm.start(0, 1, 2, 3, introducer=0)
        await swarm.until(lambda: all(node.observed(Finished) for node in nodes))
        for round in range(1, 21):
            assert len(set(swarm.digests(round))) == 1
            assert all(len(node.observed(RoundClosed)[round - 1].contributors) == 4 for node in nodes)
        assert swarm.problems() == []


async def test_who_hears_the_others_votes_first_keeps_nobody_waiting_for_its_own(
    autojump_clock: object, folder: Path
) -> None:
    nodes = make_nodes(folder, 4)
    spec = make_spec(nodes, members_start=4, members_min=4, rounds_max=20, silence_s=10.0)
    async with simulated(nodes, spec, conditions=Conditions(latency_s=0.01, jitter_s=0.1)) as swarm:
        await swarm.start(0, 1, 2, 3, introducer=0)
        await swarm.until(lambda: all(node.observed(Finished) for node in nodes))
        for round in range(1, 21):
            times = [
                time
                for node in nodes
                for time, event in node.events
                if isinstance(event, RoundClosed) and event.round == round
            ]
            assert max(times) - min(times) < 1.0  # votes are said again after 5


async def test_members_at_speeds_1_1_2_4_all_contribute_in_every_round(autojump_clock: object, folder: Path) -> None:
    nodes = make_nodes(folder, 4)
    for node, turn_s in zip(nodes, (4.0, 1.0, 2.0, 1.0), strict=True):
        node.turn_s = turn_s
    async with simulated(nodes, make_spec(nodes, members_start=4)) as swarm:
        await swarm.start(0, 1, 2, 3, introducer=0)
        await swarm.until_round(6)
        for node in nodes:
            assert all(len(closed.contributors) == 4 for closed in node.observed(RoundClosed)[:6])
            assert all(closed.own_taken for closed in node.observed(RoundClosed)[:6])


async def test_payloads_too_large_for_a_message_travel_as_blobs_and_are_let_go_of(
    autojump_clock: object, folder: Path
) -> None:
    nodes = make_nodes(folder, 4, payload_bytes=100_000)
    async with simulated(nodes, make_spec(nodes, members_start=4, rounds_max=9)) as swarm:
        await swarm.start(0, 1, 2, 3, introducer=0)
        await swarm.until(lambda: all(node.observed(Finished) for node in nodes))
        assert all(len(set(swarm.digests(round))) == 1 for round in range(1, 10))
        for node in nodes:
            kept = [label for label in node.disk.pins if "/round/" in label]
            assert len(kept) == 8  # four rounds for who fell behind, four for what is stale
            assert 28 <= sum(len(data) == 100_000 for data in node.disk.blobs.values()) <= 32


async def test_a_late_joiner_takes_part_in_the_next_round(autojump_clock: object, folder: Path) -> None:
    nodes = make_nodes(folder, 5)
    async with simulated(nodes, make_spec(nodes, members_start=4)) as swarm:
        await swarm.start(0, 1, 2, 3, introducer=0)
        await swarm.until_round(10)
        await swarm.start(4, introducer=2)
        await swarm.until_round(13)
        joined = nodes[4].observed(Resynced)
        assert len(joined) == 1
        assert joined[0].from_round == 0
        first = nodes[4].observed(RoundClosed)[0].round
        assert first <= joined[0].to_round + 2
        for round in range(first, 14):
            assert len(set(swarm.digests(round))) == 1
        assert any(nodes[4].peer_id in closed.contributors for closed in nodes[0].observed(RoundClosed)[-3:])


async def test_who_joins_after_the_last_round_gets_the_final_state_and_has_finished(
    autojump_clock: object, folder: Path
) -> None:
    nodes = make_nodes(folder, 3)
    async with simulated(nodes, make_spec(nodes, members_start=2, rounds_max=3)) as swarm:
        await swarm.start(0, 1, introducer=0)
        await swarm.until(lambda: all(node.observed(Finished) for node in nodes[:2]))
        await trio.sleep(100.0)
        swarm.kill(1)
        await swarm.start(1, introducer=0)  # what a restart finds is finished, too
        await swarm.start(2, introducer=1)
        await swarm.until(lambda: all(node.running.status().phase is Phase.FINISHED for node in nodes))
        assert [node.round for node in nodes] == [3, 3, 3]
        assert nodes[2].running.state() == nodes[0].running.state()
        assert nodes[2].observed(Finished) == [Finished(3)]
        assert max(closed.round for node in nodes for closed in node.observed(RoundClosed)) == 3


async def test_a_paused_member_follows_without_contributing_and_nobody_waits_for_it(
    autojump_clock: object, folder: Path
) -> None:
    nodes = make_nodes(folder, 3)
    async with simulated(nodes, make_spec(nodes, members_start=3)) as swarm:
        await swarm.start(0, 1, 2, introducer=0)
        await swarm.until_round(2)
        nodes[0].running.pause()
        await trio.sleep(0.2)
        start = nodes[1].round
        await swarm.until_round(start + 3)
        closed = [closed for closed in nodes[1].observed(RoundClosed) if closed.round in (start + 2, start + 3)]
        assert all(nodes[0].peer_id not in each.contributors and each.seconds < 5.0 for each in closed)
        assert len(set(swarm.digests(start + 3))) == 1
        nodes[0].running.resume()
        await swarm.until_round(start + 6)
        assert nodes[0].peer_id in nodes[1].observed(RoundClosed)[-1].contributors


async def test_a_member_that_leaves_says_so_and_is_not_waited_for(autojump_clock: object, folder: Path) -> None:
    nodes = make_nodes(folder, 3)
    async with simulated(nodes, make_spec(nodes, members_start=3), break_after_s=1e6) as swarm:
        await swarm.start(0, 1, 2, introducer=0)
        await swarm.until_round(2)
        await trio.sleep(0.5)
        await nodes[0].running.leave()
        start = trio.current_time()
        await swarm.until_round(5, 1, 2)
        assert trio.current_time() - start < 10.0
        standings = {member.peer: member.standing for member in nodes[1].running.status().members}
        assert standings == {nodes[0].peer_id: Standing.LEFT, nodes[2].peer_id: Standing.TRAINER}


async def test_a_storage_member_keeps_and_serves_the_state_after_all_trainers_are_gone(
    autojump_clock: object, folder: Path
) -> None:
    nodes = make_nodes(folder, 4, payload_bytes=10_000)
    nodes[3].method = None
    async with simulated(nodes, make_spec(nodes, members_start=2)) as swarm:
        await swarm.start(0, 1, 3, introducer=0)
        await swarm.until(lambda: nodes[3].round >= 4)
        assert nodes[3].peer_id not in nodes[1].observed(RoundClosed)[-1].contributors
        swarm.kill(0, 1)
        await trio.sleep(5.0)
        kept = nodes[3].round
        await swarm.start(2, introducer=3)
        await swarm.until_round(kept, 2)
        assert nodes[2].observed(Resynced)[0].to_round == kept
        assert nodes[2].observed(Resynced)[0].source == nodes[3].peer_id


async def test_a_method_without_a_common_state_is_never_resynchronized(autojump_clock: object, folder: Path) -> None:
    nodes = make_nodes(folder, 4)
    for node in nodes:
        assert node.method is not None
        node.method.has_state = False
    async with simulated(nodes, make_spec(nodes, members_start=3)) as swarm:
        await swarm.start(0, 1, 2, introducer=0)
        await swarm.until_round(8)
        await swarm.start(3, introducer=0)
        await swarm.until_round(11)
        assert nodes[3].peer_id in nodes[0].observed(RoundClosed)[-1].contributors
        state = nodes[3].running.state()
        assert state.round < nodes[3].round  # it took over the place, not the state
        assert swarm.digests(11) == [""] * 4
        assert swarm.problems() == []


async def test_members_without_samples_are_not_waited_for(autojump_clock: object, folder: Path) -> None:
    nodes = make_nodes(folder, 3)
    assert nodes[1].method is not None

    def none(value: int) -> int:
        return 0

    nodes[1].method.samples_from = none
    async with simulated(nodes, make_spec(nodes, members_start=2)) as swarm:
        await swarm.start(0, 1, 2, introducer=0)
        await swarm.until_round(4)
        assert all(closed.seconds < 5.0 for closed in nodes[0].observed(RoundClosed)[1:4])
        assert len(set(swarm.digests(4))) == 1


async def test_what_was_not_taken_is_rolled_back(autojump_clock: object, folder: Path) -> None:
    nodes = make_nodes(folder, 3)
    nodes[2].turn_s = 60.0  # too slow for any round
    async with simulated(nodes, make_spec(nodes, members_start=2, members_min=2, round_s=3.0)) as swarm:
        await swarm.start(0, 1, 2, introducer=0)
        await swarm.until_round(4)
        for node, expected in ((nodes[0], True), (nodes[2], False)):
            assert node.method is not None
            assert [taken for _, taken in node.method.settled[:3]] == [expected] * 3
            assert node.method.settled[2][0] == (3 if expected else 0)
