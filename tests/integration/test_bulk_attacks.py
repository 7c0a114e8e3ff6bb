"""What strangers and peers may do by way of bulk connections, and what it costs: time, threads, sockets, bytes."""

import datetime
import random
import shutil
import ssl
import subprocess
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID, ObjectIdentifier

from shoal.node.node import rss_mb
from shoal.transport.blobs import HASH_BYTES, RUN_CHUNKS_MAX, BlobRef, Manifest, parse_manifest
from shoal.transport.bulk_gate_service import HANDSHAKES_BURST
from shoal.transport.bulk_growth import CONNECTIONS_MAX
from shoal.transport.bulk_link_service import SILENT_S, tls_of
from shoal.transport.bulk_messages import (
    BYE,
    CERTIFICATE_BYTES_MAX,
    CHUNK,
    FAREWELL,
    FETCHES,
    FORGET,
    HEAD_BYTES,
    LATER,
    MEET,
    REFUSED,
    REQUEST_BYTES,
    SERVES,
    TOKEN_CHARS,
    WANT,
    Head,
    Meet,
    Met,
    Request,
    parse_head,
    parse_request,
    write_head,
)
from shoal.transport.bulk_peer_service import MEETINGS_BURST
from shoal.transport.bulk_serving_service import WANTS_MAX
from shoal.transport.connections_service import HANDSHAKES_MAX
from shoal.transport.credentials_service import Credentials
from shoal.transport.port import Code, Refusal
from shoal.transport.upload_service import Uploads
from shoal.transport.wire import Malformed
from tests.integration.bulk_peers import (
    BROKEN,
    MIB,
    PATIENCE_S,
    TOKEN,
    Intruder,
    Serve,
    TlsStream,
    Villain,
    at,
    bulk_threads,
    connect,
    content,
    front_of,
    open_intruder,
    open_node,
    open_tcp,
    open_villain,
    port_of,
    read_to_end,
    until,
)

RATE = at(16 * MIB)  # of honest holders, so that others are asked as well


def hello(token: str) -> bytes:
    """What TLS begins with, to a server of this name."""
    credentials = Credentials()
    contexts = credentials.contexts(credentials.certificate)
    assert not isinstance(contexts, Malformed)
    tls = tls_of(contexts[1], is_server=False, server_name=token)
    with suppress(ssl.SSLWantReadError):
        tls.session.do_handshake()
    return tls.outgoing.read()


async def is_served(tls: TlsStream) -> bool:
    """Whether who fetches by this connection is answered."""
    with suppress(*BROKEN):
        await tls.send_all(FETCHES)
        return await tls.receive_some(1) == SERVES
    return False


async def is_let_in(dialed: Callable[[], Awaitable[TlsStream]]) -> bool:
    with suppress(*BROKEN):
        tls = await dialed()
        try:
            return await is_served(tls)
        finally:
            await trio.aclose_forcefully(tls)
    return False


def established(port: int) -> int:
    """Connections that stand at a listening port of this machine."""
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1].endswith(f":{port:04X}") and row[3] == "01" for row in rows)


# Strangers


async def test_without_a_token_the_handshake_ends_at_its_first_message(tmp_path: Path) -> None:
    async with open_node(1, tmp_path) as node:
        for shown in (hello("0" * TOKEN_CHARS), hello("example.org"), hello("0" * TOKEN_CHARS)[:5] + bytes(512)):
            async with await open_tcp(port_of(node.address)) as stream:
                await stream.send_all(shown)
                with trio.fail_after(2.0):
                    assert await read_to_end(stream.receive_some) == b""  # no certificate: nothing was signed
        assert bulk_threads() == 0


async def test_a_name_that_is_no_text_leaves_no_trace(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """`ssl` writes a traceback for it, past all logging."""
    async with open_node(1, tmp_path) as node:
        for odd in (b"\xff" * TOKEN_CHARS, b"\x00" * TOKEN_CHARS, b"\x1b[2J" * (TOKEN_CHARS // 4)):
            shown = hello("0" * TOKEN_CHARS).replace(b"0" * TOKEN_CHARS, odd)
            async with await open_tcp(port_of(node.address)) as stream:
                await stream.send_all(shown)
                with trio.fail_after(2.0):
                    await read_to_end(stream.receive_some)
    assert capfd.readouterr().err == ""


async def test_the_right_token_is_of_no_use_without_the_key_that_was_pinned_with_it(tmp_path: Path) -> None:
    """Tokens go over the wire as server names: whoever is on the way sees them."""
    async with open_node(1, tmp_path) as node, open_intruder(2, node) as peer, open_intruder(3, node) as other:
        met, met_other = await peer.meet(), await other.meet()
        assert not await is_let_in(lambda: peer.dial(met, Credentials()))  # a certificate of nobody's
        assert not await is_let_in(lambda: other.dial(met))  # one that is pinned, for another peer
        assert not await is_let_in(lambda: peer.dial(met_other))
        assert bulk_threads() == 0
        assert await is_let_in(lambda: peer.dial(met))
        assert await is_let_in(lambda: other.dial(met_other))


async def test_a_token_is_worth_nothing_once_its_peer_has_left_or_has_met_anew(tmp_path: Path) -> None:
    async with open_node(1, tmp_path) as node, open_intruder(9, node) as witness:
        seen_by_witness = await witness.meet()
        async with open_intruder(2, node) as peer:
            first, former = await peer.meet(), peer.credentials
            peer.credentials = Credentials()
            second = await peer.meet()
            assert first.token != second.token
            assert not await is_let_in(lambda: peer.dial(first, former))
            assert await is_let_in(lambda: peer.dial(second))
            gone = peer
        await until(lambda: len(node.host.connections()) == 1)
        assert not await is_let_in(lambda: gone.dial(second))
        assert await is_let_in(lambda: witness.dial(seen_by_witness))


async def test_a_thousand_half_open_sockets_hold_up_no_fetch_and_take_no_threads(tmp_path: Path) -> None:
    half = hello(TOKEN)
    async with (
        open_node(1, tmp_path, uploads=at(24 * MIB)) as holder,
        open_node(2, tmp_path) as fetcher,
        trio.open_nursery() as nursery,
    ):
        await connect(fetcher, holder.address)
        data = [content(16, seed) for seed in range(2)]
        refs = [await holder.put(each) for each in data]
        before_mb, chance = rss_mb(), random.Random(1)
        port, opened, threads_most = port_of(holder.address), 0, 0

        async def half_open() -> None:
            nonlocal opened
            with suppress(*BROKEN):
                async with await open_tcp(port, f"127.0.0.{chance.randrange(2, 200)}") as stream:
                    opened += 1
                    await stream.send_all(half[: chance.choice((0, 1, 5, 100, len(half) - 1))])
                    await trio.sleep_forever()

        async def look() -> None:
            nonlocal threads_most
            while True:
                threads_most = max(threads_most, bulk_threads())
                await trio.sleep(0.05)

        nursery.start_soon(look)
        for _ in range(1000):
            nursery.start_soon(half_open)
        began_at = trio.current_time()
        await fetcher.fetch(refs[0], holder.peer)  # while they come, which may push its own handshakes out
        await until(lambda: opened == 1000)
        assert trio.current_time() - began_at < 10.0
        began_at = trio.current_time()
        await fetcher.fetch(refs[1], holder.peer)
        assert trio.current_time() - began_at < 5.0  # alone: 1 s
        assert all(fetcher.has(ref, each) for ref, each in zip(refs, data, strict=True))
        await until(lambda: fetcher.has_bulk(holder.peer))  # and it gets its own connection
        await until(lambda: established(port) <= HANDSHAKES_MAX + 3, 3.0)  # and those of the fetcher
        assert threads_most <= 4  # of the fetcher's own: a second connection may be on trial
        after_mb = rss_mb()
        assert before_mb is None or after_mb is None or after_mb - before_mb < 60
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("shows_a_token", [False, True])
async def test_who_floods_with_handshakes_is_refused_and_nobody_elsewhere(tmp_path: Path, shows_a_token: bool) -> None:
    """And whoever has no token holds nobody up, not even those who come from the same addresses."""
    async with open_node(1, tmp_path) as node, open_intruder(2, node) as peer:
        met = await peer.meet()
        shown = hello(met.token if shows_a_token else TOKEN)

        async def flood() -> None:
            with suppress(*BROKEN):
                async with await open_tcp(port_of(node.address), "127.0.0.66") as stream:
                    await stream.send_all(shown)
                    await stream.receive_some()

        cpu_s = time.process_time()
        for _ in range(HANDSHAKES_BURST // 16 + 8):
            async with trio.open_nursery() as nursery:
                for _ in range(16):
                    nursery.start_soon(flood)
        assert time.process_time() - cpu_s < 2.0  # both sides
        results: list[bool] = []

        async def try_once() -> None:
            results.append(await is_let_in(lambda: peer.dial(met, local="127.0.0.66")))

        async with trio.open_nursery() as nursery:
            for _ in range(CONNECTIONS_MAX):
                nursery.start_soon(try_once)
        # With a token: one handshake may have become free meanwhile.
        assert sum(results) <= 1 if shows_a_token else sum(results) == CONNECTIONS_MAX
        assert await is_let_in(lambda: peer.dial(met, local="127.0.0.67"))


async def test_a_connection_ends_for_who_keeps_it_alone(tmp_path: Path) -> None:
    async with open_node(1, tmp_path) as node:
        async with open_intruder(2, node) as peer:
            tls = await served(peer, await peer.meet())
            await until(lambda: bulk_threads() == 1)
        await until(lambda: not node.host.connections())  # of libp2p's
        with trio.fail_after(2.0):
            assert await read_to_end(tls.receive_some) == b""
        await until(lambda: bulk_threads() == 0, 2.0)
        await trio.aclose_forcefully(tls)


# Holders


def reply(head: Head, body: bytes = b"") -> bytes:
    data = bytearray(HEAD_BYTES)
    write_head(data, 0, head)
    return bytes(data) + body


def heads_of(data: bytes | bytearray) -> list[Head]:
    """Those of replies that begin in `data`."""
    heads: list[Head] = []
    while len(data) >= HEAD_BYTES:
        head = parse_head(data[:HEAD_BYTES])
        assert isinstance(head, Head)
        heads.append(head)
        data = data[HEAD_BYTES + head.length :]
    return heads


async def requested(tls: TlsStream) -> Request:
    """What comes next; the first has the handshake's end before it."""
    data = b""
    while len(data) < REQUEST_BYTES:
        piece = await tls.receive_some(REQUEST_BYTES - len(data))
        assert piece
        data += piece
    request = parse_request(data)
    assert isinstance(request, Request)
    return request


Answer = Callable[[Villain, Request], bytes]


def answering(
    answer: Answer, *, stays: bool = True
) -> Callable[[Villain, TlsStream, trio.SocketStream], Awaitable[None]]:
    async def serve(villain: Villain, tls: TlsStream, stream: trio.SocketStream) -> None:
        del stream
        await tls.send_all(SERVES)
        await tls.send_all(answer(villain, await requested(tls)))
        if stays:
            await read_to_end(tls.receive_some)

    return serve


def chunk(villain: Villain, index: int) -> bytes:
    return villain.data[index * MIB : (index + 1) * MIB]


LIES: dict[str, Answer] = {
    "wrong bytes": lambda v, r: reply(Head(CHUNK, r.first, len(chunk(v, r.first))), bytes(len(chunk(v, r.first)))),
    "a chunk nobody asked for": lambda v, r: reply(Head(CHUNK, r.first + 1, MIB), bytes(MIB)),
    "a kind that is none": lambda v, r: reply(Head(77, r.first, 0)),
    "a chunk of 4 GiB": lambda v, r: reply(Head(CHUNK, r.first, 2**32 - 1)),
    "a text of 1 MiB": lambda v, r: reply(Head(REFUSED, r.first, MIB)),
    "an empty part": lambda v, r: reply(Head(CHUNK, r.first, 0)),
    "a part too long": lambda v, r: reply(Head(CHUNK, r.first, 1), bytes(1)) + reply(Head(CHUNK, r.first, MIB)),
    "another chunk's part": lambda v, r: reply(Head(CHUNK, r.first, 1), bytes(1)) + reply(Head(CHUNK, r.first + 1, 1)),
    "a farewell": lambda v, r: reply(Head(FAREWELL, 0, 0)),
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_holder_that_lies_by_tls_is_banned_and_the_blob_comes_from_others(tmp_path: Path, lie: str) -> None:
    data = content(12)
    async with (
        open_node(1, tmp_path, uploads=RATE) as holder,
        open_node(2, tmp_path) as fetcher,
        trio.open_nursery() as nursery,
    ):
        ref = await holder.put(data)
        async with open_villain(3, holder, ref, data, answering(LIES[lie])) as villain:
            _, address = await front_of(nursery, villain)
            await connect(fetcher, address)
            await connect(fetcher, holder.address)
            before_mb = rss_mb()
            await fetcher.fetch(ref, villain.host.peer_id, holder.peer, timeout_s=10)
            after_mb = rss_mb()
            assert villain.served == 1
            assert fetcher.has(ref, data)
            assert [(found.peer, found.blob) for found in fetcher.lies] == [(villain.host.peer_id, ref)]
            assert before_mb is None or after_mb is None or after_mb - before_mb < 60
            nursery.cancel_scope.cancel()


async def alone(tmp_path: Path, serve: Any, size: int, timeout_s: float) -> tuple[Villain, float]:
    """A blob from nobody but a villain, who serves well by streams: the villain, and seconds."""
    data = content(size)
    async with (
        open_node(1, tmp_path) as origin,
        open_node(2, tmp_path) as fetcher,
        trio.open_nursery() as nursery,
    ):
        ref = await origin.put(data)
        async with open_villain(3, origin, ref, data, serve) as villain:
            villain.chunk_s = 0.1
            _, address = await front_of(nursery, villain)
            await connect(fetcher, address)
            began_at = trio.current_time()
            before = fetcher.received
            await fetcher.fetch(ref, villain.host.peer_id, timeout_s=timeout_s)
            took_s = trio.current_time() - began_at
            assert fetcher.has(ref, data)
            assert fetcher.received - before < 1.02 * len(data) + 2 * MIB
            assert not fetcher.lies
            await until(lambda: bulk_threads() == 0, SILENT_S + 1)
            assert fetcher.connection(villain.host.peer_id).bulk.startswith("streams: ")
            nursery.cancel_scope.cancel()
    return villain, took_s


async def hang_up(villain: Villain, tls: TlsStream, stream: trio.SocketStream) -> None:
    await tls.send_all(SERVES)
    await stream.aclose()


async def no_records(villain: Villain, tls: TlsStream, stream: trio.SocketStream) -> None:
    await tls.send_all(SERVES)
    await stream.send_all(random.Random(1).randbytes(100_000))
    await read_to_end(stream.receive_some)


async def no_service(villain: Villain, tls: TlsStream, stream: trio.SocketStream) -> None:
    await tls.send_all(FETCHES)
    await read_to_end(tls.receive_some)


async def half_a_chunk(villain: Villain, tls: TlsStream, stream: trio.SocketStream) -> None:
    await tls.send_all(SERVES)
    request = await requested(tls)
    await tls.send_all(reply(Head(CHUNK, request.first, MIB), chunk(villain, request.first)[: MIB // 2]))
    await stream.aclose()


async def test_holders_whose_connections_break_again_and_again_cost_pauses_that_grow(tmp_path: Path) -> None:
    async def one(serve: Any) -> None:
        villain, took_s = await alone(tmp_path / serve.__name__, serve, 40, 15)
        assert took_s < 10  # 100 ms a chunk, by streams
        assert villain.served == 2, serve  # at once, after 2 to 3 s, after 6

    async with trio.open_nursery() as nursery:
        for serve in (hang_up, no_records, no_service, half_a_chunk):
            nursery.start_soon(one, serve)


async def test_a_holder_that_speaks_no_tls_or_does_not_meet_is_fetched_from_by_streams(tmp_path: Path) -> None:
    async def silence(stream: trio.SocketStream) -> None:
        await read_to_end(stream.receive_some)

    async def garbage(stream: trio.SocketStream) -> None:
        await stream.send_all(random.Random(2).randbytes(70_000))

    async def another_certificate(stream: trio.SocketStream) -> None:
        other = Credentials().contexts(villain.certificates[-1])
        assert not isinstance(other, Malformed)
        await trio.SSLStream(stream, other[0], server_side=True).do_handshake()

    data = content(8)
    for serve in (silence, garbage, another_certificate, None):
        path = tmp_path / str(serve and serve.__name__)
        async with open_node(1, path) as origin, open_node(2, path) as fetcher, trio.open_nursery() as nursery:
            ref = await origin.put(data)
            async with open_villain(3, origin, ref, data, hang_up) as villain:
                villain.on_tls = serve  # type: ignore[method-assign, assignment]
                if serve is None:
                    villain.host.serve(MEET, lambda peer, request: Refusal(Code.REFUSED, "no"))
                front, address = await front_of(nursery, villain)
                await connect(fetcher, address)
                began_at = trio.current_time()
                await fetcher.fetch(ref, villain.host.peer_id, timeout_s=10)
                assert trio.current_time() - began_at < 2.0
                assert front.tls_count == (serve is not None)
                assert villain.streamed == 8
                assert not fetcher.has_bulk(villain.host.peer_id)
                assert bulk_threads() == 0
                nursery.cancel_scope.cancel()


async def stall(villain: Villain, tls: TlsStream, stream: trio.SocketStream) -> None:
    await tls.send_all(SERVES)
    request = await requested(tls)
    await tls.send_all(reply(Head(CHUNK, request.first, MIB), chunk(villain, request.first)[:100_000]))
    await read_to_end(tls.receive_some)


async def test_a_holder_that_stalls_by_tls_is_gone_on_with_by_streams(tmp_path: Path) -> None:
    villain, took_s = await alone(tmp_path, stall, 12, 15)
    assert villain.served == 1
    assert SILENT_S < took_s < SILENT_S + 3


async def put_off(villain: Villain, tls: TlsStream, stream: trio.SocketStream) -> None:
    """For ever."""
    await tls.send_all(SERVES)
    request = await requested(tls)
    while True:
        await tls.send_all(reply(Head(LATER, request.first, 0)))
        await trio.sleep(0.5)


@pytest.mark.parametrize("serve", [stall, put_off])
async def test_a_holder_that_stalls_holds_up_others_no_longer_than_a_late_chunk(tmp_path: Path, serve: Serve) -> None:
    data = content(24)
    async with (
        open_node(1, tmp_path, uploads=RATE) as holder,
        open_node(2, tmp_path) as fetcher,
        trio.open_nursery() as nursery,
    ):
        ref = await holder.put(data)
        async with open_villain(3, holder, ref, data, serve) as villain:
            _, address = await front_of(nursery, villain)
            await connect(fetcher, address)
            await connect(fetcher, holder.address)
            began_at = trio.current_time()
            await fetcher.fetch(ref, villain.host.peer_id, holder.peer, timeout_s=15)
            assert trio.current_time() - began_at < 5.0  # alone: 1.5 s
            assert 1 <= villain.served <= CONNECTIONS_MAX
            nursery.cancel_scope.cancel()


# Fetchers


async def served(peer: Intruder, met: Met) -> TlsStream:
    tls = await peer.dial(met)
    await tls.send_all(FETCHES)
    assert await tls.receive_some(1) == SERVES
    return tls


async def test_no_peer_has_more_connections_than_it_may_though_it_opens_them_at_once(tmp_path: Path) -> None:
    async with open_node(1, tmp_path) as node, open_intruder(2, node) as peer, trio.open_nursery() as nursery:
        met = await peer.meet()
        results: list[bool] = []
        most = 0

        async def dial(number: int) -> None:
            nonlocal most
            with suppress(*BROKEN):
                tls = await peer.dial(met, local=f"127.0.0.{2 + number}")
                dialed.append(tls)
                if len(dialed) == 40:
                    all_dialed.set()
                await all_dialed.wait()
                try:
                    results.append(await is_served(tls))
                    await trio.sleep_forever()
                finally:
                    await trio.aclose_forcefully(tls)

        dialed: list[TlsStream] = []
        all_dialed = trio.Event()
        for number in range(40):
            nursery.start_soon(dial, number)
        await until(lambda: len(results) == 40)
        assert sum(results) == CONNECTIONS_MAX
        await until(lambda: bulk_threads() == CONNECTIONS_MAX)
        nursery.cancel_scope.cancel()


def want(ref: BlobRef, first: int = 0, count: int = 1) -> bytes:
    return Request(WANT, ref.digest, first, count).encode()


BAD_REQUESTS: dict[str, Callable[[BlobRef], bytes]] = {
    "65,536 chunks in one": lambda ref: want(ref, 0, 65_536),
    "65,536 chunks in many": lambda ref: b"".join(want(ref, 0, RUN_CHUNKS_MAX) for _ in range(1024)),
    "chunks beyond all blobs": lambda ref: want(ref, 2**32 - 1, 64),
    "no chunks": lambda ref: want(ref, 0, 0),
    "a kind that is none": lambda ref: Request(9, ref.digest).encode(),
    "all of a chunk to be skipped": lambda ref: Request(WANT, ref.digest, 0, 1, MIB).encode(),
}


@pytest.mark.parametrize("bad", BAD_REQUESTS)
async def test_a_fetcher_that_asks_for_what_no_honest_one_does_is_cut_off(tmp_path: Path, bad: str) -> None:
    async with open_node(1, tmp_path) as node, open_intruder(2, node) as peer:
        ref = await node.put(bytes(2 * MIB))
        tls = await served(peer, await peer.meet())
        with suppress(*BROKEN):
            await tls.send_all(BAD_REQUESTS[bad](ref))
        with trio.fail_after(5.0):
            came = len(await read_to_end(tls.receive_some))
        assert came < WANTS_MAX * HEAD_BYTES + 4 * MIB
        await until(lambda: bulk_threads() == 0, 2.0)
        await trio.aclose_forcefully(tls)


async def test_requests_to_forget_are_cheap_however_many_chunks_wait(tmp_path: Path) -> None:
    async with open_node(1, tmp_path, uploads=at(8 * MIB)) as node, open_intruder(2, node) as peer:
        ref = await node.put(content(3))
        tls = await served(peer, await peer.meet())
        await tls.send_all(want(ref, 0, 3) + b"".join(want(ref, 10, RUN_CHUNKS_MAX) for _ in range(15)))
        cpu_s = time.process_time()
        useless = b"".join(Request(FORGET, ref.digest, 1000, RUN_CHUNKS_MAX).encode() for _ in range(10_000))
        came = b""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tls.send_all, Request(FORGET, ref.digest, 1).encode() + useless)
            with trio.fail_after(10):
                while len(came) < 2 * MIB:
                    came += await tls.receive_some()
            nursery.cancel_scope.cancel()
        assert time.process_time() - cpu_s < 1.0  # both sides; looking through all that wait: 1.6 s
        heads = heads_of(came)
        assert sum(head.length for head in heads if (head.kind, head.index) == (CHUNK, 0)) == MIB
        assert [head for head in heads if head.index == 1] == [Head(REFUSED, 1, 0)]
        assert heads[-1].index == 2
        await trio.aclose_forcefully(tls)


async def test_what_is_forgotten_in_the_middle_of_it_ends_there(tmp_path: Path) -> None:
    async with open_node(1, tmp_path, uploads=at(MIB)) as node, open_intruder(2, node) as peer:
        ref = await node.put(content(2))
        tls = await served(peer, await peer.meet())
        await tls.send_all(want(ref, 0, 2))
        came = await tls.receive_some()
        await tls.send_all(Request(FORGET, ref.digest, 0).encode())
        with trio.fail_after(5):
            while (heads := heads_of(came))[-1].index == 0:
                came += await tls.receive_some()
        assert 0 < sum(head.length for head in heads if head.kind == CHUNK and head.index == 0) < MIB
        assert Head(REFUSED, 0, 0) in heads
        await trio.aclose_forcefully(tls)


async def test_what_is_not_here_is_refused_and_half_a_request_waits_for_its_rest(tmp_path: Path) -> None:
    async with open_node(1, tmp_path) as node, open_intruder(2, node) as peer:
        ref = await node.put(b"abc")
        tls = await served(peer, await peer.meet())
        asked = Request(WANT, bytes(HASH_BYTES)).encode() + want(ref, 1) + want(ref)
        await tls.send_all(asked[:-7])
        answer = b""
        while len(answer) < 2 * (HEAD_BYTES + len("not here")):
            answer += await tls.receive_some()
        assert answer == reply(Head(REFUSED, 0, 8), b"not here") + reply(Head(REFUSED, 1, 8), b"not here")
        await tls.send_all(asked[-7:] + Request(BYE).encode())
        answer = b""
        while len(answer) < 2 * HEAD_BYTES + 3:
            answer += await tls.receive_some()
        assert answer == reply(Head(CHUNK, 0, 3), b"abc") + reply(Head(FAREWELL, 0, 0))
        await trio.aclose_forcefully(tls)


async def test_fetchers_that_never_read_hold_their_own_connections_and_nothing_more(tmp_path: Path) -> None:
    async with (
        open_node(1, tmp_path) as node,
        open_node(2, tmp_path) as friend,
        open_intruder(3, node) as peer,
        AsyncExitStack() as stack,
    ):
        data = content(20)
        ref = await node.put(data)
        await connect(friend, node.address)
        met, before_mb = await peer.meet(), rss_mb()
        for _ in range(CONNECTIONS_MAX):
            tls = await served(peer, met)
            stack.callback(tls.transport_stream.socket.close)
            await tls.send_all(b"".join(want(ref, 0, 19) for _ in range(WANTS_MAX // 19)))
        began_at = trio.current_time()
        await friend.fetch(ref, node.peer)
        assert friend.has(ref, data)
        assert trio.current_time() - began_at < 5.0
        after_mb = rss_mb()
        assert before_mb is None or after_mb is None or after_mb - before_mb < 60
        assert node.host.is_busy(peer.host.peer_id)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="Python's ssl asks for no new keys")
async def test_new_keys_without_end_end_the_connection(tmp_path: Path) -> None:
    """TLS itself answers each, into memory: nothing that would go out takes the answers along."""
    key_path, certificate_path = tmp_path / "key", tmp_path / "certificate"
    key = ec.generate_private_key(ec.SECP256R1())
    own = x509.load_der_x509_certificate(certificate(key))
    certificate_path.write_bytes(own.public_bytes(Encoding.PEM))
    key_path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    async with open_node(1, tmp_path) as node, open_intruder(2, node) as peer:
        met = await peer.meet(own.public_bytes(Encoding.DER))
        where = f"127.0.0.1:{port_of(node.address)}"
        command = ["openssl", "s_client", "-connect", where, "-servername", met.token]
        command += ["-cert", str(certificate_path), "-key", str(key_path)]
        client = await trio.lowlevel.open_process(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        assert client.stdin is not None
        try:
            await client.stdin.send_all(FETCHES)
            await until(lambda: bulk_threads() == 1)
            asked = 0
            with suppress(trio.BrokenResourceError):
                while bulk_threads():
                    await client.stdin.send_all(b"K")  # new keys, and the other side's as well
                    asked += 1
                    assert asked < 5_000
                    await trio.sleep(0.001)
            await until(lambda: bulk_threads() == 0, 2.0)
        finally:
            client.kill()
            await client.wait()
            await client.stdin.aclose()


# Words over libp2p


def certificate(key: Any, *extensions: x509.UnrecognizedExtension, subject: str = "x") -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    now = datetime.datetime(2020, 1, 1)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now.replace(year=2999))
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


async def test_whatever_is_given_out_as_a_certificate_ends_in_an_answer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chance, own = random.Random(3), Credentials().certificate
    key = ec.generate_private_key(ec.SECP256R1())
    unknown = x509.UnrecognizedExtension(ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    odd = [
        b"\x00", b"\x30\x82\xff\xff", chance.randbytes(300), own[:-1], own + b"\x00", own[:200] + bytes(20) + own[220:],
        certificate(rsa.generate_private_key(65_537, 1024))[:CERTIFICATE_BYTES_MAX], certificate(key, unknown),
        certificate(ec.generate_private_key(ec.SECP521R1())), b"-----BEGIN CERTIFICATE-----\n" * 9, own + own,
    ]  # fmt: skip
    async with open_node(1, tmp_path) as node, AsyncExitStack() as stack:
        for number in range(0, len(odd), MEETINGS_BURST):
            peer = await stack.enter_async_context(open_intruder(10 + number, node))
            for each in odd[number : number + MEETINGS_BURST]:
                met = await peer.host.request(node.peer, MEET, Meet(each[:CERTIFICATE_BYTES_MAX]), timeout_s=5)
                assert isinstance(met, Met) or met.code is Code.MALFORMED, met
                if isinstance(met, Met):  # read, but of no use to who has not its key, or a key that is too weak
                    assert not await is_let_in(lambda peer=peer, met=met: peer.dial(met))  # type: ignore[misc]
        last = await stack.enter_async_context(open_intruder(61, node))
        huge = await last.host.request(node.peer, MEET, Meet(bytes(CERTIFICATE_BYTES_MAX + 1)), timeout_s=5)
        assert isinstance(huge, Refusal)
        assert huge.code is Code.MALFORMED
        async with open_intruder(60, node) as friend:
            met_at_last = await friend.meet()
            assert await is_let_in(lambda: friend.dial(met_at_last))
    assert not [record for record in caplog.records if record.exc_info]


async def test_a_peer_that_meets_a_thousand_times_is_told_to_wait(tmp_path: Path) -> None:
    async with open_node(1, tmp_path) as node, open_intruder(2, node) as peer:
        own = [Credentials().certificate for _ in range(20)]
        answers: list[Met | Refusal] = []

        async def meet(number: int) -> None:
            answer = await peer.host.request(node.peer, MEET, Meet(own[number % 20]), timeout_s=PATIENCE_S)
            answers.append(answer)

        cpu_s = time.process_time()
        for start in range(0, 1000, 50):
            async with trio.open_nursery() as nursery:
                for number in range(start, start + 50):
                    nursery.start_soon(meet, number)
        assert time.process_time() - cpu_s < 3.0  # both sides; met in earnest it is 5 s
        met = [each for each in answers if isinstance(each, Met)]
        assert MEETINGS_BURST <= len(met) <= MEETINGS_BURST + 3
        assert {each.code for each in answers if isinstance(each, Refusal)} == {Code.BUSY}


async def test_nobody_is_dialed_for_who_was_not_dialed_and_not_more_often_than_it_may_be(tmp_path: Path) -> None:
    async with open_node(1, tmp_path) as node, open_intruder(2, node) as peer:
        refused = await peer.come(TOKEN)
        assert isinstance(refused, Refusal)
        assert refused.code is Code.REFUSED
        await peer.meet()
        refused = await peer.come(TOKEN)
        assert isinstance(refused, Refusal)
        assert refused.code is Code.REFUSED


async def test_who_has_itself_dialed_a_hundred_times_is_dialed_four_times_at_once(tmp_path: Path) -> None:
    data = content(2)
    async with open_node(1, tmp_path) as node, trio.open_nursery() as nursery:
        ref = await node.put(data)
        async with open_villain(3, node, ref, data, hang_up) as villain:

            async def silence(stream: trio.SocketStream) -> None:
                await read_to_end(stream.receive_some)

            villain.on_tls = silence  # type: ignore[method-assign]
            front, address = await front_of(nursery, villain)
            assert await connect(node, address) == villain.host.peer_id
            peer = Intruder(villain.host, node)
            await peer.meet()
            answers: list[object] = []

            async def come() -> None:
                answers.append(await peer.come(TOKEN))

            async with trio.open_nursery() as comes:
                for _ in range(100):
                    comes.start_soon(come)
                await until(lambda: len(answers) == 100 - CONNECTIONS_MAX)
                await until(lambda: front.tls_count == CONNECTIONS_MAX, 2.0)
                assert all(isinstance(each, Refusal) and each.code is Code.BUSY for each in answers)
                comes.cancel_scope.cancel()
            nursery.cancel_scope.cancel()


async def test_a_node_that_can_open_no_file_meets_nobody_and_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As where a peer has connected until there are no more files: keys are read from one."""
    resource = pytest.importorskip("resource")
    most = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with open_node(1, tmp_path) as holder, open_node(2, tmp_path) as fetcher:
        await connect(fetcher, holder.address)
        data = content(2)
        ref = await holder.put(data)
        held = holder.store.held(ref.digest)
        assert held is not None
        manifest = parse_manifest(held.manifest_data, ref.digest)
        assert isinstance(manifest, Manifest)
        assert fetcher.host.bulk is not None
        sources = fetcher.host.bulk.attach(fetcher.store, Uploads())
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, most[1]))
        try:
            met = await fetcher.host.request(holder.peer, MEET, Meet(Credentials().certificate), timeout_s=PATIENCE_S)
            async with sources(holder.peer, ref.digest, manifest):
                await until(lambda: fetcher.connection(holder.peer).bulk.startswith("streams: "), 5.0)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, most)
        assert isinstance(met, Refusal)
        assert met.code is Code.INTERNAL
        await fetcher.fetch(ref, holder.peer)
        assert fetcher.has(ref, data)
    assert not [record for record in caplog.records if record.exc_info]
