"""Gossip with neighbours that do not play their part, on a virtual clock."""

import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import pairwise

import trio
from trio.testing import MockClock

from shoal.transport.gossip_service import RETRY_S, RETRY_S_MAX, GossipService
from shoal.transport.identity import Identity
from shoal.transport.limits import Limits
from shoal.transport.port import ByteStream, Code, PeerConnected, PeerEvent, PeerId, Refusal
from shoal.transport.service import CallService

SELF, FOREIGN = Identity.from_seed(b"1" * 32), Identity.from_seed(b"2" * 32)


async def test_a_peer_that_speaks_no_gossip_is_asked_ever_more_rarely(autojump_clock: MockClock) -> None:
    asked_at: list[float] = []

    async def open_stream(_: PeerId) -> ByteStream | Refusal:
        asked_at.append(trio.current_time())
        return Refusal(Code.UNREACHABLE, "it opens no stream for that")

    @asynccontextmanager
    async def events() -> AsyncGenerator[trio.MemoryReceiveChannel[PeerEvent]]:
        send, receive = trio.open_memory_channel[PeerEvent](math.inf)
        with send, receive:
            send.send_nowait(PeerConnected(FOREIGN.peer_id))
            yield receive

    calls = CallService(SELF.peer_id, Limits(), open_stream)
    async with trio.open_nursery() as nursery:
        await nursery.start(calls.run)
        await nursery.start(GossipService(calls, events).run)
        await trio.sleep(24 * 3600)
        nursery.cancel_scope.cancel()
    pauses = [round(later - earlier, 3) for earlier, later in pairwise(asked_at)]
    assert pauses[:4] == [RETRY_S, 2 * RETRY_S, 4 * RETRY_S, 8 * RETRY_S]
    assert set(pauses[7:]) == {RETRY_S_MAX}
