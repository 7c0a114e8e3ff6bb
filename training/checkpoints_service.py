"""Asks members for the checkpoint of a better head than one's own, and has it fetched. A shell."""

import math
from collections.abc import Callable, Iterable

import trio

from shoal.transport.blobs import BlobRef
from shoal.transport.port import Code, PeerId, Refusal

from .answers_service import Cores
from .calls import TellHead
from .checkpoints import Choice, choose, pace
from .exchange_service import Exchange
from .pins import Pins
from .ports import Blobs

ASKED_MAX = 16  # members, at once
OTHERS_S = 1.0  # that the rest may take after the first answer
CHECKPOINT_S = 3_600.0  # to fetch one, however steadily it comes


async def ask_heads(exchange: Exchange, cores: Cores, holders: Iterable[PeerId]) -> Choice | None:
    """A better head with its checkpoint, as most of the members tell it; `holders` are known to have one."""
    now, answers = trio.current_time(), dict[PeerId, TellHead]()
    others = (peer for peer in cores.roster.connected() if peer not in cores.roster.doubted(now))
    asked = list(dict.fromkeys((*holders, *others)))[:ASKED_MAX]
    waiting = trio.CancelScope(deadline=math.inf)

    async def ask(peer: PeerId) -> None:
        told = await exchange.ask_head(peer)
        if told is not None and cores.rounds.is_better(told.head) and (told.checkpoint or not told.head.digest):
            answers[peer] = told
            waiting.deadline = min(waiting.deadline, trio.current_time() + OTHERS_S)

    with waiting:
        async with trio.open_nursery() as nursery:
            for peer in asked:
                nursery.start_soon(ask, peer)
    return choose(answers, cores.rounds.electorate.count)


class Checkpoints:
    """Fetches them, each as fast as those before have shown to be possible."""

    def __init__(self, blobs: Blobs, pins: Pins) -> None:
        self._blobs = blobs
        self._pins = pins
        self._slow_count = 0

    async def fetch(
        self, round: int, ref: BlobRef, holders: Callable[[], Iterable[PeerId]], like: BlobRef | None = None
    ) -> Refusal | None:
        """Have the state after `round` here."""
        refusal = await self._blobs.fetch(
            ref,
            holders,
            pin=self._pins.label("state", round),
            timeout_s=CHECKPOINT_S,
            like=like,
            bytes_per_s_min=pace(self._slow_count),
        )
        if refusal is None:
            self._slow_count = 0
        elif refusal.code is Code.DEADLINE_EXCEEDED:
            self._slow_count += 1
        return refusal
