"""TCP sockets: listening, dialing, counted bytes, and exact reads. Knows neither libp2p nor peers."""

import errno
import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import trio

from .addresses import Endpoint, ip_endpoint

READ_BYTES: Final = 128 * 1024  # asked of the system at once; memory: so much per connection that receives
UNSENT_BYTES: Final = 32 * 1024  # smaller: a fast line runs dry while this process does something else
UNPROVEN_BYTES_MAX: Final = 64 * 1024  # read before the other side has proved who it is; a handshake takes 1 KB


class HostError(Exception):
    """The node cannot be on the network as it was told to. The message says why and what to do."""


@dataclass(slots=True)
class Counter:
    """Bytes of all connections since the start."""

    bytes_sent: int = 0
    bytes_received: int = 0


class Socket:
    """A TCP connection with the methods that libp2p wants of one.

    Reads are exact: whoever asks for n bytes gets n, or fewer at the end of the stream. That spares a system call for
    each length prefix, and callers who give up after some number of partial reads never see one.
    """

    def __init__(self, stream: trio.SocketStream, total: Counter) -> None:
        self._stream = stream
        self._total = total
        self._buffer = bytearray()
        self._allowance: int | None = UNPROVEN_BYTES_MAX
        self.own = Counter()
        self._is_backlog_bound = False
        self.limit_bytes: int | None = None  # what it may carry in all, as the relay says that passes it on

    def trust(self) -> None:
        """The other side has proved who it is: from now on what it may send is bounded elsewhere."""
        self._allowance = None

    def bound_backlog(self, size: int = UNSENT_BYTES) -> None:
        """Let `write` return only when no more than `size` bytes wait in the system, where it can say so.

        Otherwise megabytes may wait there, seconds of a slow line, and nobody can let anything else go first.
        """
        option = getattr(trio.socket, "TCP_NOTSENT_LOWAT", None)
        if option is not None and not self._is_backlog_bound:
            with suppress(OSError):  # it is closed, or a circuit
                self._stream.setsockopt(trio.socket.IPPROTO_TCP, option, size)
                self._is_backlog_bound = True

    async def write(self, data: bytes) -> None:
        """Raises ConnectionResetError."""
        self.own.bytes_sent += len(data)
        self._total.bytes_sent += len(data)
        try:
            await self._stream.send_all(data)
            if self._is_backlog_bound:
                await trio.lowlevel.wait_writable(self._stream.socket)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionResetError("the connection broke") from error

    async def peek(self) -> bytes:
        """The first byte that comes, which stays to be read; none at the end. Raises ConnectionResetError."""
        if not self._buffer:
            self._buffer += await self._receive()
        return bytes(self._buffer[:1])

    async def read(self, n: int | None = None) -> bytes:
        """`n` bytes, fewer only at the end; None: whatever comes next. Raises ConnectionResetError."""
        buffer = self._buffer
        if n is None and not buffer:
            return await self._receive()
        while len(buffer) < (1 if n is None else n):
            data = await self._receive()
            if not data:
                break
            buffer += data
        if n is None or n >= len(buffer):
            n = len(buffer)
        result = bytes(memoryview(buffer)[:n])
        del buffer[:n]
        return result

    async def _receive(self) -> bytes:
        try:
            data = bytes(await self._stream.receive_some(READ_BYTES))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionResetError("the connection broke") from error
        self.own.bytes_received += len(data)
        self._total.bytes_received += len(data)
        if self._allowance is not None:
            self._allowance -= len(data)
            if self._allowance < 0:
                raise ConnectionResetError(f"more than {UNPROVEN_BYTES_MAX} bytes without a handshake")
        return data

    def detach(self) -> socket.socket:
        """Hand the connection over to a thread; here it is as good as closed."""
        return socket.socket(fileno=self._stream.socket.detach())

    async def close(self) -> None:
        """At once: what matters has been said one layer above."""
        self.abort()
        await trio.lowlevel.checkpoint()

    def abort(self) -> None:
        """As `close`, where nothing can be awaited. Whoever reads or writes gets a ConnectionResetError."""
        self._stream.socket.close()

    def get_remote_address(self) -> tuple[str, int] | None:
        try:
            host, port = self._stream.socket.getpeername()[:2]
        except OSError:
            return None
        return str(host), int(port)

    @property
    def local_ip(self) -> str | None:
        """This side's, while it is known; None for a circuit."""
        try:
            return str(self._stream.socket.getsockname()[0]).partition("%")[0]
        except OSError:
            return None

    @property
    def remote(self) -> Endpoint | None:
        """The other side's address, while it is known."""
        address = self.get_remote_address()
        return None if address is None else ip_endpoint(*address)


async def listen(endpoint: Endpoint) -> trio.SocketListener:
    """A socket that listens there. Raises HostError."""
    try:
        (listener,) = await trio.open_tcp_listeners(endpoint.port, host=endpoint.host)
    except OSError as error:
        raise HostError(_listen_problem(endpoint, error)) from error
    return listener


def listening_endpoint(listener: trio.SocketListener) -> Endpoint:
    """Where it listens, with the port that the system chose for port 0."""
    host, port = listener.socket.getsockname()[:2]
    return ip_endpoint(host, port)


async def dial(endpoint: Endpoint) -> trio.SocketStream:
    """A connection to an endpoint. Raises OSError."""
    return await trio.open_tcp_stream(endpoint.host, endpoint.port)


def _listen_problem(endpoint: Endpoint, error: OSError) -> str:
    where = f"port {endpoint.port} on {endpoint.host}"
    match error.errno:
        case errno.EADDRINUSE:
            return (
                f"port {endpoint.port} is taken on {endpoint.host}: "
                "choose another with --listen, or stop the program that has it"
            )
        case errno.EACCES:
            return f"{where} needs an administrator's rights: choose one above 1023 with --listen"
        case errno.EADDRNOTAVAIL:
            return f"{endpoint.host} is no address of this machine: listen on one that is, or on 0.0.0.0, with --listen"
        case None:
            return f"cannot listen on {where}: {error}"
        case number:
            return f"cannot listen on {where}: {os.strerror(number)}"
