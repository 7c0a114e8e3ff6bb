"""Serves the streams on which peers ask: so many of each peer, for as long as it asks and reads.

What a malicious peer may do: open streams, ask without reading, send garbage, keep silent. What it achieves:
STREAMS_SERVED_MAX streams are its own, each until its first garbage, a pause of SILENT_S_MAX, or ASK_S_MAX in which it
does not take an answer. What it may ask, `answering` says.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import trio

from shoal.transport.port import Address, ByteStream, PeerId
from shoal.transport.wire import Malformed

from .answering import Answering
from .asking_service import ASK_S_MAX, Messages

STREAMS_SERVED_MAX: Final = 8  # of one peer; one that opens more is turned away
SILENT_S_MAX: Final = 600.0  # a stream on which nothing was asked for so long is closed


class Serving:
    """Args:
    met_at: the address of the connection with a peer.
    sender_record: where this node listens, to go with each answer; none from a client.
    served: called when something was asked, which may have given this node something to do.
    """

    def __init__(
        self,
        answering: Answering,
        met_at: Callable[[PeerId], Address | None],
        sender_record: Callable[[], bytes],
        served: Callable[[], None],
    ) -> None:
        self._answering, self._met_at = answering, met_at
        self._sender_record, self._served = sender_record, served
        self._streams: Counter[PeerId] = Counter()

    async def serve(self, sender: PeerId, stream: ByteStream) -> None:
        """One stream, until its end. Raises StreamBroken."""
        if self._streams[sender] >= STREAMS_SERVED_MAX:
            return
        self._streams[sender] += 1
        try:
            messages = Messages(stream)
            while await self._serve_one(sender, messages):
                pass
        finally:
            self._streams[sender] -= 1
            if not self._streams[sender]:
                del self._streams[sender]

    async def _serve_one(self, sender: PeerId, messages: Messages) -> bool:
        """Whether to go on."""
        question = None
        with trio.move_on_after(SILENT_S_MAX):
            question = await messages.receive()
        if question is None or isinstance(question, Malformed):
            return False
        answer = self._answering.answer(sender, self._met_at(sender), question, trio.current_time(), time.time())
        self._served()
        if isinstance(answer, Malformed):
            return False
        with trio.move_on_after(ASK_S_MAX) as scope:
            await messages.send(replace(answer, sender_record=self._sender_record()))
        return not scope.cancelled_caught  # else it asks and does not read
