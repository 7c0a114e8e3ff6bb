"""The server of the node's local API; local_protocol.py says what it speaks.

Each method has a typed structure of parameters. A connection's requests are answered in order, one after the other;
`watch` keeps its connection until the client closes it. Only the node's own user can connect, so a bad request is a
mistake, not an attack; it is still bounded and answered with one clear error.
"""

import contextlib
import hmac
import os
import secrets
import socket
from collections.abc import Awaitable, Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import msgspec
import trio

from .complaint import Complaint, Exit, nearest
from .config import readable
from .local_protocol import (
    LINE_BYTES_MAX,
    LOOPBACK_NAME,
    NOT_JSON,
    SOCKET_NAME,
    Greeting,
    Loopback,
    Request,
    error_line,
    event_line,
    prefers_socket,
    result_line,
)
from .logs import Log

CONNECTIONS_MAX = 64
GREETING_TIMEOUT_S = 5.0
GREETING_BYTES_MAX = 256  # on loopback anybody on this machine can begin one; the token's takes 77
READ_BYTES_MAX = 65_536  # at once
WRITE_TIMEOUT_S = 30.0  # a client that does not read for so long is let go

log = Log("local_api")
P = TypeVar("P", bound=msgspec.Struct)


class NoParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For methods without parameters."""


@dataclass(frozen=True, slots=True)
class Answer(Generic[P]):
    """A method that answers once, with anything JSON can say. The handler raises Complaint for what goes wrong."""

    params: type[P]
    handler: Callable[[P], Awaitable[object]]


class EventSource(Protocol):
    """Where a watching client's events come from."""

    async def next(self) -> object:
        """Wait for the next event."""
        ...


@dataclass(frozen=True, slots=True)
class Events(Generic[P]):
    """A method that answers with events until the client goes."""

    params: type[P]
    handler: Callable[[P], EventSource]


Methods = Mapping[str, Answer[Any] | Events[Any]]


class LocalApi:
    """Serves `methods` to this user's programs."""

    def __init__(self, data_dir: Path, methods: Methods) -> None:
        self._data_dir = data_dir
        self._methods = methods
        self._token = ""
        self._slots = trio.CapacityLimiter(CONNECTIONS_MAX)

    async def run(self, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled. Starts with a text that says where it listens.

        Raises:
            Complaint: the socket cannot be made.
        """
        with self._listening() as (listener, where):
            task_status.started(where)
            await trio.serve_listeners(self._serve, [listener])

    @contextlib.contextmanager
    def _listening(self) -> Generator[tuple[trio.SocketListener, str]]:
        path = self._data_dir / SOCKET_NAME
        loopback_path = self._data_dir / LOOPBACK_NAME
        for stale in (path, loopback_path):
            stale.unlink(missing_ok=True)  # the lock on the data directory says that its owner is gone
        with contextlib.ExitStack() as stack:
            try:
                if prefers_socket(self._data_dir):
                    listening = stack.enter_context(unix_listener(path))
                    stack.callback(path.unlink, missing_ok=True)
                    where = str(path)
                else:
                    listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
                    self._token = secrets.token_hex(32)
                    port = int(listening.getsockname()[1])
                    stack.callback(loopback_path.unlink, missing_ok=True)
                    write_private(loopback_path, msgspec.json.encode(Loopback(port, self._token)))
                    where = f"127.0.0.1:{port}"
            except OSError as error:
                raise Complaint(f"cannot open the local API in {self._data_dir}: {error}", Exit.CONFIG) from error
            listening.setblocking(False)
            yield trio.SocketListener(trio.socket.from_stdlib_socket(listening)), where

    async def _serve(self, stream: trio.SocketStream) -> None:
        """One connection. Its end, however it comes, is nobody's fault."""
        async with stream:
            try:
                self._slots.acquire_nowait()
            except trio.WouldBlock:
                return
            try:
                lines = Lines(stream)
                if await self._is_greeted(lines):
                    await self._answer_all(stream, lines)
            except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
                pass
            finally:
                self._slots.release()

    async def _is_greeted(self, lines: "Lines") -> bool:
        if not self._token:
            return True
        with trio.move_on_after(GREETING_TIMEOUT_S):
            try:
                greeting = msgspec.json.decode(await lines.next(GREETING_BYTES_MAX) or b"", type=Greeting)
            except NOT_JSON:
                return False
            return hmac.compare_digest(greeting.token.encode(), self._token.encode())
        return False

    async def _answer_all(self, stream: trio.SocketStream, lines: "Lines") -> None:
        while (text := await lines.next()) is not None:
            try:
                request = msgspec.json.decode(text, type=Request)
            except NOT_JSON as error:
                await send(stream, error_line(None, Complaint(f"not a request: {error}", Exit.USAGE)))
                return
            try:
                method, params = self._understand(request)
                if isinstance(method, Events):
                    await self._stream_events(stream, lines, request.id, method.handler(params))
                    return
                answer = result_line(request.id, await method.handler(params))
            except Complaint as complaint:
                answer = error_line(request.id, complaint)
            await send(stream, answer)

    def _understand(self, request: Request) -> tuple[Answer[Any] | Events[Any], Any]:
        method = self._methods.get(request.method)
        if method is None:
            raise Complaint(f"unknown method '{request.method}': {nearest(request.method, self._methods)}", Exit.USAGE)
        try:
            return method, msgspec.convert(request.params, method.params)
        except msgspec.ValidationError as error:
            raise Complaint(f"{request.method}: {readable(error)}", Exit.USAGE) from error

    async def _stream_events(
        self, stream: trio.SocketStream, lines: "Lines", request_id: int, events: EventSource
    ) -> None:
        async with trio.open_nursery() as nursery:

            async def end_with_client() -> None:
                with contextlib.suppress(trio.BrokenResourceError):
                    while await lines.next() is not None:
                        pass
                nursery.cancel_scope.cancel()

            nursery.start_soon(end_with_client)
            with contextlib.suppress(trio.BrokenResourceError, trio.TooSlowError):
                while True:
                    await send(stream, event_line(request_id, await events.next()))
            nursery.cancel_scope.cancel()


class Lines:
    """Cuts what a client sends into lines."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._buffer = bytearray()

    async def next(self, bytes_max: int = LINE_BYTES_MAX) -> bytes | None:
        """The next line without its end; None when the client has closed or its line is too long."""
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            room = min(bytes_max - searched, READ_BYTES_MAX)
            if room <= 0 or not (chunk := await self._stream.receive_some(room)):
                return None
            self._buffer += chunk
        text = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return text


async def send(stream: trio.SocketStream, data: bytes) -> None:
    with trio.fail_after(WRITE_TIMEOUT_S):
        await stream.send_all(data)


@contextlib.contextmanager
def unix_listener(path: Path) -> Generator[socket.socket]:
    """A listening Unix socket that only this user can connect to."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        os.chmod(path, 0o600)  # before listen: until then nobody can connect
        listening.listen()
        yield listening


def write_private(path: Path, data: bytes) -> None:
    """A new file that only this user can read, whole or not at all."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)
