"""Whole swarms in mid-trouble: members are killed, frozen, cut off, damaged, and rounds go on."""

from pathlib import Path

import trio

from shoal.training.events import LocalDone, Problem, Resynced, RoundClosed, RoundStarted, Waiting
from shoal.transport.conditions import Conditions
from tests.sim.harness import make_nodes, make_spec, simulated


async def test_a_member_killed_in_mid_round_is_left_out_and_back_within_two_rounds(
    autojump_clock: object, folder: Path
) -> None:
    nodes = make_nodes(folder, 4, payload_bytes=10_000)
    async with simulated(nodes, make_spec(nodes, members_start=4)) as swarm:
        await swarm.start(0, 1, 2, 3, introducer=0)
        await swarm.until_round(2)
        await trio.sleep(0.5)
        swarm.kill(3)
        await swarm.until_round(3, 0, 1, 2)
        assert len(set(swarm.digests(3)[:3])) == 1
        round = max(node.round for node in nodes)
        await swarm.start(3, introducer=0)
        await swarm.until_round(round + 3)
        taken = {closed.round for closed in nodes[0].observed(RoundClosed) if nodes[3].peer_id in closed.contributors}
        assert taken & {round + 1, round + 2, round + 3}
        for later in range(round + 2, min(node.round for node in nodes) + 1):
            assert len(set(swarm.digests(later))) == 1


async def test_it_makes_no_difference_whether_who_is_killed_was_to_propose(
    autojump_clock: object, folder: Path
) -> None:
    nodes = make_nodes(folder, 4)
    async with simulated(nodes, make_spec(nodes, members_start=4, silence_s=20.0)) as swarm:
        await swarm.start(0, 1, 2, 3, introducer=0)
        await swarm.until_round(3)
        for number in range(1, 4):
            round = max(node.round for node in nodes)
            await swarm.until_round(round + 1)
            await trio.sleep(0.3)
            swarm.kill(number)
            killed_at, others = trio.current_time(), [each for each in range(4) if each != number]
            round = max(node.round for node in nodes)
            await swarm.until_round(round + 2, *others)
            assert trio.current_time() < killed_at + 4.0  # each round's work takes 1
            await swarm.start(number, introducer=0)
            await swarm.until_round(round + 5)


async def test_a_restarted_member_hears_the_others_before_it_trains(autojump_clock: object, folder: Path) -> None:
    nodes = make_nodes(folder, 3)
    async with simulated(nodes, make_spec(nodes, members_start=3)) as swarm:
        await swarm.start(0, 1, 2, introducer=0)
        await swarm.until_round(2)
        await trio.sleep(0.5)
        swarm.kill(2)
        await trio.sleep(10.0)
        before = len(nodes[2].observed(RoundStarted))
        await swarm.start(2)
        await swarm.until(lambda: len(nodes[2].observed(RoundStarted)) > before)
        assert nodes[2].observed(RoundStarted)[before].round >= 3
        swarm.kill(0, 1, 2)
        at, before = trio.current_time(), len(nodes[2].observed(RoundStarted))
        await swarm.start(2)  # nobody is there to be heard: no reason to wait for long
        await swarm.until(lambda: len(nodes[2].observed(RoundStarted)) > before)
        assert 2.0 <= trio.current_time() - at < 2.5
        assert Waiting("hearing where the other members stand") in nodes[2].observed(Waiting)


async def test_the_proposer_killed_in_mid_round_is_replaced(autojump_clock: object, folder: Path) -> None:
    nodes = make_nodes(folder, 4)
    async with simulated(nodes, make_spec(nodes, members_start=4)) as swarm:
        await swarm.start(0, 1, 2, 3, introducer=3)
        await swarm.until_round(2)
        await trio.sleep(0.9)
        swarm.kill(0, silently=True)
        await swarm.until_round(9, 1, 2, 3)
        for round in range(3, 10):
            assert len(set(swarm.digests(round)[1:])) == 1
        later = nodes[1].observed(RoundClosed)[5:]
        assert {closed.proposer for closed in later} <= {node.peer_id for node in nodes[1:]}
        assert all(closed.attempt == 0 for closed in later)  # it has no turn any more


async def test_a_frozen_proposer_costs_one_slow_round_and_catches_up_when_it_wakes(
    autojump_clock: object, folder: Path
) -> None:
    nodes = make_nodes(folder, 4)
    async with simulated(nodes, make_spec(nodes, members_start=4, members_min=2)) as swarm:
        await swarm.start(0, 1, 2, 3, introducer=3)
        await swarm.until_round(2)
        await trio.sleep(0.5)
        swarm.cut(0)
        await swarm.until_round(8, 1, 2, 3)
        closed = [closed for closed in nodes[1].observed(RoundClosed) if closed.round in range(3, 9)]
        assert closed[0].seconds < 20.0 + 5.0 + 3.0  # round, grace, and little else
        assert sum(later.seconds >= 3.0 for later in closed[1:]) <= 1  # its turn, before it was suspended
        swarm.network.heal()
        last = max(node.round for node in nodes) + 9  # others try it again every 8 s at most
        await swarm.until_round(last)
        assert len(set(swarm.digests(last))) == 1
        assert nodes[0].peer_id in nodes[1].observed(RoundClosed)[-1].contributors


async def test_all_members_killed_at_once_go_on_where_they_were(autojump_clock: object, folder: Path) -> None:
    nodes = make_nodes(folder, 3)
    async with simulated(nodes, make_spec(nodes, members_start=3)) as swarm:
        await swarm.start(0, 1, 2, introducer=0)
        await swarm.until_round(4)
        swarm.kill(0, 1, 2)
        before = [node.observed(RoundClosed)[-1].round for node in nodes]
        await swarm.start(0, 1, 2)  # nobody tells them addresses: they remember one another
        await swarm.until_round(max(before) + 3)
        assert len(set(swarm.digests(max(before) + 3))) == 1
        assert all(node.observed(RoundClosed)[-1].contributors == tuple(n.peer_id for n in nodes) for node in nodes)
        assert not any("starting" in problem for problem in swarm.problems())


async def test_a_member_whose_optimizer_state_is_damaged_says_so_and_goes_on(
    autojump_clock: object, folder: Path
) -> None:
    nodes = make_nodes(folder, 2)
    async with simulated(nodes, make_spec(nodes, members_start=2)) as swarm:
        await swarm.start(0, 1, introducer=0)
        await swarm.until_round(3)
        swarm.kill(1)
        for label, digests in nodes[1].disk.pins.items():
            if "/local/" in label:
                for digest in digests:
                    nodes[1].disk.blobs[digest] = b"damaged"
        await swarm.start(1, introducer=0)
        await swarm.until_round(6)
        assert any("optimizer state" in problem.message for problem in nodes[1].observed(Problem))
        assert len(set(swarm.digests(6))) == 1


async def test_a_minority_that_is_cut_off_trains_on_and_its_work_enters_when_it_is_back(
    autojump_clock: object, folder: Path
) -> None:
    nodes = make_nodes(folder, 5)
    for node in nodes:
        node.turn_s = 4.0
    spec = make_spec(nodes, members_start=5, round_s=4.0, grace_s=1.0, silence_s=0.5)
    async with simulated(nodes, spec, break_after_s=1.0) as swarm:
        await swarm.start(0, 1, 2, 3, 4, introducer=0)
        await swarm.until_round(2)
        cut_off = {nodes[0].peer_id, nodes[1].peer_id}
        swarm.cut(0, 1)
        await swarm.until_round(5, 2, 3, 4)
        assert nodes[0].round == nodes[1].round == 2
        assert any("is paused: 2 of 5 votes" in waiting.reason for waiting in nodes[0].observed(Waiting))
        alone = [done.round for done in nodes[0].observed(LocalDone) if done.round > 3]
        assert len(alone) >= 2
        swarm.network.heal()
        last = max(node.round for node in nodes) + 5
        await swarm.until_round(last)
        assert len(set(swarm.digests(last))) == 1
        log = nodes[2].running.log()
        late = [share for record in log for share in record.taken if share.base_round < record.round - 1]
        assert {share.member for share in late} == cut_off
        assert {share.round for share in late if share.member == nodes[0].peer_id} >= set(alone)


async def test_the_majoritys_rounds_outlive_a_partition(autojump_clock: object, folder: Path) -> None:
    nodes = make_nodes(folder, 4)
    nodes[0].turn_s = 0.5  # alone it would close twice as many rounds as the others, and theirs would be given up
    async with simulated(nodes, make_spec(nodes, members_start=4), break_after_s=4.0) as swarm:
        await swarm.start(0, 1, 2, 3, introducer=0)
        await swarm.until_round(2)
        swarm.cut(0)
        await trio.sleep(60.0)
        round = min(node.round for node in nodes[1:])
        assert nodes[0].round < 5 < 30 < round
        swarm.network.heal()
        await swarm.until_round(round + 60)
        assert not any(resynced.source == nodes[0].peer_id for node in nodes for resynced in node.observed(Resynced))
        assert len(set(swarm.digests(round + 60))) == 1


async def test_of_two_the_more_senior_goes_on_alone_and_the_other_does_not(
    autojump_clock: object, folder: Path
) -> None:
    nodes = make_nodes(folder, 2)
    async with simulated(nodes, make_spec(nodes, members_start=2)) as swarm:
        await swarm.start(0, 1, introducer=0)
        await swarm.until_round(2)
        swarm.kill(1)
        await swarm.until_round(6, 0)
        await swarm.start(1, introducer=0)
        await swarm.until_round(nodes[0].round + 2)
        swarm.kill(0)
        await trio.sleep(1.0)
        round = nodes[1].round
        await trio.sleep(60.0)
        assert nodes[1].round == round
        assert any("is paused: 1 of 2 votes" in waiting.reason for waiting in nodes[1].observed(Waiting))


async def test_rounds_close_under_5_percent_loss(autojump_clock: object, folder: Path) -> None:
    nodes = make_nodes(folder, 6, payload_bytes=20_000)
    conditions = Conditions(latency_s=0.05, jitter_s=0.05, loss=0.05)
    async with simulated(nodes, make_spec(nodes, members_start=6), conditions=conditions) as swarm:
        await swarm.start(*range(6), introducer=0)
        await swarm.until_round(6)
        for round in range(1, 7):
            assert len(set(swarm.digests(round))) == 1
        assert sum(len(closed.contributors) for closed in nodes[0].observed(RoundClosed)[:6]) >= 34


async def test_a_member_whose_machine_computes_wrongly_takes_over_the_others_state(
    autojump_clock: object, folder: Path
) -> None:
    nodes = make_nodes(folder, 4)
    faulty = nodes[3].method
    assert faulty is not None
    faulty.wrong_from = 3
    async with simulated(nodes, make_spec(nodes, members_start=4)) as swarm:
        await swarm.start(0, 1, 2, 3, introducer=0)
        await swarm.until_round(6)
        assert len(set(swarm.digests(3))) == 2
        assert len(set(swarm.digests(6))) == 1
        assert any("differs from the others" in problem.message for problem in nodes[3].observed(Problem))
        assert not any(node.observed(Resynced) for node in nodes[:3])


async def test_training_that_raises_is_said_once_and_tried_again(autojump_clock: object, folder: Path) -> None:
    nodes = make_nodes(folder, 1)  # alone: nobody else would close the round
    calls = 0

    def out_of_memory(value: int) -> int:
        nonlocal calls
        calls += 1
        if calls in (1, 2, 5):
            raise MemoryError("no room for activations")
        return 1

    assert nodes[0].method is not None
    nodes[0].method.samples_from = out_of_memory
    async with simulated(nodes, make_spec(nodes, members_start=1, members_min=1)) as swarm:
        await swarm.start(0)
        await swarm.until_round(5)
        problems = [problem.message for problem in nodes[0].observed(Problem)]
        assert [message[:40] for message in problems] == [
            "nothing is contributed to round 1 for no",
            "nothing is contributed to round 3 for no",
        ]
        assert all("MemoryError: no room for activations" in message for message in problems)
