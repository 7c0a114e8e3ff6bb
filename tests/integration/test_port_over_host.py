"""The host keeps the promises of the Transport Protocol: over libp2p and real sockets."""

import pytest
import trio

from shoal.transport.host import open_host
from shoal.transport.identity import Identity
from tests.transport.port_cases import CASES, Case, what_happens_when_a_peer_ends

A, B = Identity.from_seed(bytes(31) + b"a"), Identity.from_seed(bytes(31) + b"b")
ANYWHERE = ["/ip4/127.0.0.1/tcp/0"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
async def test_over_the_host(case: Case) -> None:
    with trio.fail_after(60):
        async with open_host(A, ANYWHERE) as a, open_host(B, ANYWHERE) as b:
            assert await a.connect(b.addresses()[-1], timeout_s=10) == b.peer_id
            async with b.events() as events:
                await events.receive()
            await case(a, b)


async def test_a_peer_that_ends_over_the_host() -> None:
    with trio.fail_after(60):
        async with open_host(A, ANYWHERE) as a, trio.open_nursery() as nursery:
            ended = trio.Event()

            async def live(*, task_status: "trio.TaskStatus[object]" = trio.TASK_STATUS_IGNORED) -> None:
                async with open_host(B, ANYWHERE) as b:
                    task_status.started(b)
                    await ended.wait()

            b = await nursery.start(live)
            assert await a.connect(b.addresses()[-1], timeout_s=10) == b.peer_id

            async def end_b() -> None:
                ended.set()
                await trio.lowlevel.checkpoint()

            await what_happens_when_a_peer_ends(a, b, end_b)
