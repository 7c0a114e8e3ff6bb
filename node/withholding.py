"""What attackers do to the bytes that others fetch from them: give them to some alone, or drop by drop.

All else they do well, so that the others see a member with a contribution whose payload they have to get by.
"""

from collections.abc import Collection
from functools import partial
from typing import Any, Final, Protocol

import trio

from shoal.transport.blobs import CHUNKS
from shoal.transport.port import Call, Code, PeerId, Refusal, StreamHandler, Streaming

DROP_S: Final = 2.0  # between two pieces, of 62 KB each
REASON: Final = "not for you"


class Serving(Protocol):
    """Where blobs are served (host.Host)."""

    serve_stream: Any
    bulk: Any


def withhold(network: Serving, kind: str, shunned: Collection[str]) -> None:
    """Have this network serve chunks of blobs as an attacker of this kind does."""
    serve_stream = network.serve_stream

    def serve(method: Streaming[Any, Any], handler: StreamHandler[Any, Any]) -> None:
        own = handler
        if method.name == CHUNKS.name:
            own = partial(shun, shunned, handler) if kind == "selective" else partial(drip, handler)
        serve_stream(method, own)

    network.serve_stream = serve
    network.bulk = None  # it has no other way


async def shun(
    shunned: Collection[str], handler: StreamHandler[Any, Any], peer: PeerId, call: Call[Any, Any]
) -> Refusal | None:
    """Answer all but some."""
    return Refusal(Code.NOT_FOUND, REASON) if peer in shunned else await handler(peer, call)


async def drip(handler: StreamHandler[Any, Any], peer: PeerId, call: Call[Any, Any]) -> Refusal | None:
    """Answer everybody, slowly."""
    return await handler(peer, Dripping(call))


class Dripping:
    """A call whose every message takes its time."""

    def __init__(self, call: Call[Any, Any]) -> None:
        self._call = call
        self.finish = call.finish
        self.receive = call.receive

    async def send(self, message: object) -> Refusal | None:
        await trio.sleep(DROP_S)
        return await self._call.send(message)
