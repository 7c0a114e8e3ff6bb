"""The bulk plane: TLS connections beside libp2p's, which worker threads serve and fetch chunks by.

They come about where one of two peers has dialed the other and no relay is between them, at the same address and port.
Certificates and tokens are exchanged over the libp2p connection, which proves who is who, and last as long as that.
Where there is no such way, or it fails, chunks come by streams over libp2p, and it is tried again after a pause.

What a stranger may do: bulk_gate_service.py. What a peer may do: have CONNECTIONS_MAX (bulk_growth)
connections each way, of which each is a socket, a thread and less than 2 MiB; all peers together
`Limits.bulk_connections_max`.
"""

import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import cached_property, partial
from typing import Final

import trio

from .addresses import Endpoint
from .blob_stream import ChunkSource, OpenSource, rpc_stream
from .blobs import Manifest
from .books_service import Books
from .bulk_fetching_service import Fetcher, open_bulk_source
from .bulk_gate_service import Gate
from .bulk_growth import CONNECTIONS_MAX
from .bulk_link_service import Link, Tls, receive_byte, send_byte, shake_hands, tls_of
from .bulk_messages import COME, FETCHES, MEET, SERVES, Come, Coming, Meet, Met
from .bulk_peer_service import Files, Peer
from .bulk_pool_service import Pool
from .bulk_serving_service import Pace, Server
from .credentials_service import Credentials
from .limits import Limits
from .opening_service import open_socket
from .port import Code, PeerId, Refusal
from .service import CallService
from .tcp_service import Counter, Socket
from .wire import Malformed

_log = logging.getLogger(__name__)

WAIT_S: Final = 0.5  # for the first connection to a peer, before chunks are asked for by streams
OPEN_S: Final = 10.0  # for a connection to stand
ASK_S: Final = 10.0
BULK_BYTES_MIN: Final = 2**20  # of a smaller blob a handshake is no small part
PAUSE_S: Final = 2.0  # after the first failure with a peer; then twice as long, and so on
PAUSE_S_MAX: Final = 600.0
WATCH_S: Final = 0.25  # how often rates are looked at
BACKLOG_BYTES: Final = (
    256 * 1024
)  # of one connection that wait in the system: they go out whether they are still wanted or not
PROVEN_BYTES: Final = 2**21  # in WATCH_S: what failed before does not count


class BulkPlane:
    """A host's. Between `run` and its end; chunks are served from `attach` on."""

    def __init__(self, limits: Limits, calls: CallService, books: Books, total: Counter) -> None:
        self._limits = limits
        self._calls = calls
        self._books = books
        self._total = total
        self._carried = Counter()
        self._gate = Gate()
        self._peers: dict[PeerId, Peer] = {}
        self._threads = trio.CapacityLimiter(max(1, limits.bulk_connections_max))
        self._nursery: trio.Nursery | None = None
        self._files: Files | None = None
        self._pace: Pace | None = None

    @cached_property
    def _credentials(self) -> Credentials:
        return Credentials()

    def attach(self, files: Files, pace: Pace) -> OpenSource:
        """Serve these from now on, and fetch into them: where chunks come from."""
        self._files, self._pace = files, pace
        self._calls.serve(MEET, self._serve_meet)
        self._calls.serve(COME, self._serve_come)
        return self._open_source

    def prepare(self, peer: PeerId, size: int) -> None:
        """Have a connection with a peer of which a blob of so many bytes may soon be asked, where one pays."""
        if size >= BULK_BYTES_MIN:
            self._open_soon(peer, self._known(peer))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled; then all connections are ended."""
        self._call_soon = trio.lowlevel.current_trio_token().run_sync_soon
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                await self._watch()
        finally:
            self._nursery = None
            for peer in list(self._peers):
                self.left(peer)

    def is_busy(self, peer: PeerId) -> bool:
        """Whether chunks come from a peer, or go there."""
        known = self._peers.get(peer)
        return known is not None and (known.pool.is_busy or any(link.is_carrying for link in known.serving))

    def left(self, peer: PeerId) -> None:
        """The last connection of libp2p's with a peer is gone: nothing vouches for these any more."""
        known = self._peers.pop(peer, None)
        if known is not None:
            self._gate.forget(peer)
            known.pool.close()
            for link in known.serving:
                link.abort()

    def traffic(self, peer: PeerId | None = None) -> Counter:
        """Bytes of one peer's connections while it is connected, or of all since the start."""
        known = list(self._peers.values()) if peer is None else [each for each in [self._peers.get(peer)] if each]
        before = self._carried if peer is None else known[0].carried if known else Counter()
        links = [link for each in known for link in each.links]
        sent, received = (link.bytes_sent for link in links), (link.bytes_received for link in links)
        return Counter(before.bytes_sent + sum(sent), before.bytes_received + sum(received))

    def describe(self, peer: PeerId) -> tuple[str, float]:
        """How chunks come from a peer, for people, and how many bytes of them a second when last some came."""
        known = self._peers.get(peer)
        if known is None:
            return "", 0.0
        count = known.pool.count
        way = f"TLS, {count} connection{'s' * (count > 1)}" if count else "streams"
        return way + (known.note and f": {known.note}"), known.rate

    # The handshake of those who dial --------------------------------------------------------------------------------

    async def admit(self, socket: Socket, remote: Endpoint) -> None:
        """Somebody begins TLS at a listening port. Raises ConnectionResetError."""
        proven = await self._gate.prove(socket, remote)
        known = None if isinstance(proven, str) else self._peers.get(proven[0])
        if isinstance(proven, str) or known is None:
            _log.debug("no bulk connection with %s: %s", remote.address, proven)
            return
        tls = proven[1]
        role = await receive_byte(socket, tls)
        if role == FETCHES and self._may_serve(known):
            known.promised += 1
            try:
                await send_byte(socket, tls, SERVES)
            finally:
                known.promised -= 1
            self._serve_by(known, socket, tls)
        elif role == SERVES and known.awaited and self._has_room:
            known.awaited -= 1
            self._fetch_by(known, Link(socket.detach(), tls), is_ready=True)

    @property
    def _has_room(self) -> bool:
        places = sum(len(each.links) + each.promised for each in self._peers.values())
        return places < self._limits.bulk_connections_max and self._threads.available_tokens > 0

    def _may_serve(self, known: Peer) -> bool:
        """A quarter of all places is left for what this node fetches."""
        places = sum(len(each.serving) + each.promised for each in self._peers.values())
        is_fair = places < max(self._limits.bulk_connections_max * 3 // 4, 1)
        return is_fair and len(known.serving) + known.promised < CONNECTIONS_MAX and self._has_room

    # Words over libp2p ----------------------------------------------------------------------------------------------

    def _known(self, peer: PeerId) -> Peer:
        known = self._peers.get(peer)
        if known is None:
            assert self._files is not None
            known = Peer(Pool(self._files.write_chunk, self._call_soon))
            if peer in self._books:
                self._peers[peer] = known
            else:
                known.pool.close()
        return known

    async def _serve_meet(self, peer: PeerId, request: Meet) -> Met | Refusal:
        known = self._known(peer)
        if not known.meetings.take(trio.current_time()):
            return Refusal(Code.BUSY, "met too often")
        refusal = await self._pin(peer, known, request.certificate)
        return refusal or Met(self._credentials.certificate, known.own_token)

    async def _pin(self, peer: PeerId, known: Peer, certificate: bytes) -> Refusal | None:
        """Know a peer's certificate from now on; or why not."""
        if certificate == known.certificate:
            return None
        try:
            contexts = await trio.to_thread.run_sync(self._credentials.contexts, certificate)
        except OSError as error:
            _log.error("no TLS with %s: its own key can't be read from a file: %s", peer, error)
            return Refusal(Code.INTERNAL, "this node's disk failed")
        if isinstance(contexts, Malformed):
            return Refusal(Code.MALFORMED, "that is no certificate to trust")
        known.certificate, (accepting, known.dialing) = certificate, contexts
        if self._peers.get(peer) is known:
            known.own_token = self._gate.expect(peer, certificate, accepting)
        return None

    async def _serve_come(self, peer: PeerId, request: Come) -> Coming | Refusal:
        known, where = self._peers.get(peer), self._books.dialable(peer)
        if known is None or known.dialing is None or where is None:
            return Refusal(Code.REFUSED, "this node has not dialed you, or has not met you")
        if not self._may_serve(known):
            return Refusal(Code.BUSY, "too many bulk connections")
        dialed: tuple[Socket, Tls] | str = f"no answer for {OPEN_S:g} s"
        known.promised += 1
        try:
            with trio.move_on_after(OPEN_S):
                dialed = await self._dial(known, where, request.token, SERVES)
        finally:
            known.promised -= 1
        if isinstance(dialed, str):
            return Refusal(Code.UNREACHABLE, dialed)
        self._serve_by(known, *dialed)
        return Coming()

    # Connections that this side wants -------------------------------------------------------------------------------

    @asynccontextmanager
    async def _open_source(self, peer: PeerId, digest: bytes, manifest: Manifest) -> AsyncGenerator[ChunkSource]:
        open_rpc = partial(rpc_stream, self._calls, peer, digest, manifest)
        known, is_large = self._known(peer), manifest.size >= BULK_BYTES_MIN
        known.sources += is_large
        try:
            if known.sources:
                self._open_soon(peer, known)
            if known.opening is not None and not known.pool.count:
                with trio.move_on_after(WAIT_S):  # or megabytes go by the slow way
                    await known.opening.wait()
            async with open_bulk_source(known.pool, open_rpc, digest, manifest) as source:
                yield source
        finally:
            known.sources -= is_large

    def _open_soon(self, peer: PeerId, known: Peer) -> None:
        missing = known.pool.count < known.growth.wanted
        if missing and known.opening is None and trio.current_time() >= known.again_at and self._nursery is not None:
            known.opening = trio.Event()
            self._nursery.start_soon(self._open, peer, known, known.opening)

    async def _open(self, peer: PeerId, known: Peer, opened: trio.Event) -> None:
        """One more connection on which this side fetches, if there is a way."""
        problem = f"no answer for {OPEN_S:g} s"
        try:
            with trio.move_on_after(OPEN_S):
                problem = await self._try(peer, known)
        finally:
            known.opening = None
            opened.set()
        if problem:
            _log.info("chunks from %s come by streams: %s", peer, problem)
            self._failed(known, problem)
        elif known.sources:
            self._open_soon(peer, known)

    async def _try(self, peer: PeerId, known: Peer) -> str:
        where = self._books.dialable(peer)
        if where is None and not self._books.was_dialed_by(peer):
            return "there is a relay between us, or a hole was punched"
        if not self._has_room:
            return "as many bulk connections as may be"
        if not known.their_token:
            met = await self._calls.request(peer, MEET, Meet(self._credentials.certificate), timeout_s=ASK_S)
            if isinstance(met, Refusal):
                return met.message
            refusal = await self._pin(peer, known, met.certificate)
            if refusal is not None:
                return refusal.message
            known.their_token = met.token
        if where is None:
            known.awaited = min(known.awaited + 1, CONNECTIONS_MAX)
            came = await self._calls.request(peer, COME, Come(known.own_token), timeout_s=ASK_S)
            known.again_at = trio.current_time() + PAUSE_S  # it says that it comes, and may not
            return came.message if isinstance(came, Refusal) else ""
        dialed = await self._dial(known, where, known.their_token, FETCHES)
        if isinstance(dialed, str):
            known.their_token = ""  # met anew the next time: it may have changed
            return dialed
        self._fetch_by(known, Link(dialed[0].detach(), dialed[1]), is_ready=False)
        return ""

    async def _dial(self, known: Peer, where: Endpoint, token: str, role: bytes) -> tuple[Socket, Tls] | str:
        """A connection on which both sides have proved who they are, and this one has said what it is for."""
        socket = await open_socket(where, self._total)
        if isinstance(socket, Refusal):
            return socket.message
        assert known.dialing is not None
        tls, is_done = tls_of(known.dialing, is_server=False, server_name=token), False
        try:
            problem = await shake_hands(socket, tls)
            if not problem and tls.session.getpeercert(binary_form=True) != known.certificate:
                problem = "another certificate than was named"
            if not problem:
                await send_byte(socket, tls, role)
                is_done = True
        except ConnectionResetError as error:
            problem = str(error)
        finally:
            if not is_done:
                socket.abort()
        return problem or (socket, tls)

    # Threads --------------------------------------------------------------------------------------------------------

    def _serve_by(self, known: Peer, socket: Socket, tls: Tls) -> None:
        if known.pool.is_closed:
            socket.abort()
            return
        assert self._files is not None
        assert self._pace is not None
        socket.bound_backlog(BACKLOG_BYTES)
        link = Link(socket.detach(), tls)
        known.serving.append(link)
        server = Server(known, link, self._files.read_chunk_into, self._pace)
        self._start(known, link, server.run)

    def _fetch_by(self, known: Peer, link: Link, *, is_ready: bool) -> None:
        if known.pool.join(link):
            known.note = ""
            fetcher = Fetcher(link, known.pool, is_ready=is_ready)
            self._start(known, link, partial(fetcher.run, time.monotonic))
        else:
            link.close()

    def _start(self, known: Peer, link: Link, run: Callable[[], str]) -> None:
        assert self._nursery is not None
        known.links.append(link)
        self._nursery.start_soon(self._run_thread, known, link, run)

    async def _run_thread(self, known: Peer, link: Link, run: Callable[[], str]) -> None:
        """Have a thread use a connection until it ends."""

        def use() -> str:
            try:
                return run()
            finally:
                link.close()

        reason = "stopped"
        try:
            reason = await trio.to_thread.run_sync(use, abandon_on_cancel=True, limiter=self._threads)
        finally:
            link.abort()
            known.links.remove(link)
            for own in (known.carried, self._carried):
                own.bytes_sent += link.bytes_sent
                own.bytes_received += link.bytes_received
        if link in known.serving:
            known.serving.remove(link)
        elif reason != "done":
            known.growth.broke(known.pool.count)
            self._failed(known, reason)

    def _failed(self, known: Peer, reason: str) -> None:
        known.note = reason
        known.again_at = trio.current_time() + min(PAUSE_S * 2**known.failures, PAUSE_S_MAX)
        known.failures = min(known.failures + 1, 20)

    async def _watch(self) -> None:
        """Look at rates; open connections where they pay or are missing."""
        while True:
            await trio.sleep(WATCH_S)
            now = trio.current_time()
            for peer, known in self._peers.items():
                pool, received = known.pool, known.pool.bytes_received
                fresh, known.seen_bytes = received - known.seen_bytes, received
                streamed, pool.bytes_streamed = pool.bytes_streamed, 0
                if fresh or streamed:
                    known.rate = (fresh + streamed) / WATCH_S
                    known.failures = 0 if fresh >= PROVEN_BYTES else known.failures
                was_dry = pool.was_dry()
                if fresh and not was_dry and pool.count == known.growth.wanted:
                    known.growth.measured(known.rate, now)
                pool.wanted = known.growth.wanted
                if known.sources:
                    self._open_soon(peer, known)
