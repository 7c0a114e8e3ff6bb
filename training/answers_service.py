"""The round engine's ears: answers peers' calls and hears gossip. A shell: what arrives is verified here and handed
to the cores.
"""

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import trio

from shoal.transport.port import Code, PeerId, Refusal, Transport
from shoal.transport.wire import Malformed

from .effects import Effect
from .log import Log
from .opening import Opener
from .records import (
    PROTOCOL_VERSION,
    Ack,
    AskContributions,
    AskHead,
    AskRecord,
    AskSpec,
    Calls,
    Have,
    Hello,
    Offer,
    Offered,
    Present,
    Propose,
    Proposed,
    Standing,
    TellContributions,
    TellHead,
    open_contribution,
    open_proposal,
)
from .roster import Roster
from .rounds import Rounds
from .spec import SignedSpec, swarm_id_of

_STRANGER = Refusal(Code.REFUSED, "say hello first")


class Gossiped(enum.IntEnum):
    """The first byte of a gossiped message; the envelope follows."""

    CONTRIBUTION = 1
    PROPOSAL = 2


class Voice(Protocol):
    """The other direction: what answers need of it."""

    def hello(self) -> Hello | Refusal: ...

    def welcome(self, peer: PeerId) -> None: ...

    def keep_members(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Cores:
    """What one swarm's member knows."""

    rounds: Rounds
    roster: Roster
    log: Log


class Answers:
    """One swarm's."""

    def __init__(
        self,
        signed_spec: SignedSpec,
        cores: Cores,
        voice: Voice,
        do: Callable[[list[Effect]], None],
    ) -> None:
        swarm = swarm_id_of(signed_spec.spec)
        self._signed_spec = signed_spec
        self._calls = Calls(swarm)
        self._opener = Opener(swarm)
        self._rounds = cores.rounds
        self._roster = cores.roster
        self._log = cores.log
        self._voice = voice
        self._do = do

    def serve(self, transport: Transport) -> None:
        calls = self._calls
        transport.serve(calls.hello, self._on_hello)
        transport.serve(calls.offer, self._on_offer)
        transport.serve(calls.have, self._on_have)
        transport.serve(calls.propose, self._on_propose)
        transport.serve(calls.head, self._on_head)
        transport.serve(calls.record, self._on_record)
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
        self._do(self._rounds.look(now))
        has_left = hello.presence.standing is Standing.LEFT
        return None if is_welcome or has_left else Refusal(Code.BUSY, "no room, or you left with a later word")

    def on_gossip(self, peer: PeerId, data: bytes) -> bool:
        """Hear a gossiped message that `peer` handed over. Whether it is worth passing on: a member's, truly signed."""
        now = trio.current_time()
        opened: Offered | Proposed | Malformed
        match next(iter(data), None):
            case Gossiped.CONTRIBUTION:
                opened = self._opener.open(now, peer, data[1:], open_contribution)
            case Gossiped.PROPOSAL:
                opened = self._opener.open(now, peer, data[1:], open_proposal)
            case _:
                return False
        if isinstance(opened, Malformed):
            return False
        if not self._roster.is_member(opened.member if isinstance(opened, Offered) else opened.proposer):
            return False
        self._hear(opened)
        return True

    def _on_hello(self, peer: PeerId, hello: Hello) -> Hello | Refusal:
        return self.greeted(peer, hello) or self._voice.hello()

    def _on_offer(self, peer: PeerId, request: Offer) -> Ack | Refusal:
        if not self._roster.is_connected(peer):
            return _STRANGER
        return self._take(self._opener.open(trio.current_time(), peer, request.contribution, open_contribution))

    def _on_propose(self, peer: PeerId, request: Propose) -> Ack | Refusal:
        if not self._roster.is_connected(peer):
            return _STRANGER
        return self._take(self._opener.open(trio.current_time(), peer, request.proposal, open_proposal))

    def _take(self, opened: Offered | Proposed | Malformed) -> Ack | Refusal:
        if isinstance(opened, Malformed):
            return Refusal(Code.MALFORMED, opened.reason)
        self._hear(opened)
        return Ack(self._rounds.head)

    def _hear(self, opened: Offered | Proposed) -> None:
        """What is of no use is not an error: rounds close while messages travel. The answer says where this member
        stands.
        """
        now = trio.current_time()
        heard = self._rounds.heard(now, opened) if isinstance(opened, Offered) else self._rounds.proposed(now, opened)
        if not isinstance(heard, str):
            self._do(heard)

    def _on_have(self, peer: PeerId, have: Have) -> Ack | Refusal:
        if not self._roster.is_connected(peer):
            return _STRANGER
        self._do(self._rounds.heard_have(trio.current_time(), peer, have.head, have.held, have.is_idle))
        return Ack(self._rounds.head)

    def _on_head(self, peer: PeerId, request: AskHead) -> TellHead:
        return self._log.told

    def _on_record(self, peer: PeerId, request: AskRecord) -> Propose | Refusal:
        proposed = self._log.proposal(request.round)
        if proposed is None:
            return Refusal(Code.NOT_FOUND, f"the record of round {request.round} is not kept here")
        return Propose(proposed.envelope)

    def _on_contributions(self, peer: PeerId, request: AskContributions) -> TellContributions:
        found = (self._rounds.offer(hash) or self._log.contribution(hash) for hash in request.wanted)
        return TellContributions(tuple(offered.envelope for offered in found if offered is not None))

    def _on_spec(self, peer: PeerId, request: AskSpec) -> SignedSpec:
        return self._signed_spec
