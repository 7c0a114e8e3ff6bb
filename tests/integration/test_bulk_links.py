"""One bulk connection over a pair of sockets, whose other end sends as slowly as it may."""

import itertools
import socket
import ssl
import threading
from collections.abc import Callable, Generator
from contextlib import AbstractAsyncContextManager, contextmanager, suppress

import pytest

from shoal.transport.blob_stream import RpcSource
from shoal.transport.blobs import CHUNK_BYTES, ChunkHasher, Manifest, parse_manifest
from shoal.transport.bulk_fetching_service import CHUNK_S, BulkSource, Fetcher, Job, Pool
from shoal.transport.bulk_link_service import Link, LinkBroken, Tls, tls_of
from shoal.transport.bulk_messages import CHUNK, HEAD_BYTES, Head, write_head
from shoal.transport.credentials_service import Credentials
from shoal.transport.wire import Malformed

SILENT_S = 0.4


def shaken() -> tuple[Tls, Tls]:
    """Who dialed, and who accepted."""
    one, other = Credentials(), Credentials()
    of_one, of_other = one.contexts(other.certificate), other.contexts(one.certificate)
    assert not isinstance(of_one, Malformed)
    assert not isinstance(of_other, Malformed)
    ends = tls_of(of_one[1], is_server=False, server_name="x"), tls_of(of_other[0], is_server=True)
    for _ in range(3):
        for here, there in (ends, ends[::-1]):
            with suppress(ssl.SSLWantReadError):
                here.session.do_handshake()
            there.incoming.write(here.outgoing.read())
    return ends


@contextmanager
def pair() -> Generator[tuple[Link, socket.socket, Tls]]:
    """A link, and what is behind its other end."""
    one, other = socket.socketpair()
    dialed, accepted = shaken()
    link = Link(one, dialed)
    with other:
        yield link, other, accepted
    link.close()


def sealed(tls: Tls, data: bytes) -> bytes:
    tls.session.write(data)
    return tls.outgoing.read()


def test_crumbs_of_a_record_do_not_count_as_bytes() -> None:
    with pair() as (link, other, tls):
        record, is_over = sealed(tls, bytes(16_000)), threading.Event()

        def crumble() -> None:
            for at in range(len(record) - 1):
                with suppress(OSError):
                    other.send(record[at : at + 1])
                if is_over.wait(SILENT_S / 8):
                    return

        thread = threading.Thread(target=crumble)
        thread.start()
        try:
            with pytest.raises(LinkBroken, match="kept silent"):
                link.receive_some(memoryview(bytearray(10)), SILENT_S)
        finally:
            is_over.set()
            thread.join()
        assert 2 < link.bytes_received < 12


def test_a_chunk_that_drips_ends_the_connection_and_is_gone_on_with_elsewhere() -> None:
    hasher = ChunkHasher()
    hasher.update(bytes(CHUNK_BYTES))
    ref, manifest_data = hasher.finish()
    manifest = parse_manifest(manifest_data, ref.digest)
    assert isinstance(manifest, Manifest)

    def open_rpc() -> AbstractAsyncContextManager[RpcSource]:
        raise AssertionError("nothing goes by streams here")

    left: list[object] = []

    def call_soon(function: Callable[..., None], *arguments: object) -> None:
        del function
        left.extend(arguments)

    pool = Pool(lambda digest, index, pieces: True, call_soon)
    with pair() as (link, other, tls):
        assert pool.join(link)
        job = Job(BulkSource(pool, open_rpc, ref.digest, manifest), ref.digest, 0, CHUNK_BYTES)
        assert pool.put(job)
        head = bytearray(HEAD_BYTES)
        write_head(head, 0, Head(CHUNK, 0, CHUNK_BYTES))
        other.send(sealed(tls, bytes(head) + b"drip"))
        clock = itertools.count(0.0, CHUNK_S + 1)  # as if each look were half a minute after the one before
        assert Fetcher(link, pool, is_ready=True).run(lambda: next(clock)) == f"a chunk takes more than {CHUNK_S:g} s"
    assert left == [job]
    assert job.buffer is not None
    assert (job.filled, bytes(job.buffer[: job.filled])) == (4, b"drip")
