"""The round engine's ears: answers peers' calls and hears gossip. A shell: what arrives is verified here and handed
to the cores.
"""

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import trio

from shoal.crdt.file_service import StoreError
from shoal.transport.port import GOSSIP_BYTES_MAX, Code, PeerId, Refusal, Transport
from shoal.transport.wire import Malformed, decode

from .agreed import proof_count
from .archive_service import Archive
from .calls import (
    LOG_TOLD_MAX,
    PROTOCOL_VERSION,
    TOLD_BYTES_MAX,
    Ack,
    AskContributions,
    AskHead,
    AskHistory,
    AskLog,
    AskProof,
    AskSpec,
    AskStore,
    Ballots,
    Calls,
    Have,
    Hello,
    Offer,
    TellContributions,
    TellHead,
    TellHistory,
    TellLog,
    TellProof,
    TellStore,
    Words,
)
from .effects import Effect
from .history_service import History
from .log import Log
from .opening import Opener
from .records import Offered, Present, Standing, open_contribution
from .roster import Roster
from .rounds import Rounds
from .spec import SignedSpec, swarm_id_of
from .unwritten import Unwritten
from .verified import Verified
from .votes import signature_count
from .workers_service import Workers

LOG_COST = 20  # in signatures: five answers a second, of up to 4 MiB each, which threads read that others wait for

_STRANGER = Refusal(Code.REFUSED, "say hello first")


class Gossiped(enum.IntEnum):
    """The first byte of a gossiped message; the envelope follows."""

    CONTRIBUTION = 1
    BALLOT = 2
    WORDS = 3


class Voice(Protocol):
    """The other direction: what answers need of it."""

    def hello(self, peer: PeerId) -> Hello | Refusal: ...

    def welcome(self, peer: PeerId) -> None: ...

    def keep_members(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Cores:
    """What one swarm's member knows."""

    rounds: Rounds
    roster: Roster
    log: Log
    archive: Archive
    verified: Verified
    unwritten: Unwritten = field(default_factory=Unwritten)
    history: History | None = None  # where the method replays (`history.Replays`)


class Answers:
    """One swarm's."""

    def __init__(
        self,
        signed_spec: SignedSpec,
        cores: Cores,
        voice: Voice,
        do: Callable[[list[Effect]], None],
        workers: Workers,
    ) -> None:
        swarm = swarm_id_of(signed_spec.spec)
        spec = cores.rounds.spec
        self._signed_spec = signed_spec
        self._calls = Calls(swarm)
        self._opener = Opener(swarm)
        self._rounds = cores.rounds
        self._roster = cores.roster
        self._log = cores.log
        self._unwritten = cores.unwritten
        self._voice = voice
        self._do = do
        self._reader = cores.archive.reader
        self._history = cores.history
        self._workers = workers
        # What is newer is told record by record: who comes new has to know what these took.
        self._short_of = spec.stale_rounds_max + 2

    def serve(self, transport: Transport) -> None:
        calls = self._calls
        transport.serve(calls.hello, self._on_hello)
        transport.serve(calls.offer, self._on_offer)
        transport.serve(calls.have, self._on_have)
        transport.serve(calls.ballots, self._on_ballots)
        transport.serve(calls.words, self._on_words)
        transport.serve(calls.head, self._on_head)
        transport.serve(calls.log, self._on_log)
        transport.serve(calls.proof, self._on_proof)
        transport.serve(calls.history, self._on_history)
        transport.serve(calls.store, self._on_store)
        transport.serve(calls.contributions, self._on_contributions)
        transport.serve(calls.spec, self._on_spec)

    def stop_serving(self, transport: Transport) -> None:
        for name in self._calls.names():
            transport.stop_serving(name)

    def greeted(self, peer: PeerId, hello: Hello) -> Refusal | None:
        """A hello, or the answer to this member's. The refusal is what `peer` is to be told."""
        now = trio.current_time()
        if hello.version > PROTOCOL_VERSION:
            return Refusal(Code.NEEDS_NEWER, f"version {hello.version} needs a newer Shoal")
        is_new = not self._roster.is_connected(peer)
        is_welcome = self._roster.greet(Present(peer, hello.presence), hello.head)
        self._voice.keep_members()
        if is_welcome and is_new:
            self._voice.welcome(peer)
        if is_welcome:
            self._roster.tell_platform(peer, hello.platform)
            if self._opener.allows(now, peer, len(hello.yours)):
                self._do(self._rounds.heard_own_votes(hello.yours))
        self._do(self._rounds.look(now))
        if is_welcome and is_new:
            self._do(self._rounds.met(now, peer))
        has_left = hello.presence.standing is Standing.LEFT
        return None if is_welcome or has_left else Refusal(Code.BUSY, "no room, or you left with a later word")

    def on_gossip(self, peer: PeerId, data: bytes) -> bool:
        """Hear a gossiped message that `peer` handed over. Whether it is worth passing on: a member's, truly signed."""
        now = trio.current_time()
        match next(iter(data), None):
            case Gossiped.CONTRIBUTION:
                opened = self._opener.open(now, peer, data[1:], open_contribution)
                if isinstance(opened, Malformed) or not self._roster.is_member(opened.member):
                    return False
                self._hear(opened)
                return True
            case Gossiped.BALLOT:
                ballots = decode(data[1:], Ballots, GOSSIP_BYTES_MAX)
                return not isinstance(ballots, Malformed) and self._hear_ballots(peer, ballots, is_relayed=True)
            case Gossiped.WORDS:
                words, known = decode(data[1:], Words, GOSSIP_BYTES_MAX), self._rounds.words.version
                is_heard = not isinstance(words, Malformed) and self._hear_words(peer, words)
                return is_heard and self._rounds.words.version > known
            case _:
                return False

    def _on_hello(self, peer: PeerId, hello: Hello) -> Hello | Refusal:
        return self.greeted(peer, hello) or self._voice.hello(peer)

    def _on_offer(self, peer: PeerId, request: Offer) -> Ack | Refusal:
        if not self._roster.is_connected(peer):
            return _STRANGER
        opened = self._opener.open(trio.current_time(), peer, request.contribution, open_contribution)
        if isinstance(opened, Malformed):
            return Refusal(Code.MALFORMED, opened.reason)
        self._hear(opened)
        return Ack(self._rounds.head)

    def _hear(self, offered: Offered) -> None:
        """What is of no use is not an error: rounds close while messages travel. The answer says where this member
        stands.
        """
        heard = self._rounds.heard(trio.current_time(), offered)
        if not isinstance(heard, str):
            self._do(heard)

    def _on_ballots(self, peer: PeerId, request: Ballots) -> Ack | Refusal:
        if not self._roster.is_connected(peer):
            return _STRANGER
        if not self._hear_ballots(peer, request):
            return Refusal(Code.BUSY, "too many signatures in too short a time, or the disk is full here")
        return Ack(self._rounds.head)

    def _hear_ballots(self, peer: PeerId, heard: Ballots, *, is_relayed: bool = False) -> bool:
        """Whether they were heard; of what is relayed, whether others should hear it from here: were all of it passed
        on, forged ones would use up what those who do so may have verified.
        """
        now = trio.current_time()
        if self._unwritten.is_full or not self._opener.allows(now, peer, sum(map(signature_count, heard.ballots))):
            return False
        is_worth_it = not is_relayed or self._rounds.are_sound(heard.ballots)
        self._do(self._rounds.heard_ballots(now, peer, heard.ballots))
        return is_worth_it

    def _on_words(self, peer: PeerId, request: Words) -> Ack | Refusal:
        if not self._roster.is_connected(peer):
            return _STRANGER
        if not self._hear_words(peer, request):
            return Refusal(Code.BUSY, "too many signatures in too short a time")
        return Ack(self._rounds.head)

    def _hear_words(self, peer: PeerId, words: Words) -> bool:
        now = trio.current_time()
        if not self._opener.allows(now, peer, sum(map(proof_count, words.changes))):
            return False
        self._do(self._rounds.heard_words(now, words.changes))
        return True

    def _on_have(self, peer: PeerId, have: Have) -> Ack | Refusal:
        if not self._roster.is_connected(peer):
            return _STRANGER
        now, rate = trio.current_time(), have.bytes_per_s
        self._do(self._rounds.heard_have(now, peer, have.head, have.held, rate, is_idle=have.is_idle))
        return Ack(self._rounds.head)

    def _on_head(self, peer: PeerId, request: AskHead) -> TellHead:
        return self._log.told

    def _on_store(self, peer: PeerId, request: AskStore) -> TellStore:
        return TellStore(self._log.snapshots.get(request.digest))

    async def _on_log(self, peer: PeerId, request: AskLog) -> TellLog | Refusal:
        refusal = self._refuse_log(peer)
        if refusal is not None:
            return refusal
        last = request.round + LOG_TOLD_MAX - 1
        read = partial(self._reader.range, request.round, last, TOLD_BYTES_MAX - 1024)
        try:
            return TellLog(await self._workers.run(read))
        except StoreError:
            return TellLog(())

    async def _on_proof(self, peer: PeerId, request: AskProof) -> TellProof | Refusal:
        refusal = self._refuse_log(peer)
        if refusal is not None:
            return refusal
        try:
            return TellProof(await self._workers.run(partial(self._reader.proof, request.record, self._short_of)))
        except StoreError:
            return TellProof(None)

    async def _on_history(self, peer: PeerId, request: AskHistory) -> TellHistory | Refusal:
        refusal = self._refuse_log(peer)
        if refusal is not None or self._history is None:
            return refusal or TellHistory(())
        try:
            return TellHistory(
                await self._workers.run(partial(self._history.reader.range, request.first, request.last))
            )
        except StoreError:
            return TellHistory(())

    def _refuse_log(self, peer: PeerId) -> Refusal | None:
        """Why `peer` is to be told nothing that has to be read from the disk."""
        if not self._roster.is_connected(peer):
            return _STRANGER
        if not self._opener.allows(trio.current_time(), peer, LOG_COST):
            return Refusal(Code.BUSY, "too much of the log in too short a time")
        return None

    def _on_contributions(self, peer: PeerId, request: AskContributions) -> TellContributions:
        found = (self._rounds.pool.get(hash) or self._log.contribution(hash) for hash in request.wanted)
        return TellContributions(tuple(offered.envelope for offered in found if offered is not None))

    def _on_spec(self, peer: PeerId, request: AskSpec) -> SignedSpec:
        return self._signed_spec
