"""Who begins TLS at a listening port, and whether that is the peer whose certificate was pinned.

What a stranger may do: begin a handshake. Without a token that was handed out it ends at its first message, which
nobody reads but for the token; as many are waited for at once as `Connections` admits. Nothing of it takes a thread.
Who has seen a token go by on the wire gets as far as showing a certificate, and no further: HANDSHAKES_PER_S from each
range of addresses.
"""

import secrets
import ssl
from typing import Final, NamedTuple

import trio

from .addresses import Endpoint, ranges_of
from .bulk_link_service import Tls, shake_hands, tls_of
from .bulk_messages import RECORD_HEAD_BYTES, TOKEN_CHARS, hello_bytes, token_of
from .credentials_service import bare_context
from .port import PeerId
from .tcp_service import Socket
from .token_bucket import TokenBucket
from .wire import Malformed

HANDSHAKES_PER_S: Final = 8.0  # from one range of addresses: members behind one router, four connections each
HANDSHAKES_BURST: Final = 128
RANGES_MAX: Final = 1024  # of addresses, whose handshakes are remembered


class _Expected(NamedTuple):
    peer: PeerId
    certificate: bytes
    context: ssl.SSLContext  # that trusts this certificate


class Gate:
    """Of one node."""

    def __init__(self) -> None:
        self._greeting = bare_context(ssl.PROTOCOL_TLS_SERVER)
        self._greeting.sni_callback = self._choose
        self._expected: dict[str, _Expected] = {}  # by token
        self._buckets: dict[str, TokenBucket] = {}

    def expect(self, peer: PeerId, certificate: bytes, context: ssl.SSLContext) -> str:
        """Let a peer in that shows this certificate, DER, and the token that is returned; no other of its own."""
        self.forget(peer)
        token = secrets.token_hex(TOKEN_CHARS // 2)
        self._expected[token] = _Expected(peer, certificate, context)
        return token

    def forget(self, peer: PeerId) -> None:
        """Let it in no more."""
        self._expected = {token: each for token, each in self._expected.items() if each.peer != peer}

    async def prove(self, socket: Socket, remote: Endpoint) -> tuple[PeerId, Tls] | str:
        """Shake hands with whoever begins it: with whom; or why not. Raises ConnectionResetError."""
        # OpenSSL is spared what strangers send; and for a name that is not ASCII, `ssl` writes a traceback.
        head = await socket.read(RECORD_HEAD_BYTES)
        length = hello_bytes(head)
        hello = b"" if isinstance(length, Malformed) else head + await socket.read(length)
        if token_of(hello) not in self._expected:
            return "no token that was handed out"
        if not self._may_try(remote):
            return "too many handshakes from there"
        tls = tls_of(self._greeting, is_server=True)
        tls.incoming.write(hello)
        problem = await shake_hands(socket, tls)
        if problem:
            return problem
        shown = tls.session.getpeercert(binary_form=True)
        for each in self._expected.values():
            if tls.session.context is each.context and shown == each.certificate:
                return each.peer, tls
        return "nobody who is expected"

    def _choose(self, session: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext) -> int | None:
        """Whose certificate must come, by the token that is shown."""
        expected = self._expected.get(name or "")
        if expected is None:
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        session.context = expected.context
        return None

    def _may_try(self, remote: Endpoint) -> bool:
        ranges = ranges_of(remote.address)
        key, now = remote.host if ranges is None else ranges.narrow, trio.current_time()
        if key not in self._buckets and len(self._buckets) >= RANGES_MAX:
            self._buckets = {each: bucket for each, bucket in self._buckets.items() if not bucket.is_full(now)}
            if len(self._buckets) >= RANGES_MAX:
                return False
        return self._buckets.setdefault(key, TokenBucket(HANDSHAKES_PER_S, HANDSHAKES_BURST)).take(now)
