"""What a peer holds of several blobs, in one question: on a slow line a question for each would take a tenth of it."""

from dataclasses import dataclass, field
from typing import Final

import trio

from .blobs import HAVE, HAVES_MAX, HaveReply, HaveRequest
from .port import Code, PeerId, Refusal, Transport

ASK_S: Final = 10.0  # a peer that can't say what it holds in this time is of no use
GATHER_S: Final = 0.05  # in which others join a question


@dataclass(frozen=True, slots=True)
class Had:
    """What a peer has of one blob."""

    have: bytes | None  # as in HaveReply
    bytes_per_s: int


@dataclass(slots=True, eq=False)
class _Question:
    digests: list[bytes] = field(default_factory=list[bytes])
    reply: HaveReply | Refusal | None = None
    answered: trio.Event = field(default_factory=trio.Event)


class Asker:
    """All of a node's questions of this kind."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._gathering: dict[PeerId, _Question] = {}

    async def ask(self, nursery: trio.Nursery, peer: PeerId, digest: bytes) -> Had | Refusal:
        """NOT_FOUND: nothing of it is there. `nursery` outlasts this call: others may wait for the same answer."""
        question = self._gathering.get(peer)
        if question is None:
            question = self._gathering[peer] = _Question()
            nursery.start_soon(self._put, peer, question)
        place = len(question.digests)
        question.digests.append(digest)
        if len(question.digests) == HAVES_MAX:
            del self._gathering[peer]
        await question.answered.wait()
        reply = question.reply or Refusal(Code.CANCELLED, "the node stops")
        if isinstance(reply, Refusal):
            return reply
        if len(reply.haves) != len(question.digests):
            return Refusal(Code.MALFORMED, f"{len(reply.haves)} answers to {len(question.digests)} questions")
        have = reply.haves[place]
        return Refusal(Code.NOT_FOUND, "nothing of it is here") if have == b"" else Had(have, reply.bytes_per_s)

    async def _put(self, peer: PeerId, question: _Question) -> None:
        try:
            await trio.sleep(GATHER_S)
            if self._gathering.get(peer) is question:
                del self._gathering[peer]
            request = HaveRequest(question.digests)
            question.reply = await self._transport.request(peer, HAVE, request, timeout_s=ASK_S)
        finally:
            question.answered.set()
