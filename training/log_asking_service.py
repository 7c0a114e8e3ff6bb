"""Asks others for the log, and has what they tell verified in threads: a record may have a thousand signatures, an
answer 64 records, and no node's loop stands still for that. A shell.

A peer may tell anything, of any size that a message has. It takes a thread's time, up to the first signature that is
not a voter's of that round; what follows in its answer is not looked at.
"""

from collections.abc import Callable, Iterable
from functools import partial

import trio

from shoal.transport.port import PeerId
from shoal.transport.wire import Malformed

from .agreed import Position
from .answers_service import Cores
from .effects import AskLog, AskProof, Effect, Observe
from .events import Problem
from .exchange_service import Exchange
from .skipping import Proof, verify_proof
from .votes import Decided, fault
from .workers_service import Workers

ROOM_PAUSE_S = 1.0  # until it is looked again whether there is room for more
PROOFS_MAX = 4  # members asked for the way to the newest record


class LogAsking:
    """One member's. `do` carries out what follows."""

    def __init__(self, swarm: bytes, cores: Cores, workers: Workers, do: Callable[[list[Effect]], None]) -> None:
        self._swarm = swarm
        self._rounds = cores.rounds
        self._verified = cores.verified
        self._unwritten = cores.unwritten
        self._workers = workers
        self._do = do

    async def ask_log(self, exchange: Exchange, effect: AskLog) -> None:
        """From whoever has it, in turn, until one tells something new."""
        since = self._rounds.ledger.newest
        for peer in effect.holders:
            if await self.hear(peer, await exchange.ask_log(peer, effect.round)):
                break
        self._do(self._rounds.log_asked(trio.current_time(), since))

    async def hear(self, peer: PeerId, log: Iterable[Decided]) -> bool:
        """What one has told. Whether there was anything new."""
        since = self._rounds.ledger.newest
        for decided in log:
            while self._unwritten.is_full:  # noqa: ASYNC110  # what says so is a core, which has no events
                await trio.sleep(ROOM_PAUSE_S)
            voters = self._rounds.voters(decided.round).by_member
            if await self._workers.run(partial(fault, decided, self._swarm, voters)) is not None:
                break
            self._verified.learn(decided, self._swarm)
            self._do(self._rounds.record_told(trio.current_time(), peer, decided))
        is_news = self._rounds.ledger.newest > since
        self._do(self._rounds.log_told(trio.current_time(), peer, since))
        return is_news

    async def ask_proof(self, exchange: Exchange, effect: AskProof) -> None:
        """From all who have it, for one may have less, or none that holds."""
        best: tuple[Position, Proof] | None = None
        asked = effect.holders[:PROOFS_MAX]
        for peer in asked:
            proof = await exchange.ask_proof(peer, effect.trusted)
            if proof is None:
                continue
            verify = partial(verify_proof, self._swarm, effect.start, effect.trusted, proof)
            position = await self._workers.run(verify)
            if isinstance(position, Malformed):
                self._do([Observe(Problem(f"{peer} tells a log that does not hold: {position.reason}"))])
            elif best is None or position.round > best[0].round:
                best = position, proof
        now = trio.current_time()
        self._do(self._rounds.not_proved(now, asked) if best is None else self._rounds.leapt(now, *best, asked))
