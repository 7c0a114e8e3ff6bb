"""What is left of libp2p: Noise and multistream-select, which secure a connection and agree on what its streams carry.
The only module that imports it. Its hosts and swarms are not used: which connections there are, and which of them
carries a stream, is decided in `connections_service`.

What a peer may do: send any bytes, stop, vanish, at any moment. What it cannot: connect under a peer id whose key it
does not hold (Noise is the only handshake offered), make anything raise past `contained`, or hold more than its share
of streams.
"""

import collections
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, cast

import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import TProtocol
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.protocol_muxer.multiselect import MULTISELECT_PROTOCOL_ID, Multiselect
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.exceptions import MuxedStreamEOF, MuxedStreamReset
from libp2p.utils import encode_delim, read_delim

from .handling import handle_protocol
from .identity import Identity, public_key_of
from .limits import Limits
from .port import Code, PeerId, Refusal, StreamBroken
from .secured_service import Secured, contained
from .tcp_service import Socket
from .yamux_service import YamuxConnection, YamuxStream

YAMUX_PROTOCOL: Final = TProtocol("/yamux/1.0.0")
READ_BYTES_MAX: Final = 65_536  # that libp2p's own protocols may ask of a stream at once
AGREE_S: Final = 10  # on what a stream carries

Handler = Callable[[PeerId, YamuxStream], Awaitable[None]]


class Upgraded:
    """A connection whose other side has proved who it is, with streams: `books_service.Established`.

    Args:
        accept: serves one stream that the other side opens, to its end.
    """

    def __init__(
        self, session: Any, peer: PeerId, streams_max: int, accept: Callable[[PeerId, YamuxStream], Awaitable[None]]
    ) -> None:
        self.peer = peer
        self._accept = accept
        self._connection = YamuxConnection(Secured(session), session.is_initiator, streams_max, self._take)
        self._nursery: trio.Nursery | None = None
        self.ended = self._connection.ended

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until the connection ends."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await nursery.start(self._connection.run)
            task_status.started()
            await self.ended.wait()
            nursery.cancel_scope.cancel()

    @property
    def rtt_s(self) -> float | None:
        return self._connection.mux.rtt_s

    @property
    def carried_bytes(self) -> int:
        return self._connection.mux.carried_bytes

    @property
    def is_at_rest(self) -> bool:
        return self._connection.is_at_rest

    @property
    def is_over(self) -> bool:
        return self._connection.mux.over is not None

    @property
    def stream_count(self) -> int:
        """Streams that either side has open."""
        return len(self._connection.mux.streams)

    def doubt(self) -> None:
        """Let the other side show soon that it is there."""
        self._connection.doubt()

    async def open_stream(self, protocol: str) -> YamuxStream | Refusal:
        """A stream that the other side's handler of `protocol` serves."""
        try:
            stream = self._connection.open_stream()
        except StreamBroken as error:
            return Refusal(Code.UNREACHABLE, f"the connection to {self.peer} is gone: {error}")
        agreed = None
        try:
            with trio.move_on_after(AGREE_S):
                agreed = await contained("opening a stream", partial(_select, _ReadWriter(stream), protocol))
        finally:
            if agreed is None:
                stream.reset()
        return stream if agreed else Refusal(Code.UNREACHABLE, f"{self.peer} opens no stream for {protocol}")

    def _take(self, stream: YamuxStream) -> None:
        if self._nursery is None:
            stream.reset()
        else:
            self._nursery.start_soon(self._accept, self.peer, stream)


class Upgrader:
    """Turns connected sockets into connections with peers.

    Args:
        admits: whether there is room for one more connection, with a peer that has just proved its id on that socket.
    """

    def __init__(self, identity: Identity, limits: Limits, admits: Callable[[PeerId, Socket], bool]) -> None:
        # It logs every refused peer as an error, with traceback.
        logging.getLogger("libp2p").setLevel(logging.CRITICAL)
        key_pair = create_new_key_pair(identity.seed)
        self._noise = NoiseTransport(key_pair, noise_privkey=create_noise_key_pair().private_key)
        self._handlers: dict[str, Handler] = {}
        self._protocols = Multiselect()
        self._streams_max = limits.streams_per_peer_max
        self._streams: collections.Counter[PeerId] = collections.Counter()
        self._admits = admits
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Drive connections until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None

    def handle(self, protocol: str, handler: Handler) -> None:
        """Hand over each stream that a peer opens for `protocol`; it is closed when the handler returns."""
        self._handlers[protocol] = handler
        self._protocols.add_handler(TProtocol(protocol), None)

    async def upgrade(self, socket: Socket, peer: PeerId | None, *, is_initiator: bool) -> Upgraded | None:
        """A connection over a fresh socket or circuit; None if that failed. Whoever calls this closes the socket.

        Args:
            peer: who must be there; None: anybody.
            is_initiator: who speaks first; of both sides one.
        """
        session = await contained("a handshake", lambda: self._secure(socket, peer, is_initiator))
        if session is None or self._nursery is None:
            return None
        connection = Upgraded(session, PeerId(str(session.get_remote_peer())), self._streams_max, self._serve)
        await self._nursery.start(connection.run)
        return connection

    async def prove(self, socket: Socket) -> PeerId | None:
        """Who is at the other end of a fresh socket. It can be used for nothing afterwards; whoever calls closes it."""
        session = await contained("a probe", lambda: self._ask_who(RawConnection(cast(Any, socket), True)))
        return None if session is None else PeerId(str(session.get_remote_peer()))

    async def _ask_who(self, raw: RawConnection) -> Any:
        await _select(raw, NOISE)
        return await self._noise.secure_outbound(raw, cast(Any, None))  # None: whoever it is

    async def _secure(self, socket: Socket, peer: PeerId | None, is_initiator: bool) -> Any:
        raw = RawConnection(cast(Any, socket), is_initiator)
        session: Any
        if is_initiator:
            assert peer is not None
            await _select(raw, NOISE)
            session = await self._noise.secure_outbound(raw, ID.from_base58(peer))
        else:
            await _agree(raw, NOISE)
            session = await self._noise.secure_inbound(raw)
        proved = PeerId(str(session.get_remote_peer()))
        if peer not in (None, proved):
            raise ConnectionRefusedError(f"{proved} where {peer} should be")
        # Ids of keys other than Ed25519 are no PeerId of ours.
        if public_key_of(proved) is None or not self._admits(proved, socket):
            raise ConnectionRefusedError(f"no further connection with {proved}")
        socket.trust()
        await (_select if is_initiator else _agree)(session, YAMUX_PROTOCOL)
        return session

    async def _serve(self, peer: PeerId, stream: YamuxStream) -> None:
        """One inbound stream, from its negotiation to its end."""
        if self._streams[peer] >= self._streams_max:
            stream.reset()
            return
        self._streams[peer] += 1
        protocol = None
        try:
            communicator = MultiselectCommunicator(cast(Any, _ReadWriter(stream)))
            chosen = await contained("a stream", lambda: self._protocols.negotiate(communicator, AGREE_S))
            protocol = chosen[0] if chosen else None
            if protocol is None:
                stream.reset()
            else:
                await handle_protocol(protocol, peer, stream, self._handlers[protocol])
                await stream.aclose()
        finally:
            self._streams[peer] -= 1
            if not self._streams[peer]:
                del self._streams[peer]


async def _select(read_writer: Any, protocol: str) -> bool:
    """Ask for a protocol, in one round trip: multistream-select's own greeting need not be waited for.

    Raises ConnectionRefusedError, and what libp2p raises on bad bytes.
    """
    await read_writer.write(encode_delim(MULTISELECT_PROTOCOL_ID.encode()) + encode_delim(protocol.encode()))
    for expected in (MULTISELECT_PROTOCOL_ID, protocol):
        said = await read_delim(read_writer)
        if said != expected.encode():
            raise ConnectionRefusedError(f"{said[:64]!r} where {expected} should be")
    return True


async def _agree(read_writer: Any, protocol: TProtocol) -> None:
    """Let the other side ask for it. Raises what libp2p raises."""
    await Multiselect({protocol: None}).negotiate(MultiselectCommunicator(read_writer), AGREE_S)


class _ReadWriter:
    """A `YamuxStream` as multistream-select wants a stream."""

    def __init__(self, stream: YamuxStream) -> None:
        self._stream = stream

    async def read(self, n: int | None = None) -> bytes:
        if n is not None and n > READ_BYTES_MAX:  # libp2p believes any length that a peer announces
            raise MuxedStreamReset(f"{n} bytes where {READ_BYTES_MAX} are allowed")
        try:
            data = await self._stream.receive_some(READ_BYTES_MAX if n is None or n < 0 else n)
        except StreamBroken as error:
            raise MuxedStreamReset(str(error)) from error
        if not data:
            raise MuxedStreamEOF
        return data

    async def write(self, data: bytes) -> None:
        try:
            await self._stream.send_all(data)
        except StreamBroken as error:
            raise MuxedStreamReset(str(error)) from error
