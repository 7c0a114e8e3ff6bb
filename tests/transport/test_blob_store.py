"""Blobs on disk: what is stored, refused, evicted, resumed, and what a crash leaves."""

import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from shoal.transport.blob_disk import FREE_BYTES_MIN
from shoal.transport.blob_file import cut
from shoal.transport.blob_pins import LABEL_CHARS_MAX, LINES_SPARE, Pins
from shoal.transport.blob_store import BlobStore
from shoal.transport.blobs import CHUNK_BYTES, BlobRef, Manifest, make_manifest, parse_manifest
from shoal.transport.port import Refusal

MIB = 2**20
ROOT = Path(__file__).resolve().parents[2]


def content(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def named(data: bytes) -> tuple[BlobRef, Manifest, bytes]:
    chunks = [data[i : i + CHUNK_BYTES] for i in range(0, len(data), CHUNK_BYTES)]
    ref, manifest_data = make_manifest(len(data), b"".join(blake3(chunk).digest() for chunk in chunks))
    manifest = parse_manifest(manifest_data, ref.digest)
    assert isinstance(manifest, Manifest)
    return ref, manifest, manifest_data


def store_at(path: Path, budget: int = 64 * MIB, boot: str = "boot 1") -> BlobStore:
    return BlobStore(path / "blobs", budget, boot=boot)


def put(store: BlobStore, data: bytes, pin: str = "kept") -> BlobRef:
    ref = store.put([data], pin)
    assert isinstance(ref, BlobRef), ref
    return ref


def begin(store: BlobStore, data: bytes) -> int | Refusal:
    ref, manifest, manifest_data = named(data)
    return store.begin(ref.digest, manifest, manifest_data)


def read_all(store: BlobStore, ref: BlobRef) -> bytes | None:
    blob = store.open(ref)
    return None if blob is None else blob.read(0, blob.size)


def files_in(path: Path) -> list[str]:
    return sorted(file.name for file in (path / "blobs" / "partial").iterdir())


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 5])
def test_what_was_put_is_read_back_under_the_name_of_its_content(tmp_path: Path, size: int) -> None:
    data = content(size)
    store = store_at(tmp_path)
    ref = put(store, data)
    assert ref == named(data)[0]
    assert read_all(store, ref) == data
    assert read_all(store_at(tmp_path), ref) == data


@given(sizes=st.lists(st.integers(0, 3 * MIB // 2), max_size=6))
@settings(max_examples=30)
def test_the_name_does_not_depend_on_how_the_bytes_are_cut_into_pieces(sizes: list[int]) -> None:
    pieces = [content(size, seed) for seed, size in enumerate(sizes)]
    parts = [bytes(part) for part in cut([memoryview(piece) for piece in pieces])]
    assert b"".join(parts) == b"".join(pieces)
    ends = [sum(len(part) for part in parts[: i + 1]) for i in range(len(parts))]
    assert all(
        (end - len(part)) // CHUNK_BYTES == (end - 1) // CHUNK_BYTES for end, part in zip(ends, parts, strict=True)
    )


def test_tensors_are_taken_as_they_lie_in_memory(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    words = memoryview(bytearray(content(4 * 300_000))).cast("I", (300, 1000))
    empty = memoryview(b"").cast("I")
    ref = store.put([empty, words, b"tail"], "a")
    assert isinstance(ref, BlobRef)
    assert read_all(store, ref) == words.tobytes() + b"tail"


def test_a_reader_refuses_bytes_outside_of_the_blob(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    blob = store.open(put(store, b"twelve bytes"))
    assert blob is not None
    assert blob.read(7, 5) == b"bytes"
    for offset, length in ((-1, 2), (0, 13), (12, 1), (3, -1)):
        with pytest.raises(ValueError, match="of a blob of 12"):
            blob.read(offset, length)
    for offset, length in ((-1, 2), (0, 13), (12, 1)):
        with pytest.raises(ValueError, match="of a blob of 12"):
            blob.read_into(offset, memoryview(bytearray(length)))


@pytest.mark.parametrize(("offset", "length"), [(0, 12), (7, 5), (12, 0)])
def test_a_reader_fills_memory_that_it_is_given(tmp_path: Path, offset: int, length: int) -> None:
    store = store_at(tmp_path)
    blob = store.open(put(store, b"twelve bytes"))
    assert blob is not None
    room = bytearray(b"-" * (length + 2))
    blob.read_into(offset, memoryview(room)[1:-1])
    assert room == b"-" + b"twelve bytes"[offset : offset + length] + b"-"


def test_a_reader_of_a_file_that_was_cut_short_says_so(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    ref = put(store, content(2 * MIB))
    blob = store.open(ref)
    assert blob is not None
    (path,) = (path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size > 2 * MIB)
    os.truncate(path, MIB)
    with pytest.raises(OSError, match="is shorter than"):
        blob.read_into(0, memoryview(bytearray(2 * MIB)))


def test_a_reader_goes_on_reading_what_is_evicted_under_it(tmp_path: Path) -> None:
    store = store_at(tmp_path, budget=3 * MIB)
    first = put(store, content(2 * MIB), "a")
    blob = store.open(first)
    assert blob is not None
    store.unpin("a")
    put(store, content(2 * MIB, 1), "b")
    assert store.open(first) is None
    assert blob.read(0, blob.size) == content(2 * MIB)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system does not tell who has a file open")
@pytest.mark.parametrize("mib", [1, 3, 5])
def test_a_new_blob_is_written_over_one_that_is_evicted_unless_somebody_reads_that(tmp_path: Path, mib: int) -> None:
    store = store_at(tmp_path)

    def put(data: bytes) -> tuple[BlobRef, int]:
        ref = store.put([data], "a")
        assert isinstance(ref, BlobRef)
        store.unpin("a")
        return ref, (tmp_path / "blobs" / ref.cid).stat().st_ino

    first, first_file = put(content(3 * MIB, seed=1))
    second, second_file = put(content(mib * MIB, seed=2))
    assert (second_file == first_file, store.open(first)) == (True, None)
    assert read_all(store, second) == content(mib * MIB, seed=2)
    reader = store.open(second)
    assert reader is not None
    third, third_file = put(content(mib * MIB, seed=3))
    assert third_file != second_file
    assert reader.read(0, mib * MIB) == content(mib * MIB, seed=2)
    data = content(mib * MIB + 9, seed=4)
    ref, manifest, manifest_data = named(data)
    assert store.begin(ref.digest, manifest, manifest_data) == 0
    assert (tmp_path / "blobs" / "partial" / ref.cid).stat().st_ino == third_file
    assert store.read_chunk(ref.digest, 0) is None
    for index in range(mib + 1):
        assert store.write_chunk(ref.digest, index, [data[index * MIB : (index + 1) * MIB]]) is True
    assert store.finish(ref.digest, ["b"]) is None
    assert read_all(store, ref) == data
    assert store.open(third) is None


def test_a_name_with_another_size_is_not_the_blob(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    ref = put(store, b"abc")
    assert store.open(BlobRef(ref.digest, 4)) is None


def test_the_least_recently_used_goes_first_and_the_pinned_never(tmp_path: Path) -> None:
    store = store_at(tmp_path, budget=4 * MIB + 10_000)
    refs = [put(store, content(MIB, seed), str(seed)) for seed in range(4)]
    for label in ("0", "1", "2"):
        store.unpin(label)
    assert store.open(refs[0]) is not None  # used: now 1 is the oldest
    put(store, content(MIB, 4), "4")
    assert [store.open(ref) is not None for ref in refs] == [True, False, True, True]
    put(store, content(2 * MIB, 5), "5")
    assert [store.open(ref) is not None for ref in refs] == [False, False, False, True]


def test_a_full_budget_refuses_with_the_reason_and_loses_nothing(tmp_path: Path) -> None:
    store = store_at(tmp_path, budget=4 * MIB)
    pinned, loose = put(store, content(MIB, 1), "a"), put(store, content(MIB, 2), "b")
    store.unpin("b")
    used = store.used_bytes
    for refusal in (store.put([content(4 * MIB)], "c"), begin(store, content(4 * MIB))):
        assert isinstance(refusal, Refusal)
        assert "the budget for blobs is full" in refusal.message
        assert str(4 * MIB) in refusal.message
    assert store.open(pinned) is not None
    assert store.open(loose) is not None
    assert store.used_bytes == used
    assert files_in(tmp_path) == []


def test_an_iterator_of_unknown_length_is_refused_when_it_proves_too_long(tmp_path: Path) -> None:
    store = store_at(tmp_path, budget=4 * MIB)
    pinned = put(store, content(MIB, 1), "a")
    refusal = store.put((content(MIB, seed) for seed in range(10)), "b")
    assert isinstance(refusal, Refusal)
    assert store.open(pinned) is not None
    assert files_in(tmp_path) == []
    assert store.labels() == {"a": frozenset({pinned.digest})}
    assert isinstance(store.put([content(2 * MIB, 3)], "b"), BlobRef)


def test_a_full_disk_refuses_and_leaves_the_owner_room(tmp_path: Path) -> None:
    free = [FREE_BYTES_MIN + 2 * MIB]
    store = BlobStore(tmp_path / "blobs", 64 * MIB, free_bytes=lambda _: free[0], boot="b")
    data = content(2 * MIB - 1000)
    assert isinstance(store.put([content(3 * MIB)], "a"), Refusal)
    ref = named(data)[0]
    assert begin(store, data) == 0
    assert store.write_chunk(ref.digest, 0, [data[:MIB]]) is True
    free[0] = FREE_BYTES_MIN - 1  # somebody else fills it
    refusal = store.write_chunk(ref.digest, 1, [data[MIB:]])
    assert isinstance(refusal, Refusal)
    assert refusal.message.startswith(f"the disk is full: less than {FREE_BYTES_MIN} bytes are left; make room, ")
    store.abandon(ref.digest)
    free[0] = FREE_BYTES_MIN + MIB
    assert begin(store, data) == 0b01  # nothing was lost


def test_a_disk_that_takes_no_more_refuses_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    """A real limit of the kernel, in a process of its own: what it writes beyond 3 MiB fails as on a full disk."""
    code = f"""
import resource, sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from shoal.transport.blob_store import BlobStore
from shoal.transport.blobs import BlobRef
store = BlobStore(Path({str(tmp_path)!r}) / "blobs", 64 * 2**20)
ref = store.put([bytes(2**20)], "a")
resource.setrlimit(resource.RLIMIT_FSIZE, (3 * 2**20, 3 * 2**20))
print(store.put([bytes(5 * 2**20)], "b").message)
assert isinstance(store.put([bytes(2 * 2**20)], "b"), BlobRef) and store.open(ref) is not None
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert "the disk is full" in result.stdout
    assert files_in(tmp_path) == []


def test_a_put_that_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    class StoppedError(Exception): ...

    calls: list[None] = []

    def checkpoint() -> None:
        calls.append(None)
        if len(calls) == 3:
            raise StoppedError

    store = store_at(tmp_path)
    with pytest.raises(StoppedError):
        store.put([content(5 * MIB)], "a", checkpoint)
    assert (files_in(tmp_path), store.used_bytes, store.labels()) == ([], 0, {})


def test_a_chunk_is_written_only_after_its_hash_was_checked(tmp_path: Path) -> None:
    store, data = store_at(tmp_path), content(3 * MIB + 7)
    ref, manifest, manifest_data = named(data)
    assert store.begin(ref.digest, manifest, manifest_data) == 0
    assert store.write_chunk(ref.digest, 1, [data[:MIB]]) is False  # another chunk's bytes
    assert store.write_chunk(ref.digest, 3, [data[3 * MIB :] + b"x"]) is False
    assert store.read_chunk(ref.digest, 1) is None
    assert store.write_chunk(ref.digest, 3, [data[3 * MIB :]]) is True
    assert store.read_chunk(ref.digest, 3) == data[3 * MIB :]
    assert store.open(ref) is None
    with pytest.raises(RuntimeError, match="lacks chunks"):
        store.finish(ref.digest, ["a"])
    for index in range(3):
        assert store.write_chunk(ref.digest, index, [data[index * MIB : (index + 1) * MIB]]) is True
    assert store.finish(ref.digest, ["a", "b"]) is None
    assert read_all(store, ref) == data
    assert store.labels() == {"a": {ref.digest}, "b": {ref.digest}}
    assert store.read_chunk(ref.digest, 3) == data[3 * MIB :]
    assert store.read_chunk(ref.digest, 4) is None


def test_an_unfinished_blob_is_resumed_by_what_its_file_holds(tmp_path: Path) -> None:
    data = content(4 * MIB)
    ref, manifest, manifest_data = named(data)
    store = store_at(tmp_path)
    store.begin(ref.digest, manifest, manifest_data)
    store.write_chunk(ref.digest, 0, [data[:MIB]])
    store.write_chunk(ref.digest, 2, [data[2 * MIB : 3 * MIB]])
    again = store_at(tmp_path)  # the first store just stopped existing, as when its process is killed
    assert again.unfinished(ref.digest) == (manifest, manifest_data)
    path = tmp_path / "blobs" / "partial" / ref.cid
    with path.open("r+b") as file:
        file.seek(2 * MIB + 5)
        file.write(b"torn")
    assert again.begin(ref.digest, manifest, manifest_data) == 0b001  # chunk 2 is not believed any more
    assert again.unfinished(ref.digest) is None
    again.abandon(ref.digest)
    path.write_bytes(b"only garbage")
    assert again.unfinished(ref.digest) is None
    assert again.begin(ref.digest, manifest, manifest_data) == 0


def test_what_a_fetch_left_behind_is_not_served_where_the_blob_was_made_here_since(tmp_path: Path) -> None:
    store, data = store_at(tmp_path), content(2 * MIB)
    ref, manifest, manifest_data = named(data)
    store.begin(ref.digest, manifest, manifest_data)
    store.abandon(ref.digest)
    assert store.put([data], "a") == ref
    assert store.read_chunk(ref.digest, 0) == data[:MIB]


def test_leftovers_of_unfinished_fetches_are_evicted_only_when_room_is_short(tmp_path: Path) -> None:
    store = store_at(tmp_path, budget=5 * MIB)
    whole = put(store, content(MIB), "a")
    store.unpin("a")
    ref, manifest, manifest_data = named(content(2 * MIB, 1))
    store.begin(ref.digest, manifest, manifest_data)
    assert store.open(whole) is None  # nobody pinned it
    assert isinstance(store.put([content(4 * MIB, 2)], "b"), Refusal)  # being fetched: stays
    store.abandon(ref.digest)
    assert isinstance(store.put([content(2 * MIB, 2)], "b"), BlobRef)
    assert store.unfinished(ref.digest) is not None
    assert isinstance(store.put([content(2 * MIB, 3)], "b"), BlobRef)
    assert store.unfinished(ref.digest) is None
    assert files_in(tmp_path) == []


def test_what_nobody_pins_makes_room_for_as_much_and_the_rest_stays(tmp_path: Path) -> None:
    store = store_at(tmp_path, budget=100 * MIB)
    old, middle, young = (put(store, content(MIB, number), str(number)) for number in range(3))
    for label in ("0", "1"):
        store.unpin(label)
    used = store.used_bytes
    put(store, content(MIB - 100, 9), "new")
    assert store.open(old) is None
    assert store.open(middle) is not None
    assert store.open(young) is not None
    assert store.used_bytes <= used
    put(store, content(2 * MIB, 10), "newer")
    assert (store.open(middle), store.open(young) is not None) == (None, True)


def test_pins_survive_a_restart_and_letting_go_survives_it_too(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    a, b = put(store, b"a", "x"), put(store, b"b", "x")
    store.pin(a.digest, "y")
    again = store_at(tmp_path)
    assert again.labels() == {"x": {a.digest, b.digest}, "y": {a.digest}}
    again.unpin("x")
    again.pin(b.digest, "x")
    again.unpin("nobody's")
    again.flush()
    assert store_at(tmp_path).labels() == {"x": {b.digest}, "y": {a.digest}}


def test_a_torn_last_line_of_the_journal_is_cut_off(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    a, b = put(store, b"a", "x"), put(store, b"b", "y")
    journal = tmp_path / "blobs" / "pins.jsonl"
    journal.write_bytes(journal.read_bytes()[:-9])
    again = store_at(tmp_path)
    assert again.labels() == {"x": {a.digest}}
    again.pin(b.digest, "z")
    assert store_at(tmp_path).labels() == {"x": {a.digest}, "z": {b.digest}}


@example(b"[" * 100_000 + b"\n")
@given(st.binary(max_size=300))
def test_any_bytes_are_read_as_a_journal(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "pins.jsonl"
    path.write_bytes(data)
    pins = Pins(path)
    pins.add("label", bytes(32))
    pins.flush()
    assert Pins(path).labels() == pins.labels()


def test_a_journal_never_holds_many_more_lines_than_pins(tmp_path: Path) -> None:
    path = tmp_path / "pins.jsonl"
    pins = Pins(path)
    pins.add("kept", bytes(32))
    for index in range(700):
        pins.add("round", index.to_bytes(32))
        pins.remove("round")
        pins.flush()
        assert path.read_bytes().count(b"\n") <= LINES_SPARE + 4
    assert Pins(path).labels() == {"kept": {bytes(32)}} == pins.labels()
    lines = path.read_bytes()
    path.write_bytes(lines * (1 + 2 * LINES_SPARE // lines.count(b"\n")))  # as an older version may have left it
    assert Pins(path).labels() == {"kept": {bytes(32)}}
    assert path.read_bytes().count(b"\n") == 1
    with pytest.raises(ValueError, match="200 characters"):
        pins.add("x" * (LABEL_CHARS_MAX + 1), bytes(32))


def test_a_journal_that_cannot_be_written_refuses_the_pin_and_keeps_the_order_of_the_rest(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    put(store, b"older", "w")
    a = put(store, b"a", "x")
    journal = tmp_path / "blobs" / "pins.jsonl"
    journal.rename(tmp_path / "moved")
    journal.mkdir()
    store.unpin("w")
    store.unpin("x")
    assert isinstance(store.pin(a.digest, "x"), Refusal)
    assert isinstance(store.put([b"b"], "y"), Refusal)
    assert store.labels() == {}
    journal.rmdir()
    (tmp_path / "moved").rename(journal)
    assert store.pin(a.digest, "z") is True
    assert store_at(tmp_path).labels() == {"z": {a.digest}}


def test_after_a_reboot_every_blob_is_hashed_before_it_is_believed(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    good, spoiled = put(store, content(2 * MIB, 1), "a"), put(store, content(2 * MIB, 2), "a")
    with (tmp_path / "blobs" / spoiled.cid).open("r+b") as file:
        file.seek(MIB)
        file.write(bytes(4096))
    assert store_at(tmp_path, boot="boot 1").open(spoiled) is not None
    after = store_at(tmp_path, boot="boot 2")
    assert after.open(spoiled) is None
    assert after.open(good) is not None
    assert after.labels() == {"a": {good.digest}}


def test_a_stranger_file_among_the_blobs_is_left_alone(tmp_path: Path) -> None:
    store_at(tmp_path)
    (tmp_path / "blobs" / "notes.txt").write_text("mine")
    (tmp_path / "blobs" / "partial" / "put-7").write_text("what a killed process was writing")
    store_at(tmp_path)
    assert (tmp_path / "blobs" / "notes.txt").exists()
    assert files_in(tmp_path) == []


def test_a_blob_put_while_it_is_fetched_is_stored_once(tmp_path: Path) -> None:
    store, data = store_at(tmp_path), content(MIB + 1)
    ref, manifest, manifest_data = named(data)
    store.begin(ref.digest, manifest, manifest_data)
    put(store, data, "a")
    used = store.used_bytes
    for index in range(2):
        store.write_chunk(ref.digest, index, [data[index * MIB : (index + 1) * MIB]])
    assert store.finish(ref.digest, ["b"]) is None
    assert store.used_bytes < used
    assert store.used_bytes == store_at(tmp_path).used_bytes
    assert store.labels() == {"a": {ref.digest}, "b": {ref.digest}}


def test_many_threads_put_pin_and_evict_at_once_and_the_books_balance(tmp_path: Path) -> None:
    store = store_at(tmp_path, budget=6 * MIB)
    failures: list[str] = []

    def work(seed: int) -> None:
        for turn in range(8):
            data = content(MIB // 2, seed * 100 + turn)
            ref = store.put([data], f"{seed}")
            if not isinstance(ref, BlobRef) or read_all(store, ref) != data:
                failures.append(f"{seed} {turn}: {ref}")
            store.unpin(f"{seed}")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    store.flush()
    assert store.used_bytes == store_at(tmp_path).used_bytes <= 6 * MIB


class StoreMachine(RuleBasedStateMachine):
    """The store against a dictionary, through restarts."""

    directories: Iterator[Path]

    @initialize()
    def start(self) -> None:
        self.path = next(StoreMachine.directories)
        self.store = store_at(self.path, budget=8 * 300_000)
        self.pinned: dict[str, set[int]] = {}
        self.refs: dict[int, BlobRef] = {}

    def kept(self) -> set[int]:
        return {seed for seeds in self.pinned.values() for seed in seeds}

    @rule(seed=st.integers(0, 11), label=st.sampled_from("abc"))
    def put(self, seed: int, label: str) -> None:
        result = self.store.put(iter([content(300_000 - 100, seed)]), label)
        if isinstance(result, BlobRef):
            self.refs[seed] = result
            self.pinned.setdefault(label, set()).add(seed)
        else:
            assert len(self.kept() | {seed}) >= 5  # an iterator is booked by whole chunks, 3.5 times its size

    @rule(label=st.sampled_from("abc"))
    def unpin(self, label: str) -> None:
        self.store.unpin(label)
        self.pinned.pop(label, None)

    @rule()
    def restart(self) -> None:
        self.store.flush()
        self.store = store_at(self.path, budget=8 * 300_000)

    @invariant()
    def what_is_pinned_is_here_and_the_budget_holds(self) -> None:
        if not hasattr(self, "store"):
            return
        assert self.store.used_bytes <= 8 * 300_000
        for seed in self.kept():
            assert read_all(self.store, self.refs[seed]) == content(300_000 - 100, seed)


def test_whatever_is_done_what_is_pinned_is_here(tmp_path: Path) -> None:
    count = iter(range(10**9))
    StoreMachine.directories = (tmp_path / str(number) for number in count)
    steps = 60 if os.environ.get("SHOAL_SOAK") else 15
    run_state_machine_as_test(
        StoreMachine, settings=settings(max_examples=2 * steps, stateful_step_count=steps, deadline=None)
    )
