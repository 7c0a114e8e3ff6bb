"""Attackers that give their bytes to some alone or drop by drop: the network that they show to the others."""

from typing import Any

import trio

from shoal.node.withholding import DROP_S, withhold
from shoal.transport.blobs import CHUNKS, MANIFEST
from shoal.transport.port import Code, PeerId, Refusal


class Served:
    """What is served, by name."""

    def __init__(self) -> None:
        self.handlers: dict[str, Any] = {}
        self.serve_stream: Any = self._serve_stream
        self.bulk: Any = "connections for blobs alone"

    def _serve_stream(self, method: Any, handler: Any) -> None:
        self.handlers[method.name] = handler


class Caller:
    """The other end of a stream."""

    def __init__(self) -> None:
        self.came: list[tuple[float, object]] = []

    async def send(self, message: object) -> None:
        self.came.append((trio.current_time(), message))

    async def finish(self) -> None: ...

    async def receive(self) -> str:
        return "asked"


async def answer(_: PeerId, call: Any) -> None:
    asked = await call.receive()
    for number in range(2):
        await call.send((asked, number))


async def test_some_are_told_that_it_is_not_here() -> None:
    network = Served()
    withhold(network, "selective", shunned=("b",))
    network.serve_stream(CHUNKS, answer)
    handler, caller = network.handlers[CHUNKS.name], Caller()
    refused = await handler(PeerId("b"), caller)
    assert isinstance(refused, Refusal)
    assert (refused.code, caller.came, network.bulk) == (Code.NOT_FOUND, [], None)
    assert await handler(PeerId("a"), caller) is None
    assert [message for _, message in caller.came] == [("asked", 0), ("asked", 1)]


async def test_others_get_all_of_it_slowly(autojump_clock: object) -> None:
    network, caller = Served(), Caller()
    withhold(network, "drip", shunned=())
    network.serve_stream(CHUNKS, answer)
    began = trio.current_time()
    assert await network.handlers[CHUNKS.name](PeerId("a"), caller) is None
    assert [(at - began, message) for at, message in caller.came] == [
        (DROP_S, ("asked", 0)),
        (2 * DROP_S, ("asked", 1)),
    ]


def test_what_else_is_served_is_as_it_was() -> None:
    network = Served()
    withhold(network, "selective", shunned=("b",))
    network.serve_stream(MANIFEST, answer)
    assert network.handlers[MANIFEST.name] is answer
