"""Compares this machine's clock with those of others. Nobody is refused for a wrong clock: its owner is told.

What a malicious peer may say is any time. What it achieves, if half of those who are asked say so: one wrong line.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import trio

from shoal.crdt.clock import AHEAD_MS_MAX
from shoal.transport.port import Code, PeerConnected, PeerId, Transport, Unary
from shoal.transport.wire import U64, Message

from .logs import Log

OFF_S_MAX: Final = AHEAD_MS_MAX / 1000  # beyond it others put off what this node writes
ASKED_MAX: Final = 8
ANSWER_S: Final = 3.0
FIRST_LOOK_S: Final = 5.0  # after the first connection: others come soon, and more know better
LOOK_S: Final = 600.0

log = Log("clock")


class AskTime(Message, frozen=True):
    pass


class Time(Message, frozen=True):
    unix_ms: U64


CLOCK: Final = Unary("/shoal/reach/1/clock", AskTime, Time, 16, 32)


@dataclass(frozen=True, slots=True)
class Clocks:
    """What came of asking."""

    asked: tuple[PeerId, ...]
    answered: frozenset[PeerId]  # who is there, whatever it said
    ahead_s: tuple[float, ...]  # of each that said its time: by how much this machine's clock is ahead of it

    @property
    def median_s(self) -> float:
        """Of an even number the better of the two: where half of the others are wrong, nobody can say which half."""
        if not self.ahead_s:
            return 0.0
        return min(statistics.median_low(self.ahead_s), statistics.median_high(self.ahead_s), key=abs)

    @property
    def is_off(self) -> bool:
        return abs(self.median_s) > OFF_S_MAX

    @property
    def words(self) -> str:
        """For people."""
        count = len(self.ahead_s)
        whose = "the only connected peer's" if count == 1 else f"the clocks of {count} connected peers (median)"
        if not self.is_off:
            return f"within {max(1, round(abs(self.median_s)))} s of {whose}"
        where = "ahead of" if self.median_s > 0 else "behind"
        return f"{abs(self.median_s):.0f} s {where} {whose}, where {OFF_S_MAX:.0f} s are allowed"


def serve_clock(transport: Transport) -> None:
    """Answer those who ask for the time."""
    transport.serve(CLOCK, lambda _, __: Time(time.time_ns() // 1_000_000))


async def compare_clocks(transport: Transport) -> Clocks:
    """Ask connected peers; first those whom this node chose to dial."""
    connections = sorted(transport.connections(), key=lambda each: not each.is_outbound)
    return await ask(transport, [each.peer for each in connections[:ASKED_MAX]])


async def ask(transport: Transport, peers: Sequence[PeerId]) -> Clocks:
    answered: set[PeerId] = set()
    ahead_s: list[float] = []

    async def ask_one(peer: PeerId) -> None:
        began = time.monotonic()
        answer = await transport.request(peer, CLOCK, AskTime(), timeout_s=ANSWER_S)
        took_s = time.monotonic() - began
        if isinstance(answer, Time):
            ahead_s.append(time.time() - took_s / 2 - answer.unix_ms / 1000)
        if isinstance(answer, Time) or answer.code not in (Code.UNREACHABLE, Code.DEADLINE_EXCEEDED):
            answered.add(peer)

    async with trio.open_nursery() as nursery:
        for peer in peers:
            nursery.start_soon(ask_one, peer)
    return Clocks(tuple(peers), frozenset(answered), tuple(sorted(ahead_s)))


async def watch_clock(transport: Transport) -> None:
    """Log once when this machine's clock is found to be off, and once when it is right again; until cancelled."""
    async with transport.events() as events:
        async for event in events:
            if isinstance(event, PeerConnected):
                break
    await trio.sleep(FIRST_LOOK_S)
    was_off = False
    while True:
        clocks = await compare_clocks(transport)
        if clocks.ahead_s and clocks.is_off != was_off:
            was_off = clocks.is_off
            log.warning("clock is wrong" if was_off else "clock is right again", found=clocks.words)
        await trio.sleep(LOOK_S)
