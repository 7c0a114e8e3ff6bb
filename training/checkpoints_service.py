"""Asks members for the checkpoint of a better head than one's own. A shell."""

import math
from collections.abc import Iterable

import trio

from shoal.transport.port import PeerId

from .answers_service import Cores
from .calls import TellHead
from .checkpoints import Choice, choose
from .exchange_service import Exchange

ASKED_MAX = 16  # members, at once
OTHERS_S = 1.0  # that the rest may take after the first answer


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
