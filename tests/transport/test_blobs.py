"""Blobs as values: names, manifests, messages, and the fetch against holders that lie, stall and vanish."""

import heapq
import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass, field

import msgpack  # type: ignore[import-untyped]
import msgspec
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.transport.blob_holder import STALL_S, WINDOW_MAX, WINDOW_MIN, Lines
from shoal.transport.blob_plan import (
    BEGINNING_MAX,
    EXPLORE_S,
    HOLDERS_AT_ONCE,
    HOLDERS_MAX,
    HOLDERS_OPEN_MAX,
    HOPELESS_S,
    WAIT_S_MAX,
    Ask,
    Drop,
    FetchPlan,
    Take,
)
from shoal.transport.blobs import (
    BLOB_BYTES_MAX,
    CHUNK_BYTES,
    CHUNKS,
    HAVE,
    HAVES_MAX,
    MANIFEST,
    MANIFEST_BYTES_MAX,
    PIECE_BYTES,
    RUN_CHUNKS_MAX,
    BlobRef,
    ChunkHasher,
    ChunksRequest,
    HaveReply,
    HaveRequest,
    Manifest,
    ManifestReply,
    ManifestRequest,
    Piece,
    bitmap_from_mask,
    chunk_count,
    make_manifest,
    mask_from_bitmap,
    parse_cid,
    parse_manifest,
)
from shoal.transport.port import PeerId
from shoal.transport.wire import Malformed, Message, decode, encode

SOAK = bool(os.environ.get("SHOAL_SOAK"))
FUZZ_COUNT = 100_000 if SOAK else 500
WIRE_TYPES: tuple[type[Message], ...] = (
    BlobRef,
    Manifest,
    ManifestRequest,
    ManifestReply,
    HaveRequest,
    HaveReply,
    ChunksRequest,
    Piece,
)

sizes = st.integers(0, 5 * CHUNK_BYTES) | st.sampled_from([CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2**30])


def hashes_for(size: int, seed: int = 0) -> bytes:
    return b"".join(blake3(b"%d %d" % (seed, index)).digest() for index in range(chunk_count(size)))


def packed(value: object) -> bytes:
    """As another implementation writes it."""
    return bytes(msgpack.packb(value))  # pyright: ignore


def blob_of(chunks: int, seed: int = 0) -> tuple[BlobRef, Manifest, bytes]:
    size = chunks * CHUNK_BYTES - 5 if chunks else 0
    ref, data = make_manifest(size, hashes_for(size, seed))
    manifest = parse_manifest(data, ref.digest)
    assert isinstance(manifest, Manifest)
    return ref, manifest, data


# Names


@given(st.binary(min_size=32, max_size=32))
def test_a_name_is_read_back_from_its_text(digest: bytes) -> None:
    text = BlobRef(digest, 1).cid
    assert len(text) == 64
    assert parse_cid(text) == digest


@given(st.text(max_size=80) | st.from_regex(r"bahek[a-z2-7]{59}", fullmatch=True))
@settings(max_examples=FUZZ_COUNT)
def test_any_text_is_a_name_or_refused(text: str) -> None:
    digest = parse_cid(text)
    assert isinstance(digest, Malformed) or BlobRef(digest, 0).cid == text


def test_a_name_is_a_cid_version_1_of_blake3_with_a_codec_for_private_use() -> None:
    import base64

    text = BlobRef(bytes(range(32)), 0).cid
    data = base64.b32decode(text[1:].upper() + "=")
    assert data[0] == 1
    codec = sum((byte & 0x7F) << 7 * place for place, byte in enumerate(data[1:5]))
    assert 0x300000 <= codec <= 0x3FFFFF
    assert all(byte & 0x80 for byte in data[1:4])
    assert not data[4] & 0x80
    assert data[5:] == b"\x1e\x20" + bytes(range(32))


@given(sizes)
def test_a_manifest_is_read_back(size: int) -> None:
    ref, data = make_manifest(size, hashes_for(size))
    manifest = parse_manifest(data, ref.digest)
    assert isinstance(manifest, Manifest)
    assert (manifest.size, manifest.hashes) == (ref.size, hashes_for(size)) == (size, hashes_for(size))
    assert sum(manifest.chunk_bytes(index) for index in range(manifest.chunk_count)) == size
    assert len(data) <= MANIFEST_BYTES_MAX


@given(sizes, st.binary(max_size=4), st.integers(0, 200))
def test_a_manifest_that_contradicts_itself_is_refused_though_its_hash_is_right(
    size: int, extra: bytes, cut: int
) -> None:
    for forged in (
        encode(Manifest(1, size + CHUNK_BYTES, hashes_for(size))),
        encode(Manifest(1, size, hashes_for(size) + extra + b"x")),
        encode(Manifest(2, size, hashes_for(size))),
        encode(Manifest(1, BLOB_BYTES_MAX + 1, hashes_for(size))),
        packed([1, size, hashes_for(size), 7]),
        b"\xdc\x00\x03" + encode(Manifest(1, size, hashes_for(size)))[1:],  # a longer way to write the same array
        encode(Manifest(1, size, hashes_for(size)))[: -1 - cut],
        extra,
    ):
        assert isinstance(parse_manifest(forged, blake3(forged).digest()), Malformed)


def test_a_manifest_of_another_blob_is_refused() -> None:
    assert isinstance(parse_manifest(blob_of(2)[2], blob_of(3)[0].digest), Malformed)
    with pytest.raises(ValueError, match="hashes for a blob"):
        make_manifest(CHUNK_BYTES + 1, bytes(32))


@given(st.lists(st.binary(max_size=40_000), max_size=8))
def test_a_blob_is_named_while_its_bytes_go_by(parts: list[bytes]) -> None:
    hasher = ChunkHasher()
    for part in parts:
        hasher.update(part)
    whole = b"".join(parts)
    assert hasher.finish()[0] == make_manifest(len(whole), blake3(whole).digest() if whole else b"")[0]


# Messages


@given(st.data())
def test_messages_are_read_back_and_another_implementation_writes_the_same_bytes(data: st.DataObject) -> None:
    digest = data.draw(st.binary(min_size=32, max_size=32))
    index = data.draw(st.integers(0, 65_535))
    message = data.draw(
        st.sampled_from(
            [
                BlobRef(digest, index),
                ManifestRequest(digest),
                HaveRequest([digest] * (1 + index % HAVES_MAX)),
                HaveReply([None, b"", digest], index),
                ManifestReply(digest, None, index),
                ManifestReply(b"", digest, 0),
                ChunksRequest(digest, index, 1 + index % RUN_CHUNKS_MAX),
                Piece(index, memoryview(digest)),
            ]
        )
    )
    written = encode(message)
    assert packed(msgspec.to_builtins(message, builtin_types=(bytes, memoryview))) == written
    assert decode(written, type(message), 2**20) == message


@given(st.binary(max_size=200), st.sampled_from(WIRE_TYPES))
@settings(max_examples=FUZZ_COUNT)
def test_any_bytes_are_a_message_or_refused(data: bytes, type_: type[Message]) -> None:
    message = decode(data, type_, 64)
    assert isinstance(message, Malformed) or decode(encode(message), type_, 64) == message


@given(st.data(), st.sampled_from(WIRE_TYPES))
@settings(max_examples=FUZZ_COUNT)
def test_damaged_messages_are_messages_or_refused(data: st.DataObject, type_: type[Message]) -> None:
    samples: dict[type[Message], Message] = {
        BlobRef: BlobRef(bytes(32), 7),
        Manifest: Manifest(1, 5, bytes(32)),
        ManifestRequest: ManifestRequest(bytes(32)),
        HaveRequest: HaveRequest([bytes(32)]),
        HaveReply: HaveReply([None, b"", bytes(3)], 7),
        ManifestReply: ManifestReply(bytes(40), bytes(3), 7),
        ChunksRequest: ChunksRequest(bytes(32), 3, 4),
        Piece: Piece(3, memoryview(bytes(40))),
    }
    damaged = bytearray(encode(samples[type_]))
    for place, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(damaged) - 1), st.integers(0, 255)), max_size=4)
    ):
        damaged[place] = value
    cut = bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    for read in (decode(cut, type_, 4096), parse_manifest(cut, blake3(cut).digest())):
        assert isinstance(read, (Malformed, type_, Manifest))


def test_the_bounds_of_the_methods_hold_their_largest_messages() -> None:
    digest, index = bytes(32), 65_535
    assert len(encode(ManifestRequest(digest))) <= MANIFEST.request_bytes_max
    assert len(encode(ChunksRequest(digest, index, RUN_CHUNKS_MAX))) <= CHUNKS.request_bytes_max
    assert len(encode(Piece(index, memoryview(bytes(PIECE_BYTES))))) <= CHUNKS.reply_bytes_max < 65_000
    largest = ManifestReply(bytes(MANIFEST_BYTES_MAX), bytes(8192), 2**64 - 1)
    assert len(encode(largest)) <= MANIFEST.reply_bytes_max
    assert len(encode(HaveRequest([digest] * HAVES_MAX))) <= HAVE.request_bytes_max
    assert len(encode(HaveReply([bytes(8192)] * HAVES_MAX, 2**64 - 1))) <= HAVE.reply_bytes_max
    assert -(-CHUNK_BYTES // PIECE_BYTES) == 17
    for message in (
        ChunksRequest(digest, 0, 0),
        ChunksRequest(digest, 65_536, 1),
        ChunksRequest(digest, 0, 65),
        Piece(0, memoryview(bytes(PIECE_BYTES + 1))),
    ):
        assert isinstance(decode(encode(message), type(message), 2**20), Malformed)


@given(st.integers(0, 40).flatmap(lambda count: st.tuples(st.just(count), st.integers(0, 2**count - 1))))
def test_a_bitmap_is_read_back(pair: tuple[int, int]) -> None:
    count, mask = pair
    assert mask_from_bitmap(bitmap_from_mask(mask, count), count) == mask
    assert mask_from_bitmap(None, count) == 2**count - 1


@given(st.binary(max_size=8), st.integers(0, 40))
def test_any_bitmap_names_existing_chunks_or_is_refused(bitmap: bytes, count: int) -> None:
    mask = mask_from_bitmap(bitmap, count)
    assert isinstance(mask, Malformed) or 0 <= mask < 2**count


# The plan, in a world of its own


FOREVER = 10**9


@dataclass
class Peer:
    """How a holder behaves: chunk times in seconds, and what it does wrong."""

    has: int  # chunks it says it has, as bits
    chunk_s: float = 0.1
    wrong: int = 0  # chunks it sends with wrong bytes
    dies_after: int = FOREVER  # chunks, then silence
    refusals: int = 0  # questions it answers with BUSY first
    lies_in_manifest: bool = False
    unasked: bool = False  # sends a chunk nobody asked for
    queue: list[int] = field(default_factory=list[int])
    most_queued: int = 0  # chunks at a time
    sent: int = 0
    epoch: int = 0  # of its stream


class World:
    """Holders, a virtual clock and one plan. Checks the plan's promises at every step."""

    def __init__(
        self, chunks: int, peers: list[Peer], seed: int = 0, have: int = 0, ref: BlobRef | None = None
    ) -> None:
        made, self.manifest, self.manifest_data = blob_of(chunks)
        self.ref = ref or made
        self.peers = {PeerId(f"peer {number}"): peer for number, peer in enumerate(peers)}
        self.plan = FetchPlan(self.ref, PeerId(f"me {seed}"), Lines())
        self.have = have
        self.is_begun = False
        self.now = 0.0
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.numbers = itertools.count()
        self.taken: list[tuple[PeerId, int]] = []
        self.drops: list[Drop] = []
        self.asks = 0

    def later(self, delay: float, event: Callable[[], None]) -> None:
        heapq.heappush(self.events, (self.now + delay, next(self.numbers), event))

    def run(self, until: float = 2_000.0) -> bool:
        """Whether the fetch came to its end in time."""
        for _ in range(200_000):
            if self.plan.manifest is not None and not self.is_begun:
                self.is_begun = True
                self.plan.begin(self.have)
            self.plan.offer(self.peers)
            for effect in self.plan.step(self.now):
                self.carry_out(effect)
            if self.plan.is_complete or self.plan.failure or self.plan.is_hopeless(self.now):
                return self.plan.is_complete
            wake_at = self.plan.wake_at(self.now)
            assert wake_at > self.now
            next_at = min(wake_at, self.events[0][0] if self.events else until)
            if next_at >= until:
                return False
            self.now = next_at
            while self.events and self.events[0][0] <= self.now:
                heapq.heappop(self.events)[2]()
        raise AssertionError("the plan turns in circles")

    def carry_out(self, effect: Ask | Take | Drop) -> None:
        peer = self.peers[effect.peer]
        if isinstance(effect, Drop):
            self.drops.append(effect)
            peer.queue.clear()
            peer.epoch += 1
            return
        assert effect.peer not in self.plan.liars, "a liar is not asked again"
        if isinstance(effect, Ask):
            self.asks += 1
            self.later(0.01, lambda: self.answer(effect))
            return
        was_idle = not peer.queue
        for index in range(effect.first, effect.first + effect.count):
            assert peer.has >> index & 1, "it does not have it"
            assert not self.have >> index & 1, "it is here already"
            peer.queue.append(index)
            self.taken.append((effect.peer, index))
        peer.most_queued = max(peer.most_queued, len(peer.queue))
        assert len(peer.queue) <= WINDOW_MAX
        open_count = sum(bool(other.queue) for other in self.peers.values())
        assert open_count <= HOLDERS_OPEN_MAX + HOLDERS_AT_ONCE
        if was_idle:
            self.send_next(effect.peer)

    def answer(self, ask: Ask) -> None:
        peer = self.peers[ask.peer]
        if peer.refusals:
            peer.refusals -= 1
            self.plan.failed(ask.peer, "BUSY", self.now)
        else:
            data = b"lie" if peer.lies_in_manifest else self.manifest_data
            full = peer.has == 2**self.manifest.chunk_count - 1
            bitmap = None if full else bitmap_from_mask(peer.has, self.manifest.chunk_count)
            self.plan.replied(ask.peer, data if ask.wants_manifest else b"", bitmap, 0, self.now)

    def send_next(self, name: PeerId) -> None:
        peer, epoch = self.peers[name], self.peers[name].epoch
        if peer.sent < peer.dies_after:
            self.later(peer.chunk_s, lambda: self.deliver(name, epoch))

    def deliver(self, name: PeerId, epoch: int) -> None:
        peer = self.peers[name]
        if peer.epoch != epoch or not peer.queue:
            return
        index = peer.queue.pop(0)
        peer.sent += 1
        if peer.unasked:
            assert not self.plan.arrived(name, self.manifest.chunk_count + 1, self.now)
            return
        is_right = not peer.wrong >> index & 1
        if self.plan.arrived(name, index, self.now):
            self.later(0.002, lambda: self.verified(name, index, is_right))
        if peer.queue:
            self.send_next(name)

    def verified(self, name: PeerId, index: int, is_right: bool) -> None:
        if is_right:
            assert not self.have >> index & 1, "stored once"
            self.have |= 1 << index
        self.plan.stored(name, index, is_right, self.now)


def reachable(peers: list[Peer], is_sure: bool) -> int:
    """The dumb twin asks everybody for everything: the chunks it gets for sure, or with luck, as bits."""
    got = 0
    for peer in peers:
        for index in range(CHUNKS_IN_TESTS):
            is_right = (
                not peer.wrong >> index & 1 and not peer.lies_in_manifest and not peer.unasked and peer.dies_after
            )
            is_steady = not peer.wrong and peer.dies_after == FOREVER
            if peer.has >> index & 1 and is_right and (is_steady or not is_sure):
                got |= 1 << index
    return got


CHUNKS_IN_TESTS = 12
masks = st.integers(0, 2**CHUNKS_IN_TESTS - 1) | st.just(2**CHUNKS_IN_TESTS - 1)
any_peer = st.builds(
    Peer,
    has=masks,
    chunk_s=st.sampled_from([0.001, 0.1, 1.0, 25.0]),
    wrong=st.just(0) | masks,
    dies_after=st.just(FOREVER) | st.integers(0, 5),
    refusals=st.integers(0, 3),
)
liar = st.builds(Peer, has=masks, lies_in_manifest=st.booleans(), unasked=st.just(True)) | st.builds(
    Peer, has=masks, wrong=st.just(2**CHUNKS_IN_TESTS - 1)
)


def test_two_who_say_they_have_it_and_send_nothing_cannot_keep_a_chunk_from_a_slow_holder() -> None:
    silent = [Peer(has=2766, dies_after=0), Peer(has=4095, dies_after=0)]
    world = World(CHUNKS_IN_TESTS, [silent[0], Peer(has=0), Peer(has=4095, chunk_s=1.0, refusals=1), silent[1]])
    assert world.run(), world.plan.explain()
    assert world.now < 60


@given(peers=st.lists(any_peer | liar, max_size=10), seed=st.integers(0, 99), have=st.just(0) | masks)
@settings(max_examples=3_000 if SOAK else 200, deadline=None)
def test_a_fetch_succeeds_where_its_dumb_twin_does_and_else_says_why(peers: list[Peer], seed: int, have: int) -> None:
    world = World(CHUNKS_IN_TESTS, peers, seed, have)
    is_complete = world.run()
    everything = 2**CHUNKS_IN_TESTS - 1
    assert world.is_begun == any(not peer.lies_in_manifest for peer in peers)
    if world.is_begun and have | reachable(peers, is_sure=True) == everything:
        assert is_complete, world.plan.explain()
    if is_complete:
        assert world.have == have | reachable(peers, is_sure=False) == everything
    if not is_complete:
        assert "missing" in world.plan.explain()
    liars = {drop.peer for drop in world.drops if drop.is_lie}
    assert liars == set(world.plan.liars)
    for name, peer in world.peers.items():
        if name in liars:
            assert peer.wrong or peer.lies_in_manifest or peer.unasked, "an honest holder is never called a liar"


def test_the_chunks_are_shared_out_by_speed() -> None:
    full = 2**300 - 1
    world = World(300, [Peer(full, 0.01), Peer(full, 0.02), Peer(full, 0.04)])
    assert world.run()
    counts = [sum(name == peer for name, _ in world.taken) for peer in world.peers]
    assert counts[0] > 1.6 * counts[1] > 2.5 * counts[2] > 0
    assert world.now < 1.15 * 300 / (100 + 50 + 25)
    assert len(world.taken) < 310  # few are asked for twice


@pytest.mark.parametrize("holders", [1, 2])
def test_of_one_that_is_alone_more_is_asked_with_each_chunk_that_comes(holders: int) -> None:
    """A long line is slow at first. Among several, what waits at one of them could come from the others."""
    peers = [Peer(2**60 - 1, chunk_s=0.3) for _ in range(holders)]
    assert World(60, peers).run()
    assert [peer.most_queued for peer in peers] == ([BEGINNING_MAX] if holders == 1 else [WINDOW_MIN] * holders)


def test_wrong_bytes_end_a_holders_part_for_good_and_are_reported() -> None:
    full = 2**40 - 1
    world = World(40, [Peer(full, 0.01, wrong=full), Peer(full, 0.01)], seed=7)
    assert world.run()
    [lie] = [drop for drop in world.drops if drop.is_lie]
    assert lie.peer == "peer 0"
    first = next(index for name, index in world.taken if name == lie.peer)
    assert f"chunk {first} does not hash" in lie.reason
    assert "lied" in world.plan.explain()


def test_a_frozen_holder_costs_its_share_of_chunks_and_about_two_seconds() -> None:
    full = 2**60 - 1
    world = World(60, [Peer(full, 0.01), Peer(full, 0.01, dies_after=3), Peer(full, dies_after=0)])
    assert world.run()
    assert world.now < 2.5
    assert all(not drop.is_lie for drop in world.drops)


def test_a_holder_that_is_alone_may_be_slow() -> None:
    world = World(5, [Peer(2**5 - 1, chunk_s=STALL_S - 1)])
    assert world.run()
    assert world.drops == []
    assert world.now < 5 * STALL_S


def test_a_holder_that_stalls_alone_is_left_and_tried_again_until_there_is_no_hope() -> None:
    world = World(5, [Peer(2**5 - 1, dies_after=2)])
    assert not world.run()
    assert 3 <= len(world.drops) <= HOPELESS_S / STALL_S
    assert "delivered nothing" in world.plan.explain()
    assert HOPELESS_S <= world.now < 1.1 * HOPELESS_S


@pytest.mark.parametrize("word_s", [STALL_S - 1, STALL_S + 1])
def test_a_holder_that_says_that_its_turn_will_come_is_waited_for_but_not_for_ever(word_s: float) -> None:
    ref, manifest, data = blob_of(1)
    plan, peer, now = FetchPlan(ref, PeerId("me"), Lines()), PeerId("it"), 0.0
    plan.offer([peer])
    plan.step(now)
    plan.replied(peer, data, None, 0, now)
    plan.begin(0)
    assert plan.step(now) == [Take(peer, 0, 1)]
    drops: list[Drop] = []
    while not plan.is_hopeless(now):
        now += word_s
        drops += [effect for effect in plan.step(now) if isinstance(effect, Drop)]
        if not drops:
            plan.heard(peer, now)
    assert manifest.chunk_count == 1
    if word_s > STALL_S:
        assert [drop.reason for drop in drops] == ["delivered nothing for 30 s"]
        assert now < HOPELESS_S + word_s
    else:
        assert not drops
        assert WAIT_S_MAX <= now < WAIT_S_MAX + word_s


def test_a_slow_tail_is_asked_of_a_fast_holder_too() -> None:
    full = 2**20 - 1
    world = World(20, [Peer(full, 0.01), Peer(full, 8.0)])
    assert world.run()
    assert world.now < 5.0


def test_slow_holders_in_all_places_do_not_keep_a_fast_one_out() -> None:
    full = 2**200 - 1
    slow = [Peer(full, chunk_s=6.0) for _ in range(HOLDERS_AT_ONCE)]
    world = World(200, [*slow, *[Peer(full, chunk_s=6.0) for _ in range(5)], Peer(full, 0.01)])
    assert world.run()
    assert world.now < 8 * EXPLORE_S
    assert any(drop.reason.startswith(("slower", "was late")) for drop in world.drops)


def test_a_holder_with_a_part_is_asked_again_as_it_gets_more() -> None:
    origin, half = Peer(0b0001, 0.01), Peer(0b0010, 0.01)
    world = World(4, [origin, half])
    world.later(5.0, lambda: setattr(half, "has", 0b1110))
    assert world.run()
    assert 5.0 <= world.now < 7.0


def test_fetchers_with_different_seeds_start_at_different_chunks() -> None:
    firsts: set[int] = set()
    for seed in range(10):
        world = World(64, [Peer(2**64 - 1)], seed=seed * 6)
        world.run()
        firsts.add(world.taken[0][1])
    assert len(firsts) == 10


def test_what_is_here_is_not_asked_for() -> None:
    world = World(8, [Peer(2**8 - 1)], have=0b10101010)
    assert world.run()
    assert sorted(index for _, index in world.taken) == [0, 2, 4, 6]
    assert World(8, [Peer(2**8 - 1)], have=2**8 - 1).run()
    assert World(0, [Peer(0)]).run()  # the empty blob has a manifest and no chunks


def test_a_reference_with_a_wrong_size_can_never_be_fetched_and_nobody_is_blamed() -> None:
    world = World(3, [Peer(0b111)], ref=BlobRef(blob_of(3)[0].digest, 7))
    assert not world.run()
    assert "the reference says 7 bytes" in world.plan.explain()
    assert world.plan.liars == {}


def test_the_number_of_holders_is_bounded() -> None:
    plan = FetchPlan(blob_of(1)[0], PeerId("me"), Lines())
    plan.offer(PeerId(str(number)) for number in range(10 * HOLDERS_MAX))
    assert f"of {HOLDERS_MAX} holders" in plan.explain()
    asked = [effect for effect in plan.step(0.0) if isinstance(effect, Ask)]
    assert len(asked) == HOLDERS_AT_ONCE
    assert plan.explain().endswith(f"and {HOLDERS_MAX - 4} more)")


def test_nobody_to_ask_is_said() -> None:
    assert "nobody is known to hold it" in FetchPlan(blob_of(1)[0], PeerId("me"), Lines()).explain()


def test_a_blob_of_64_gib_is_planned_in_a_moment() -> None:
    ref, data = make_manifest(BLOB_BYTES_MAX, bytes(32 * 65_536))
    plan = FetchPlan(ref, PeerId("me"), Lines())
    plan.offer([PeerId("a")])
    plan.step(0.0)
    plan.replied(PeerId("a"), data, None, 0, 0.0)
    plan.begin(0)
    now, taken = 0.0, 0
    for _ in range(300):
        for effect in plan.step(now):
            assert isinstance(effect, Take)
            for index in range(effect.first, effect.first + effect.count):
                now += 0.001
                assert plan.arrived(PeerId("a"), index, now)
                plan.stored(PeerId("a"), index, True, now)
                taken += 1
    assert taken > 600
    assert plan.missing_count == 65_536 - taken
