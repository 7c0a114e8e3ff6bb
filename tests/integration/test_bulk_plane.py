"""Blobs by TLS between hosts: which way they take, what they cost, and that nothing comes twice when a way ends."""

import math
import time
from functools import partial
from pathlib import Path

import pytest
import trio

from shoal.transport.blobs import BlobRef
from shoal.transport.bulk_link_service import SILENT_S
from shoal.transport.limits import Limits
from shoal.transport.port import Refusal
from shoal.transport.upload_service import Uploads
from shoal.transport.upload_slots import SLOTS_FIRST, SLOTS_MAX
from tests.integration.bulk_peers import (
    MIB,
    Node,
    at,
    bulk_threads,
    connect,
    content,
    front_of,
    open_files,
    open_node,
    until,
)

NO_BULK = Limits(bulk_connections_max=0)
OVERHEAD = 1.005  # heads, and what TLS or Noise adds to each record
WORDS_BYTES = 64 * 1024  # of libp2p's in a test: hello, pings, manifests, bitmaps


async def warm(fetcher: Node, holder: Node) -> None:
    """Have a bulk connection stand."""
    await until(lambda: any(each.peer == holder.peer for each in fetcher.host.connections()))
    data = content(2) + holder.peer.encode() + fetcher.peer.encode()
    await fetcher.fetch(await holder.put(data), holder.peer)
    await until(lambda: fetcher.has_bulk(holder.peer))


@pytest.mark.parametrize("who_dials", ["the fetcher", "the holder"])
async def test_a_blob_goes_by_tls_whoever_has_dialed(tmp_path: Path, who_dials: str) -> None:
    async with open_node(1, tmp_path) as holder, open_node(2, tmp_path) as fetcher:
        if who_dials == "the fetcher":
            await connect(fetcher, holder.address)
        else:
            await connect(holder, fetcher.address)
        await warm(fetcher, holder)
        assert fetcher.connection(holder.peer).bulk == "TLS, 1 connection"
        data = content(16)
        ref = await holder.put(data)
        by_tls, all_before = fetcher.bulk_received, fetcher.received
        await fetcher.fetch(ref, holder.peer)
        assert fetcher.has(ref, data)
        came = fetcher.bulk_received - by_tls
        assert len(data) < came < OVERHEAD * len(data)
        assert fetcher.received - all_before - came < WORDS_BYTES
        connection = fetcher.connection(holder.peer)
        assert connection.bytes_received >= came
        await until(lambda: fetcher.connection(holder.peer).bulk_bytes_per_s > 0)


@pytest.mark.parametrize("limited", ["holder", "fetcher", "both"])
async def test_without_bulk_connections_on_either_side_blobs_go_by_streams(tmp_path: Path, limited: str) -> None:
    of_holder, of_fetcher = (NO_BULK if limited in (side, "both") else None for side in ("holder", "fetcher"))
    async with open_node(1, tmp_path, of_holder) as holder, open_node(2, tmp_path, of_fetcher) as fetcher:
        await connect(fetcher, holder.address)
        data = content(6)
        ref = await holder.put(data)
        before = fetcher.received
        await fetcher.fetch(ref, holder.peer)
        assert fetcher.has(ref, data)
        assert fetcher.received - before > len(data)
        assert not fetcher.has_bulk(holder.peer)
        assert bulk_threads() == 0
        assert (holder.host.bulk is None) == (of_holder is not None)


async def test_small_blobs_make_no_connection(tmp_path: Path) -> None:
    async with open_node(1, tmp_path) as holder, open_node(2, tmp_path) as fetcher:
        await connect(fetcher, holder.address)
        for number in range(10):
            await fetcher.fetch(await holder.put(bytes([number]) * (MIB - 1)), holder.peer)
        assert not fetcher.has_bulk(holder.peer)


@pytest.mark.parametrize("who_dials", ["the fetcher", "the holder"])
async def test_what_came_before_a_connection_broke_is_not_fetched_again_and_tls_comes_back(
    tmp_path: Path, who_dials: str
) -> None:
    size, rate = 48, 10 * MIB
    async with (
        open_node(1, tmp_path, uploads=at(rate)) as holder,
        open_node(2, tmp_path) as fetcher,
        trio.open_nursery() as nursery,
    ):
        dialed, dials = (holder, fetcher) if who_dials == "the fetcher" else (fetcher, holder)
        front, address = await front_of(nursery, dialed)
        await connect(dials, address)
        await warm(fetcher, holder)
        assert front.tls_count == 1
        data = content(size)
        ref = await holder.put(data)
        by_tls, before = fetcher.bulk_received, fetcher.received
        async with trio.open_nursery() as fetch:
            fetch.start_soon(fetcher.fetch, ref, holder.peer)
            await until(lambda: fetcher.bulk_received > by_tls + 3.5 * MIB)
            front.cut()
            await until(lambda: fetcher.connection(holder.peer).bulk.startswith("streams: "))
            at_cut, all_at_cut = fetcher.bulk_received, fetcher.received
            await until(lambda: fetcher.received - all_at_cut > MIB)  # it goes on, though not by TLS
            assert fetcher.bulk_received == at_cut
            await until(lambda: fetcher.bulk_received > at_cut + 2 * MIB)  # and by TLS again
        assert fetcher.has(ref, data)
        # What was on its way through the front when it was cut had not come.
        assert len(data) < fetcher.received - before < OVERHEAD * len(data) + WORDS_BYTES
        assert 2 <= front.tls_count <= 3  # one more may be on trial
        nursery.cancel_scope.cancel()


async def test_bulk_connections_end_with_the_last_connection_that_vouches_for_them(tmp_path: Path) -> None:
    async with (
        open_node(1, tmp_path, uploads=at(8 * MIB)) as holder,
        open_node(2, tmp_path) as fetcher,
        trio.open_nursery() as nursery,
    ):
        front, address = await front_of(nursery, holder)
        await connect(fetcher, address)
        await warm(fetcher, holder)
        ref = await holder.put(content(32))
        by_tls = fetcher.bulk_received
        results: list[Refusal | None] = []

        async def fetch() -> None:
            result = await fetcher.blobs.fetch(ref, lambda: [holder.peer], pin="x", timeout_s=3.0)
            results.append(result)

        async with trio.open_nursery() as fetches:
            fetches.start_soon(fetch)
            await until(lambda: fetcher.bulk_received > by_tls + 2 * MIB)
            assert bulk_threads() == 2
            front.cut_libp2p()
            await until(lambda: bulk_threads() == 0, 3.0)
            await until(lambda: fetcher.host.connections() == holder.host.connections() == ())
            at_end = fetcher.bulk_received
        assert fetcher.bulk_received == at_end
        assert isinstance(results[0], Refusal)
        nursery.cancel_scope.cancel()


async def test_two_nodes_fetch_from_each_other_at_once(tmp_path: Path) -> None:
    async with open_node(1, tmp_path) as one, open_node(2, tmp_path) as two:
        await connect(one, two.address)
        await warm(one, two)
        await warm(two, one)
        assert bulk_threads() == 4
        data = [content(16, seed) for seed in range(2)]
        refs = [await one.put(data[0]), await two.put(data[1])]
        before = one.bulk_received, two.bulk_received
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.fetch, refs[1], two.peer)
            nursery.start_soon(two.fetch, refs[0], one.peer)
        assert one.has(refs[1], data[1])
        assert two.has(refs[0], data[0])
        for node, earlier in zip((one, two), before, strict=True):
            assert node.bulk_received - earlier > 15 * MIB


async def test_several_holders_send_by_tls_at_once(tmp_path: Path) -> None:
    rate = at(8 * MIB)
    async with (
        open_node(1, tmp_path, uploads=rate) as one,
        open_node(2, tmp_path, uploads=rate) as two,
        open_node(3, tmp_path, uploads=rate) as three,
        open_node(4, tmp_path) as fetcher,
    ):
        data, holders = content(24), (one, two, three)
        for holder in holders:
            await connect(fetcher, holder.address)
            await warm(fetcher, holder)
        (ref,) = {await holder.put(data) for holder in holders}
        assert fetcher.host.bulk is not None
        traffic = fetcher.host.bulk.traffic
        before = [traffic(holder.peer).bytes_received for holder in holders]
        began_at = trio.current_time()
        await fetcher.fetch(ref, *(holder.peer for holder in holders))
        assert trio.current_time() - began_at < 2.5  # of one: 3 s
        assert fetcher.has(ref, data)
        came = [traffic(holder.peer).bytes_received - each for holder, each in zip(holders, before, strict=True)]
        assert min(came) > 4 * MIB
        assert sum(came) < OVERHEAD * len(data) + MIB  # a chunk may be asked of two at the end


async def timed(fetcher: Node, ref: BlobRef, holder: Node) -> float:
    began_at = time.monotonic()
    await fetcher.fetch(ref, holder.peer)
    return time.monotonic() - began_at


async def test_a_peer_that_sits_has_bulk_connections_though_all_seats_are_taken(tmp_path: Path) -> None:
    limits = Limits(connections_max=1, connection_quiet_s=3600.0)
    async with (
        open_node(1, tmp_path, limits) as holder,
        open_node(2, tmp_path) as fetcher,
        open_node(3, tmp_path) as stranger,
    ):
        holder.host.keep(fetcher.peer, ())
        await connect(fetcher, holder.address)
        await warm(fetcher, holder)
        assert isinstance(await stranger.host.connect(holder.address, timeout_s=5.0), Refusal)


async def test_who_must_wait_for_its_turn_waits_for_longer_than_a_line_may_be_silent(tmp_path: Path) -> None:
    uploads = Uploads()
    async with open_node(1, tmp_path, uploads=lambda _: uploads) as holder, open_node(2, tmp_path) as fetcher:
        await connect(fetcher, holder.address)
        await warm(fetcher, holder)
        held = [uploads.ask(f"other {index}", bytes(32), index) for index in range(SLOTS_MAX)]
        assert sum(uploads.begin(ticket, 0) for ticket in held) >= SLOTS_FIRST
        data = content(8)
        ref = await holder.put(data)
        by_tls, began_at = fetcher.bulk_received, trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetcher.fetch, ref, holder.peer)
            await trio.sleep(SILENT_S + 1.5)
            assert fetcher.bulk_received - by_tls < 1000
            for ticket in held:
                uploads.leave(ticket, is_whole=False)
        assert trio.current_time() - began_at < SILENT_S + 4
        assert fetcher.has(ref, data)
        assert fetcher.bulk_received - by_tls > len(data)


async def test_the_limit_of_uploads_holds_for_tls_and_streams_together(tmp_path: Path) -> None:
    rate = 6 * MIB
    async with (
        open_node(1, tmp_path, uploads=at(rate)) as holder,
        open_node(2, tmp_path) as by_tls,
        open_node(3, tmp_path, NO_BULK) as by_streams,
    ):
        refs = [await holder.put(content(9, seed)) for seed in range(2)]
        for fetcher in (by_tls, by_streams):
            await connect(fetcher, holder.address)
        await warm(by_tls, holder)
        began_at = time.monotonic()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(by_tls.fetch, refs[0], holder.peer)
            nursery.start_soon(by_streams.fetch, refs[1], holder.peer)
        took = time.monotonic() - began_at
        assert not by_streams.has_bulk(holder.peer)
        assert math.isclose(2 * 9 * MIB / took, rate, rel_tol=0.2)


async def test_who_owns_blobs_shares_the_uploads_alike_by_whichever_way_and_over_however_many_connections(
    tmp_path: Path,
) -> None:
    rate = 6 * MIB
    async with (
        open_node(1, tmp_path, uploads=at(rate)) as holder,
        open_node(2, tmp_path) as first,
        open_node(3, tmp_path) as second,
        open_node(4, tmp_path, NO_BULK) as third,
    ):
        many, one = [await holder.put(content(12, seed), "many/x") for seed in range(2)], content(6, seed=3)
        alone = await holder.put(one, "one/x")
        for fetcher in (first, second, third):
            await connect(fetcher, holder.address)
        for fetcher in (first, second):
            await warm(fetcher, holder)
        took: list[float] = []

        async def fetch_alone() -> None:
            took.append(await timed(third, alone, holder))
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(first.fetch, many[0], holder.peer)
            nursery.start_soon(second.fetch, many[1], holder.peer)
            nursery.start_soon(fetch_alone)
        assert math.isclose(len(one) / took[0], rate / 2, rel_tol=0.25)


async def test_a_cancelled_fetch_lets_go_of_what_it_asked_for(tmp_path: Path) -> None:
    async with open_node(1, tmp_path, uploads=at(8 * MIB)) as holder, open_node(2, tmp_path) as fetcher:
        await connect(fetcher, holder.address)
        await warm(fetcher, holder)
        assert fetcher.host.bulk is not None
        files = open_files()
        ref = await holder.put(content(32))
        by_tls = fetcher.bulk_received
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetcher.fetch, ref, holder.peer)
            await until(lambda: fetcher.bulk_received > by_tls + 2 * MIB)
            nursery.cancel_scope.cancel()
        stopped_at = fetcher.bulk_received
        assert fetcher.host.is_busy(holder.peer)
        await until(lambda: not fetcher.host.is_busy(holder.peer), 3.0)
        assert fetcher.bulk_received < stopped_at + 2 * MIB  # the chunk that had begun, and one that was being sent
        assert bulk_threads() == 2  # the connection stands for the next
        assert open_files() <= files
        data = content(8)
        again = await holder.put(data)
        await fetcher.fetch(again, holder.peer)
        assert fetcher.has(again, data)


async def test_a_host_that_is_left_leaves_neither_threads_nor_sockets(tmp_path: Path) -> None:
    files = open_files()
    for turn in range(2):
        path = tmp_path / str(turn)
        async with open_node(1, path, uploads=at(4 * MIB)) as holder, open_node(2, path) as fetcher:
            await connect(fetcher, holder.address)
            await warm(fetcher, holder)
            await warm(holder, fetcher)
            assert bulk_threads() == 4
            ref = await holder.put(content(32))
            with trio.move_on_after(0.3):
                await fetcher.fetch(ref, holder.peer)
            assert bulk_threads() in (4, 6)  # one connection each way, and perhaps one more on trial
        await until(lambda: bulk_threads() == 0, 3.0)
    await until(lambda: open_files() <= files, 3.0)


async def test_a_peer_that_fetches_by_tls_counts_as_used(tmp_path: Path) -> None:
    """Nothing goes by its libp2p connection meanwhile; who closes that ends what hangs on it."""
    async with open_node(1, tmp_path, uploads=at(4 * MIB)) as holder, open_node(2, tmp_path) as fetcher:
        await connect(fetcher, holder.address)
        await warm(fetcher, holder)
        await until(lambda: not holder.host.is_busy(fetcher.peer))
        ref = await holder.put(content(8))
        by_tls = fetcher.bulk_received
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(fetcher.fetch, ref, holder.peer))
            await until(lambda: fetcher.bulk_received > by_tls + 2 * MIB)
            assert fetcher.host.is_busy(holder.peer)
            assert holder.host.is_busy(fetcher.peer)
        await until(lambda: not holder.host.is_busy(fetcher.peer), 3.0)
