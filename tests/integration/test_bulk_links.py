"""One bulk connection over a pair of sockets, whose other end sends as slowly as it may."""

import itertools
import socket
import ssl
import threading
import time
from collections.abc import Callable, Generator
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from dataclasses import dataclass, field

import pytest

from shoal.transport.blob_stream import ALIVE_S, RpcSource
from shoal.transport.blobs import CHUNK_BYTES, ChunkHasher, Manifest, parse_manifest
from shoal.transport.bulk_fetching_service import CHUNK_S, LATER_S, BulkSource, Fetcher
from shoal.transport.bulk_link_service import Link, LinkBroken, Tls, tls_of
from shoal.transport.bulk_messages import (
    CHUNK,
    FORGET,
    HEAD_BYTES,
    LATER,
    REFUSED,
    REQUEST_BYTES,
    WANT,
    Head,
    Request,
    parse_request,
    write_head,
)
from shoal.transport.bulk_pool_service import Job, Pool
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


@dataclass
class Fetching:
    """A pool, and jobs of its for the chunks of a blob of zeros."""

    told: list[object] = field(default_factory=list[object])  # what the event loop is to be called with
    chunks: int = 2
    pool: Pool = field(init=False)
    jobs: list[Job] = field(init=False)

    def __post_init__(self) -> None:
        hasher = ChunkHasher()
        for _ in range(self.chunks):
            hasher.update(bytes(CHUNK_BYTES))
        ref, manifest_data = hasher.finish()
        manifest = parse_manifest(manifest_data, ref.digest)
        assert isinstance(manifest, Manifest)
        self.pool = Pool(lambda digest, index, pieces: True, self.call_soon)
        source = BulkSource(self.pool, self.open_rpc, ref.digest, manifest)
        self.jobs = [Job(source, ref.digest, index, CHUNK_BYTES) for index in range(self.chunks)]

    def open_rpc(self) -> AbstractAsyncContextManager[RpcSource]:
        raise AssertionError("nothing goes by streams here")

    def call_soon(self, function: Callable[..., None], *arguments: object) -> None:
        del function
        self.told.extend(arguments)

    def is_told(self, what: object) -> bool:
        """Whether it is, within five seconds."""
        until = time.monotonic() + 5
        while what not in self.told and time.monotonic() < until:
            time.sleep(0.01)
        return what in self.told


def part(index: int, size: int) -> bytes:
    head = bytearray(HEAD_BYTES)
    write_head(head, 0, Head(CHUNK, index, size))
    return bytes(head) + bytes(size)


def heard(other: socket.socket, tls: Tls, count: int) -> list[Request]:
    """The next requests."""
    other.settimeout(SILENT_S)
    data = b""
    while len(data) < count * REQUEST_BYTES:
        try:
            data += tls.session.read(count * REQUEST_BYTES - len(data))
        except ssl.SSLWantReadError:
            tls.incoming.write(other.recv(2**16))
    requests = [parse_request(data[at : at + REQUEST_BYTES]) for at in range(0, len(data), REQUEST_BYTES)]
    return [request for request in requests if isinstance(request, Request)]


def told(kind: int, index: int) -> bytes:
    head = bytearray(HEAD_BYTES)
    write_head(head, 0, Head(kind, index, 0))
    return bytes(head)


def test_in_the_middle_of_a_chunk_more_is_asked_for_and_what_nobody_wants_any_more_is_forgotten() -> None:
    fetching = Fetching()
    pool, (first, second) = fetching.pool, fetching.jobs
    with pair() as (link, other, tls):
        assert pool.join(link)
        assert pool.put(first)
        fetcher = threading.Thread(target=lambda: Fetcher(link, pool, is_ready=True).run(time.monotonic))
        fetcher.start()
        try:
            assert heard(other, tls, 1) == [Request(WANT, first.digest, 0)]
            assert pool.put(second)
            other.sendall(sealed(tls, part(0, 1000)))
            assert heard(other, tls, 1) == [Request(WANT, first.digest, 1)]
            pool.forget([first])
            other.sendall(sealed(tls, part(0, 1000)))
            assert heard(other, tls, 1) == [Request(FORGET, first.digest, 0)]
            other.sendall(sealed(tls, told(REFUSED, 0) + part(1, CHUNK_BYTES)))
            assert fetching.is_told(second)
        finally:
            pool.close()
            fetcher.join()
    assert fetching.told[-2:] == [second, True]


def test_who_is_told_that_it_is_not_its_turn_waits_and_says_what_it_wants_no_more() -> None:
    fetching = Fetching()
    pool, (first, second) = fetching.pool, fetching.jobs
    with pair() as (link, other, tls):
        assert pool.join(link)
        assert pool.put(first)
        assert pool.put(second)
        fetcher = threading.Thread(target=lambda: Fetcher(link, pool, is_ready=True).run(time.monotonic))
        fetcher.start()
        try:
            assert heard(other, tls, 1) == [Request(WANT, first.digest, 0, 2)]
            pool.forget([first])
            other.sendall(sealed(tls, told(LATER, 0)))
            assert heard(other, tls, 1) == [Request(FORGET, first.digest, 0)]
            other.sendall(sealed(tls, told(REFUSED, 0) + told(LATER, 1) + part(1, CHUNK_BYTES)))
            assert fetching.is_told(second)
        finally:
            pool.close()
            fetcher.join()
    assert fetching.told[-2:] == [second, True]


def test_a_chunk_whose_turn_does_not_come_ends_the_connection() -> None:
    fetching = Fetching(chunks=1)
    pool, (job,) = fetching.pool, fetching.jobs
    with pair() as (link, other, tls):
        assert pool.join(link)
        assert pool.put(job)
        other.send(sealed(tls, told(LATER, 0) * 9))
        clock = itertools.count(0.0, LATER_S / 3)
        reason = Fetcher(link, pool, is_ready=True).run(lambda: next(clock))
    assert reason == f"it was not the turn of a chunk for {LATER_S:g} s"
    assert fetching.told == [job] * 4  # three times that it waits, and that it falls back


def test_of_connections_that_wait_the_first_takes_what_there_is() -> None:
    """And so is not slow again after a pause each time, as all would be."""
    fetching = Fetching()
    pool, (job, _) = fetching.pool, fetching.jobs
    took: list[Link] = []
    with pair() as (one, *_), pair() as (other, *_):
        pool.wanted = 2
        assert pool.join(one)
        assert pool.join(other)

        def take(link: Link) -> None:
            while (jobs := pool.next(link, 4, may_wait=True)) is not None:
                took.extend([link] * len(jobs))

        threads = [threading.Thread(target=take, args=(link,)) for link in (other, one)]
        for thread in threads:
            thread.start()
        for number in range(1, 50):
            time.sleep(0.005)
            assert pool.put(job)
            wait_until = time.monotonic() + 5
            while len(took) < number and time.monotonic() < wait_until:
                time.sleep(0.001)
        pool.close()
        for thread in threads:
            thread.join()
    assert took == [one] * 49


def test_a_chunk_that_drips_ends_the_connection_and_is_gone_on_with_elsewhere() -> None:
    fetching = Fetching(chunks=1)
    pool, (job,) = fetching.pool, fetching.jobs
    with pair() as (link, other, tls):
        assert pool.join(link)
        assert pool.put(job)
        head = bytearray(HEAD_BYTES)
        write_head(head, 0, Head(CHUNK, 0, CHUNK_BYTES))
        other.send(sealed(tls, bytes(head) + b"drip"))
        clock = itertools.count(0.0, CHUNK_S + 1)  # as if each look were half a minute after the one before
        assert Fetcher(link, pool, is_ready=True).run(lambda: next(clock)) == "a chunk comes at less than 4096 bytes/s"
    assert fetching.told == [job]
    assert job.buffer is not None
    assert (job.filled, bytes(job.buffer[: job.filled])) == (4, b"drip")


@pytest.mark.parametrize("bytes_per_s", [3_000, 10_000])
def test_a_chunk_may_come_slowly_but_not_too_slowly(bytes_per_s: int) -> None:
    fetching, reasons = Fetching(chunks=1), list[str]()
    pool, (job,) = fetching.pool, fetching.jobs
    with pair() as (link, other, tls):
        assert pool.join(link)
        assert pool.put(job)
        fetcher = Fetcher(link, pool, is_ready=True)
        thread = threading.Thread(target=lambda: reasons.append(fetcher.run(lambda: job.filled / bytes_per_s)))
        thread.start()
        other.settimeout(30 if bytes_per_s == 10_000 else SILENT_S)
        with suppress(TimeoutError):  # of what is too slow nobody reads the rest
            other.sendall(sealed(tls, part(0, CHUNK_BYTES // 4) * 4))
        assert fetching.is_told(True if bytes_per_s == 10_000 else job)
        pool.close()
        thread.join()
    if bytes_per_s == 10_000:
        words = int(CHUNK_BYTES / bytes_per_s / ALIVE_S)
        assert fetching.told[-2:] == [job, True]
        assert words / 4 < fetching.told[:-2].count(job) <= words
    else:
        assert reasons == ["a chunk comes at less than 4096 bytes/s"]
        assert CHUNK_BYTES / 4 < job.filled < CHUNK_BYTES
