"""Members that make their work hard to get: they hold up a few rounds, and then nobody."""

from pathlib import Path

from shoal.training.events import RoundClosed
from shoal.transport.port import Code, PeerId, Refusal
from tests.sim.harness import BLOB, BlobAsk, BlobTell, Node, Swarm, make_nodes, make_spec, simulated

COUNT, LIAR, ROUNDS = 5, 2, 16
PAYLOAD_BYTES = 8192  # does not travel inside of its message


async def started(swarm: Swarm) -> None:
    await swarm.start(*range(COUNT), introducer=0)


def closed(node: Node) -> list[RoundClosed]:
    return node.observed(RoundClosed)


async def test_who_sends_slower_than_rounds_go_is_waited_for_in_few_of_them(
    autojump_clock: object, folder: Path
) -> None:
    nodes = make_nodes(folder, COUNT, PAYLOAD_BYTES)
    nodes[LIAR].bytes_per_s = 250.0
    honest = [node for number, node in enumerate(nodes) if number != LIAR]
    async with simulated(nodes, make_spec(nodes, members_start=COUNT - 1)) as swarm:
        await started(swarm)
        await swarm.until_round(ROUNDS, *(nodes.index(node) for node in honest), timeout_s=600.0)
        for node in honest:
            long = [each.round for each in closed(node) if each.seconds >= 20.0]
            assert len(long) <= 5
            assert long[-1:] <= [ROUNDS // 2]
        assert len({node.digest(ROUNDS) for node in honest}) == 1


async def test_who_serves_its_work_to_one_member_alone_has_it_passed_on(autojump_clock: object, folder: Path) -> None:
    nodes = make_nodes(folder, COUNT, PAYLOAD_BYTES)
    liar, friend = nodes[LIAR], nodes[0]
    async with simulated(nodes, make_spec(nodes, members_start=COUNT)) as swarm:
        await started(swarm)

        def selective(peer: PeerId, ask: BlobAsk) -> BlobTell | Refusal:
            data = liar.disk.blobs.get(ask.digest)
            return Refusal(Code.NOT_FOUND, "not here") if data is None or peer != friend.peer_id else BlobTell(data)

        assert liar.transport is not None
        liar.transport.serve(BLOB, selective)
        await swarm.until_round(ROUNDS, timeout_s=600.0)
        assert len(set(swarm.digests(ROUNDS))) == 1
        taken = [liar.peer_id in each.contributors for each in closed(nodes[1])]
        assert sum(taken) >= ROUNDS - 3
        assert max(each.seconds for each in closed(nodes[1])[3:]) < 10.0


async def test_who_serves_its_work_to_nobody_has_none_of_it_taken(autojump_clock: object, folder: Path) -> None:
    nodes = make_nodes(folder, COUNT, PAYLOAD_BYTES)
    liar = nodes[LIAR]
    honest = [node for number, node in enumerate(nodes) if number != LIAR]
    async with simulated(nodes, make_spec(nodes, members_start=COUNT - 1)) as swarm:
        await started(swarm)
        assert liar.transport is not None
        liar.transport.serve(BLOB, lambda peer, ask: Refusal(Code.NOT_FOUND, "not here"))
        await swarm.until_round(ROUNDS, *(nodes.index(node) for node in honest), timeout_s=600.0)
        for node in honest:
            assert sum(each.seconds >= 20.0 for each in closed(node)) <= 5
            assert not any(liar.peer_id in each.contributors for each in closed(node)[2:])
