"""The simulated network keeps the promises of the Transport Protocol."""

import pytest
import trio
from trio.testing import MockClock

from shoal.transport.memory import Network
from shoal.transport.port import PeerId
from tests.transport.port_cases import CASES, Case, what_happens_when_a_peer_ends


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
async def test_over_memory(case: Case, autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        network = Network(1)
        await nursery.start(network.run)
        a, b = await network.open(PeerId("a")), await network.open(PeerId("b"))
        assert await a.connect(b.addresses()[0], timeout_s=5) == b.peer_id
        await case(a, b)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("silently", [False, True])
async def test_a_peer_that_ends_over_memory(silently: bool, autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        network = Network(1)
        await nursery.start(network.run)
        a, b = await network.open(PeerId("a")), await network.open(PeerId("b"))
        network.connect(a.peer_id, b.peer_id)

        async def end_b() -> None:
            network.close(b.peer_id, silently=silently)

        await what_happens_when_a_peer_ends(a, b, end_b)
        nursery.cancel_scope.cancel()
