"""Whose clock is wrong, on a simulated network."""

import pytest
import trio

from shoal.node.clock_service import CLOCK, OFF_S_MAX, Clocks, Time, ask, compare_clocks, serve_clock
from shoal.transport.identity import Identity
from shoal.transport.memory import Network
from shoal.transport.port import PeerId

HOUR_S = 3600.0


def peer(index: int) -> PeerId:
    return Identity.from_seed(index.to_bytes(32, "big")).peer_id


def clocks(*ahead_s: float) -> Clocks:
    return Clocks((), frozenset(), tuple(sorted(ahead_s)))


@pytest.mark.parametrize(
    ("ahead_s", "is_off"),
    [
        ((), False),
        ((OFF_S_MAX,), False),
        ((OFF_S_MAX + 1,), True),
        ((-HOUR_S,), True),
        ((HOUR_S, 0.0), False),  # one of two others is wrong: nobody can say which
        ((HOUR_S, HOUR_S, 0.0), True),
        ((HOUR_S, 0.0, 0.0), False),
        ((HOUR_S, -HOUR_S, 0.1), False),
    ],
)
def test_a_clock_is_off_if_more_than_half_of_the_others_say_so(ahead_s: tuple[float, ...], is_off: bool) -> None:
    assert clocks(*ahead_s).is_off == is_off


def test_it_says_by_how_much_and_in_which_direction() -> None:
    assert clocks(HOUR_S).words == "3600 s ahead of the only connected peer's, where 60 s are allowed"
    assert clocks(-HOUR_S, -HOUR_S).words.startswith("3600 s behind the clocks of 2 connected peers")
    assert clocks(0.2, 0.3, 0.1).words == "within 1 s of the clocks of 3 connected peers (median)"


async def test_peers_are_asked_and_a_liar_is_outvoted(autojump_clock: trio.testing.MockClock) -> None:
    network = Network(seed=1, is_full=True)
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        nodes = [await network.open(peer(index)) for index in range(5)]
        for node in nodes[1:4]:
            serve_clock(node)
        nodes[4].serve(CLOCK, lambda _, __: Time(0))
        found = await compare_clocks(nodes[0])
        assert len(found.ahead_s) == 4
        assert found.ahead_s[-1] > HOUR_S
        assert not found.is_off
        assert found.answered == {node.peer_id for node in nodes[1:]}
        nursery.cancel_scope.cancel()


async def test_who_is_gone_has_not_answered_and_who_knows_no_such_question_has(
    autojump_clock: trio.testing.MockClock,
) -> None:
    network = Network(seed=1, is_full=True)
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        one, old = [await network.open(peer(index)) for index in range(2)]
        found = await ask(one, [old.peer_id, peer(9)])
        assert found.ahead_s == ()
        assert found.answered == {old.peer_id}
        nursery.cancel_scope.cancel()
