"""One bulk connection: TLS over a socket, shaken hands on in the event loop, used by one worker thread.

TLS runs over buffers in memory rather than over the socket itself: so one system call moves as much as SEND_BYTES or
RECEIVE_BYTES, not one record of 16 KiB, and a handshake can be awaited without a thread.
"""

import socket
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass
from socket import SHUT_RDWR
from typing import Final, cast

from .tcp_service import Socket

RECEIVE_BYTES: Final = 256 * 1024  # asked of the system at once; memory: so much per connection, twice
SEND_BYTES: Final = 256 * 1024  # encrypted before any of it is handed to the system
SILENT_S: Final = 5.0  # without a byte, where one is due: the connection is as good as broken
UNTAKEN_S: Final = 30.0  # in which the other side takes not a byte
ANSWERS_BYTES_MAX: Final = 4 * 1024  # of TLS's own, which go out with the next bytes; a peer asks for them by new keys
_SILENT: Final = "the other side kept silent"


class LinkBroken(Exception):
    """The connection is over: it broke, or the other side ended it or kept silent. The message says which."""


@dataclass(slots=True)
class Tls:
    """A TLS connection's state, and what goes in and out of it."""

    session: ssl.SSLObject
    incoming: ssl.MemoryBIO
    outgoing: ssl.MemoryBIO


def tls_of(context: ssl.SSLContext, *, is_server: bool, server_name: str | None = None) -> Tls:
    """One that has not begun."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context.wrap_bio(incoming, outgoing, server_side=is_server, server_hostname=server_name)
    return Tls(session, incoming, outgoing)


async def shake_hands(socket: Socket, tls: Tls) -> str:
    """Empty when both sides have proved who they are, as far as this side can know; else why not.

    Raises:
        ConnectionResetError: the connection broke.
    """
    while True:
        try:
            tls.session.do_handshake()
        except ssl.SSLWantReadError:
            await _flush(socket, tls)
            if not await _fill(socket, tls):
                return "the other side hung up"
            continue
        except ssl.SSLError as error:
            await _flush(socket, tls)  # an alert, which says why
            return str(error.reason or error)
        await _flush(socket, tls)
        return ""


async def send_byte(socket: Socket, tls: Tls, byte: bytes) -> None:
    """Raises ConnectionResetError."""
    tls.session.write(byte)
    await _flush(socket, tls)


async def receive_byte(socket: Socket, tls: Tls) -> bytes:
    """None at the end. Raises ConnectionResetError."""
    while True:
        try:
            return tls.session.read(1)
        except ssl.SSLWantReadError:
            if not await _fill(socket, tls):
                return b""
        except ssl.SSLError as error:
            raise ConnectionResetError(str(error.reason or error)) from error


async def _flush(socket: Socket, tls: Tls) -> None:
    if tls.outgoing.pending:
        await socket.write(tls.outgoing.read())


async def _fill(socket: Socket, tls: Tls) -> bool:
    data = await socket.read()
    tls.incoming.write(data)
    return bool(data)


class Link:
    """For one thread; `abort` and the counters are for all. Calls raise LinkBroken."""

    def __init__(self, socket: socket.socket, tls: Tls) -> None:
        self._socket = socket
        self._tls = tls
        self._buffer = memoryview(bytearray(RECEIVE_BYTES))
        self.is_carrying = False  # something is asked for that has not come, or gone
        self.bytes_sent = 0  # encrypted
        self.bytes_received = 0

    def abort(self) -> None:
        """At once, from any thread: whoever waits in a call gets LinkBroken."""
        with suppress(OSError):  # it is over already
            self._socket.shutdown(SHUT_RDWR)

    def close(self) -> None:
        """Once no thread is in a call."""
        self._socket.close()

    def send(self, data: bytes | memoryview) -> None:
        """All of it; broken where not a byte of it is taken for UNTAKEN_S."""
        view, write, sealed = memoryview(data), self._tls.session.write, 0
        for end in range(SEND_BYTES, len(view) + SEND_BYTES, SEND_BYTES):
            part = view[:end]
            while sealed < len(part):
                sealed += write(part[sealed:])  # a record at a time
            self._send_sealed(memoryview(self._tls.outgoing.read()))

    def receive_some(self, view: memoryview, silent_s: float = SILENT_S) -> int:
        """What is here, at least a byte, into a view that is not empty: how many. Broken where none comes for
        `silent_s`, whatever TLS has to say meanwhile.
        """
        until = time.monotonic() + silent_s
        while not (count := self._read_some(view)):
            left_s = until - time.monotonic()
            if left_s <= 0:
                raise LinkBroken(_SILENT)
            self._fill(left_s)
        return count

    def receive_exactly(self, view: memoryview) -> None:
        """Fill the view."""
        while view:
            view = view[self.receive_some(view) :]

    def receive_waiting(self, view: memoryview) -> int:
        """What has come, into a view that is not empty: how many bytes; 0: nothing is here."""
        count = self._read_some(view)
        if not count:
            with suppress(BlockingIOError):
                self._fill(0)
                count = self._read_some(view)
        return count

    def _read_some(self, view: memoryview) -> int:
        """As much as TLS can give without more from the socket."""
        read, size, count = self._tls.session.read, len(view), 0
        try:
            while count < size and (part := cast(int, read(size - count, view[count:]))):
                count += part
        except ssl.SSLWantReadError:
            if self._tls.outgoing.pending > ANSWERS_BYTES_MAX:
                raise LinkBroken("the other side asks TLS for answers without end") from None
            return count
        except ssl.SSLError as error:
            raise LinkBroken(f"TLS: {error.reason or error}") from error
        if not count:
            raise LinkBroken("the other side ended it")
        return count

    def _fill(self, silent_s: float) -> None:
        """Raises BlockingIOError if `silent_s` is 0 and nothing is here."""
        try:
            self._socket.settimeout(silent_s)
            count = self._socket.recv_into(self._buffer)
        except BlockingIOError:
            raise
        except OSError as error:
            raise _broken(error) from error
        if not count:
            raise LinkBroken("the other side hung up")
        self.bytes_received += count
        self._tls.incoming.write(self._buffer[:count])

    def _send_sealed(self, sealed: memoryview) -> None:
        try:
            self._socket.settimeout(UNTAKEN_S)
            while sealed:
                count = self._socket.send(sealed)
                self.bytes_sent += count
                sealed = sealed[count:]
        except OSError as error:
            raise _broken(error) from error


def _broken(error: OSError) -> LinkBroken:
    if isinstance(error, TimeoutError):
        return LinkBroken(_SILENT)
    return LinkBroken(error.strerror or str(error))
