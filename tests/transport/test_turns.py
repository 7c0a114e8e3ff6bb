"""Others get their turn while a peer floods this node with the smallest frames there are."""

import struct
from collections.abc import Awaitable, Callable

import trio

from shoal.transport.framing import PREAMBLE
from shoal.transport.limits import Limits
from shoal.transport.link import Link
from shoal.transport.rpc import Role, Session
from shoal.transport.token_bucket import TokenBucket
from shoal.transport.yamux_service import YamuxConnection

FRAMES_PER_TURN_MAX = 512  # of 8 us each: 4 ms


class Backlog:
    """What lies in a stream's buffer already: as YamuxStream, it gives it without a turn for others."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = list(pieces)

    async def receive_some(self) -> bytes:
        await trio.lowlevel.checkpoint_if_cancelled()
        return self._pieces.pop(0) if self._pieces else b""

    async def send_all(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class Flood:
    """The encrypted connection under a multiplexer."""

    def __init__(self, plaintexts: list[bytes]) -> None:
        self._reads = [plaintexts]

    async def read(self) -> list[bytes]:
        await trio.lowlevel.checkpoint()
        return self._reads.pop() if self._reads else []

    async def write(self, plaintexts: list[bytes]) -> bool:
        await trio.lowlevel.checkpoint()
        return True

    async def close(self) -> None:
        await trio.lowlevel.checkpoint()

    def bound_backlog(self) -> None: ...


async def turns_during(run: Callable[[], Awaitable[None]]) -> int:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        await trio.lowlevel.checkpoint()
        turns = 0
        await run()
        seen = turns
        nursery.cancel_scope.cancel()
    return seen


async def test_tiny_frames_leave_others_their_turn() -> None:
    count = 20_000
    opened = struct.pack(">IB", 1000, 1) + b"x"
    frames = b"".join(struct.pack(">BBHI", 1, 0, len(opened), call) + opened for call in range(1, count + 1))
    pieces = [frames[start : start + 262_144] for start in range(0, len(frames), 262_144)]
    session = Session(Role.SERVER, Limits(), {}, TokenBucket(1e9, count))
    link = Link(session, Backlog(PREAMBLE, *pieces))
    turns = await turns_during(lambda: link.run(lambda _: None))
    assert turns >= count / FRAMES_PER_TURN_MAX, f"{turns} turns for others during {count} frames"


async def test_tiny_yamux_frames_leave_others_their_turn() -> None:
    plaintext = struct.pack(">BBHII", 0, 1, 0, 2, 0) * 5_400
    connection = YamuxConnection(Flood([plaintext, plaintext]), True, 32, lambda stream: None)
    turns = await turns_during(connection.run)
    assert turns >= 10_800 / FRAMES_PER_TURN_MAX, f"{turns} turns for others during 10,800 frames"
