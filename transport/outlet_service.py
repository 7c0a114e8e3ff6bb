"""A fresh local port from which several connections are made, and at which others are awaited, all at once.

A router translates by the port that a packet comes from. So whoever is to be punched to dials from the same port from
which observers were asked as whom it is seen, and listens there, too.
"""

import os
import secrets
import socket
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import trio

from .addresses import Endpoint
from .port import Code, Refusal
from .stun import HEAD_BYTES, ID_BYTES, Kind, decode_head, decode_seen, encode_message
from .wire import Malformed

ASK_S: Final = 2.0  # for an observer to answer
_FAMILIES: Final = {"ip4": (socket.AF_INET, "0.0.0.0"), "ip6": (socket.AF_INET6, "::")}


class Outlet:
    """Obtained from `open_outlet`."""

    def __init__(self, kind: str, listener: trio.socket.SocketType, stack: AsyncExitStack) -> None:
        self.kind = kind  # ip4 or ip6
        self.port: int = listener.getsockname()[1]
        self._listener = listener
        self._stack = stack

    async def ask(self, observer: Endpoint) -> Endpoint | Refusal:
        """As whom this port is seen there. The connection stays, so that routers keep the translation."""
        try:
            with trio.fail_after(ASK_S):
                stream = await self.connect(observer)
                self._stack.push_async_callback(trio.aclose_forcefully, stream)
                return await ask(stream)
        except (OSError, trio.BrokenResourceError) as error:
            return Refusal(Code.UNREACHABLE, f"{observer.address} cannot be asked: {error}")
        except trio.TooSlowError:
            return Refusal(Code.DEADLINE_EXCEEDED, f"{observer.address} does not answer within {ASK_S:g} s")

    async def connect(self, endpoint: Endpoint) -> trio.SocketStream:
        """A connection from this port. Raises OSError."""
        made = _socket(self.kind)
        try:
            await made.bind((_FAMILIES[self.kind][1], self.port))
            await made.connect((endpoint.host, endpoint.port))
        except BaseException:
            made.close()
            raise
        return trio.SocketStream(made)

    async def accept(self) -> trio.SocketStream:
        """The next connection to this port. Raises OSError."""
        return trio.SocketStream((await self._listener.accept())[0])


@asynccontextmanager
async def open_outlet(kind: str) -> AsyncGenerator[Outlet]:
    """A port of the system's choice, of `ip4` or `ip6`. Raises OSError."""
    async with AsyncExitStack() as stack:
        with _socket(kind) as listener:
            await listener.bind((_FAMILIES[kind][1], 0))
            listener.listen()
            yield Outlet(kind, listener, stack)


async def ask(stream: trio.SocketStream) -> Endpoint | Refusal:
    """As whom this side of a fresh connection is seen. Raises trio.BrokenResourceError."""
    id = secrets.token_bytes(ID_BYTES)
    await stream.send_all(encode_message(Kind.REQUEST, id))
    head = decode_head(await _exactly(stream, HEAD_BYTES))
    if isinstance(head, Malformed) or head.id != id or head.kind is not Kind.SUCCESS:
        return Refusal(Code.MALFORMED, "no answer to a STUN request")
    seen = decode_seen(id, await _exactly(stream, head.body_bytes))
    return Refusal(Code.MALFORMED, seen.reason) if isinstance(seen, Malformed) else seen


async def show(endpoint: Endpoint, id: bytes) -> None:
    """Let who listens there know that one has got through. Raises OSError."""
    made = _socket(endpoint.kind)
    try:
        await made.connect((endpoint.host, endpoint.port))
    except BaseException:
        made.close()
        raise
    async with trio.SocketStream(made) as stream:
        try:
            await stream.send_all(encode_message(Kind.INDICATION, id))
        except trio.BrokenResourceError as error:
            raise OSError("the connection broke") from error


def _socket(kind: str) -> trio.socket.SocketType:
    made = trio.socket.socket(_FAMILIES[kind][0], socket.SOCK_STREAM)
    if kind == "ip6":
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if os.name == "posix":
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


async def _exactly(stream: trio.SocketStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = await stream.receive_some(size - len(data))
        if not piece:
            raise trio.BrokenResourceError("the connection ended")
        data += piece
    return data
