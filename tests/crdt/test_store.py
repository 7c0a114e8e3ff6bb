"""What was acknowledged comes back, in an order that a replica takes; what changed by itself is never believed."""

import os
import random
import subprocess
import sys
import tempfile
import time
import tracemalloc
import uuid
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from shoal.crdt import store as store_module
from shoal.crdt.compact import Snapshot, digest_of, read_snapshot
from shoal.crdt.dots import Writer
from shoal.crdt.operation import Operation, Stretch, Taken, genesis, read_batch, seal, tag_of
from shoal.crdt.replica import Replica
from shoal.crdt.rules import Kind, Rule, Rules
from shoal.crdt.store import Fault, Loaded, Store, StoreError
from shoal.transport.identity import Identity
from shoal.transport.wire import Malformed

SOAK = bool(os.environ.get("SHOAL_SOAK"))
NOBODY = 65_534
SWARM = b"s" * 32
KEYS = [Identity.from_seed(bytes([number]) * 32) for number in range(1, 51)]
RULES = Rules({"set": Rule(Kind.SET, is_own=False)}, creator=Writer(KEYS[0].public_key))


def chain(key: Identity, count: int, size: int = 8) -> list[Stretch]:
    """So many batches of two operations each."""
    previous, first, batches = genesis(SWARM, Writer(key.public_key)), 1, list[Stretch]()
    for number in range(count):
        operations = [Operation("set", (str(number % 5),), bytes([each]) * size) for each in (1, 2)]
        batches.append(seal(key, SWARM, first, previous, operations))
        previous, first = batches[-1].hashes[-1], first + 2
    return batches


def everything(loaded: Loaded) -> tuple[bytes | None, list[bytes], list[bytes]]:
    snapshot = loaded.snapshot
    return (
        None if snapshot is None else snapshot.digest,
        [] if snapshot is None else list(snapshot.pieces),
        list(loaded.batches),
    )


def replica_of(loaded: Loaded) -> Replica:
    """What a node does at its start."""
    target = Replica(SWARM, RULES)
    if loaded.snapshot is not None:
        snapshot = read_snapshot(loaded.snapshot.pieces, SWARM)
        assert not isinstance(snapshot, Malformed), snapshot
        target.adopt(snapshot)
    for data in loaded.batches:
        admission = target.admit(data, is_trusted=True)
        assert admission.refusal is None
        assert admission.missing is None
    return target


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "swarm" / "store.db"


def test_what_was_appended_is_there_when_the_file_is_opened_again(path: Path) -> None:
    batches = chain(KEYS[0], 3)
    with Store(path, SWARM) as store:
        assert everything(store.load()) == (None, [], [])
        store.append(batches[:2])
        store.append(batches[2:])
    with Store(path, SWARM) as store:
        loaded = store.load()
        assert everything(loaded) == (None, [], [each.data for each in batches])
        assert not loaded.is_damaged


def test_a_replica_comes_back_with_its_forks_and_goes_on(path: Path) -> None:
    one, other = chain(KEYS[0], 4), chain(KEYS[1], 4)
    twins = [
        seal(KEYS[1], SWARM, 3, other[1].batch.previous, [Operation("set", ("twin",), bytes([number]))])
        for number in range(6)
    ]
    target = Replica(SWARM, RULES)
    with Store(path, SWARM) as store:
        for stretch in [*one[:2], *other, *sorted(twins, key=lambda twin: twin.hashes, reverse=True), *one[2:]]:
            admission = target.admit(stretch.data)
            store.append([each for each in admission.kept if each.writer not in admission.forked])
            for writer in admission.forked:
                store.replace(writer, target.batches(writer))
    with Store(path, SWARM) as store:
        loaded = store.load()
        assert len(list(store.load().batches)) == len(one) + 1 + 2  # of the forked chain: what counts, and the proof
        again = replica_of(loaded)
    assert again.heads() == target.heads()
    assert again.digest() == target.digest()
    assert again.heads()[Writer(KEYS[1].public_key)].is_forked


def test_after_compaction_the_snapshot_and_what_is_above_it_come_back(path: Path) -> None:
    one, other = chain(KEYS[0], 6), chain(KEYS[1], 6)
    target = Replica(SWARM, RULES)
    with Store(path, SWARM) as store:
        for stretch in [*one[:4], *other]:
            store.append(target.admit(stretch.data).kept)
        snapshot = target.snapshot(target.frontier())
        assert not isinstance(snapshot, Malformed)
        target.adopt(snapshot)
        for stretch in one[4:]:
            store.append(target.admit(stretch.data).kept)
        pieces = list(snapshot.pieces())
        store.compact(pieces, digest_of(pieces), {writer: mark.number for writer, mark in snapshot.frontier.items()})
        assert target.heads()[Writer(KEYS[0].public_key)].number == 12
    with Store(path, SWARM) as store:
        assert everything(store.load()) == (digest_of(pieces), pieces, [each.data for each in one[4:]])
        again = replica_of(store.load())
    assert again.digest() == target.digest()


def test_a_batch_that_reaches_over_the_frontier_stays(path: Path) -> None:
    batches = chain(KEYS[0], 3)  # operations 1-2, 3-4, 5-6
    with Store(path, SWARM) as store:
        store.append(batches)
        store.compact([b"first"], b"1" * 32, {batches[0].writer: 3})
        assert everything(store.load()) == (b"1" * 32, [b"first"], [each.data for each in batches[1:]])
        store.compact([b"second", b"piece"], b"2" * 32, {batches[0].writer: 6, Writer(KEYS[9].public_key): 1})
        assert everything(store.load()) == (b"2" * 32, [b"second", b"piece"], [])


def test_what_is_read_bit_by_bit_is_not_disturbed_by_what_is_written_meanwhile(path: Path) -> None:
    batches = chain(KEYS[0], 2 * store_module.BATCHES_READ + 5)
    with Store(path, SWARM) as store:
        store.append(batches[:-1])
        reading = store.load().batches
        first = next(reading)
        store.append(batches[-1:])
        assert [first, *reading] == [each.data for each in batches]


def test_whichever_thread_the_next_call_comes_from(path: Path) -> None:
    batches = chain(KEYS[0], 3)
    store = Store(path, SWARM)
    for each in batches:
        with ThreadPoolExecutor(1) as thread:  # a new one
            thread.submit(store.append, [each]).result()
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(everything, store.load()).result()[2] == [each.data for each in batches]
        thread.submit(store.close).result()


def test_compaction_gives_the_space_back(path: Path) -> None:
    batches = chain(KEYS[0], 200, size=2000)
    with Store(path, SWARM) as store:
        store.append(batches)
        store.compact([b"snapshot"], bytes(32), {batches[0].writer: batches[-1].last})
        assert sum(each.stat().st_size for each in path.parent.iterdir()) < 100_000


def test_loading_takes_memory_for_a_few_batches_only(path: Path) -> None:
    batches = chain(KEYS[0], 400, size=8000)
    with Store(path, SWARM) as store:
        store.append(batches)
        sizes = [len(each.data) for each in batches]
        tracemalloc.start()
        assert sum(map(len, store.load().batches)) == sum(sizes)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 2.5 * store_module.BATCHES_READ * max(sizes) < sum(sizes) / 2


# What goes wrong.


def test_a_full_store_keeps_what_it_has_and_takes_more_after_compaction(path: Path) -> None:
    batches = chain(KEYS[0], 100, size=2000)
    with Store(path, SWARM, bytes_max=200_000) as store:
        stored = 0
        with pytest.raises(StoreError, match="Free some space") as caught:  # noqa: PT012
            while True:
                store.append([batches[stored]])
                stored += 1
        assert caught.value.fault is Fault.FULL
        assert 30 < stored < 60
        assert everything(store.load())[2] == [each.data for each in batches[:stored]]
        with pytest.raises(StoreError):
            store.append(batches[stored : stored + 5])
        store.compact([b"snapshot"], bytes(32), {batches[0].writer: batches[stored - 1].last})
        store.append(batches[stored : stored + 5])
        assert everything(store.load())[2] == [each.data for each in batches[stored : stored + 5]]


def test_one_process_at_a_time_uses_a_store(path: Path) -> None:
    with Store(path, SWARM):
        with pytest.raises(StoreError, match="another process uses it") as caught:
            Store(path, SWARM)
        assert caught.value.fault is Fault.IN_USE
        code = (
            "import sys, pathlib; from shoal.crdt.store import Store, StoreError\n"
            "try: Store(pathlib.Path(sys.argv[1]), b's' * 32)\n"
            "except StoreError as error: print(error.fault.value)"
        )
        process = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
        assert process.stdout.strip() == "in use"
    Store(path, SWARM).close()


def test_a_copy_has_all_that_the_store_has_while_it_is_in_use(path: Path) -> None:
    with Store(path, SWARM) as store:
        store.append(chain(KEYS[0], 3))
        copy = path.with_name("copy.db")
        store.copy_to(copy)
        with Store(copy, SWARM) as other:
            assert list(other.load().batches) == list(store.load().batches) != []
        with pytest.raises(StoreError, match="cannot be used"):
            store.copy_to(copy)


def test_another_swarms_store_and_a_newer_ones_are_left_alone(path: Path) -> None:
    Store(path, SWARM).close()
    with pytest.raises(StoreError, match="Move it back") as caught:
        Store(path, b"t" * 32)
    assert caught.value.fault is Fault.OTHER
    data = bytearray(path.read_bytes())
    data[63] += 1  # SQLite's user_version, the last of its four bytes
    path.write_bytes(data)
    with pytest.raises(StoreError, match="needs a newer Shoal") as caught:
        Store(path, SWARM)
    assert caught.value.fault is Fault.NEWER
    assert path.read_bytes() == data


@pytest.mark.skipif(os.name != "posix", reason="no modes there")
def test_nobody_else_can_read_the_files(path: Path) -> None:
    with Store(path, SWARM) as store:
        store.append(chain(KEYS[0], 1))
        names = [path, path.with_name("store.db-wal")]
        assert [each.stat().st_mode & 0o777 for each in names] == [0o600, 0o600]
        assert path.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(sys.platform == "win32", reason="no modes there")
def test_a_folder_that_cannot_be_written_is_said_to_be_so() -> None:
    with tempfile.TemporaryDirectory() as folder:  # not tmp_path: only its owner may enter that
        Path(folder).chmod(0o555)
        with as_somebody_else(), pytest.raises(StoreError, match="Choose another place") as caught:
            Store(Path(folder) / "store.db", SWARM)
    assert caught.value.fault is Fault.DISK


@contextmanager
def as_somebody_else() -> Generator[None]:
    """Root may write everywhere."""
    before = os.geteuid()
    os.seteuid(before or NOBODY)
    try:
        yield
    finally:
        os.seteuid(before)


def test_what_a_kill_left_of_a_store_being_made_is_no_obstacle(path: Path) -> None:
    path.parent.mkdir()
    for name in ("store.db.new", "store.db.new-wal", "store.db-wal"):
        (path.parent / name).write_bytes(b"half")
    with Store(path, SWARM) as store:
        assert not store.load().is_damaged


def damage_header(data: bytearray) -> None:
    data[:16] = bytes(16)


def damage_pages(data: bytearray) -> None:
    data[8192:] = bytes(len(data) - 8192)


def damage_one_byte(data: bytearray) -> None:
    data[data.rindex(b"\2\2\2\2\2\2\2\2") + 3] ^= 1  # in the last batch


def damage_end(data: bytearray) -> None:
    del data[len(data) // 2 :]


def damage_all(data: bytearray) -> None:
    data.clear()


@pytest.mark.parametrize("damage", [damage_header, damage_pages, damage_one_byte, damage_end, damage_all])
def test_a_damaged_file_is_put_aside_and_the_node_knows_until_it_has_asked(
    path: Path, damage: Callable[[bytearray], None]
) -> None:
    batches = chain(KEYS[0], 60)
    with Store(path, SWARM) as store:
        store.append(batches)
    data = bytearray(path.read_bytes())
    damage(data)
    path.write_bytes(data)
    for _ in range(2):  # a restart in between does not make it forget
        with Store(path, SWARM) as store:
            loaded = store.load()
            assert loaded.is_damaged
            assert everything(loaded) == (None, [], [])
    assert (path.parent / "store.db.damaged").read_bytes() == data
    with Store(path, SWARM) as store:
        store.append(batches)  # from peers
        store.recovered()
        assert not store.load().is_damaged
    with Store(path, SWARM) as store:
        loaded = store.load()
        assert not loaded.is_damaged
        assert everything(loaded)[2] == [each.data for each in batches]
    assert [each.name for each in path.parent.iterdir()] == ["store.db"]


def test_of_a_file_with_changed_bytes_either_all_is_believed_or_nothing(path: Path) -> None:
    batches = [*chain(KEYS[0], 40, size=100), *chain(KEYS[1], 4, size=7000)]
    with Store(path, SWARM) as store:
        store.append(batches)
        store.replace(batches[0].writer, [each.data for each in batches[:39]])
        store.compact([b"piece" * 1000] * 4, bytes(32), {batches[0].writer: 10})
        whole = everything(store.load())
    good = path.read_bytes()
    order = random.Random(5)
    noticed = 0
    for _ in range(3000 if SOAK else 60):
        data = bytearray(good)
        for _ in range(order.randint(1, 3)):
            data[order.randrange(len(data))] ^= 1 << order.randrange(8)
        path.write_bytes(data)
        try:
            with Store(path, SWARM) as store:
                loaded = store.load()
                content = everything(loaded)
                noticed += loaded.is_damaged
                assert content == ((None, [], []) if loaded.is_damaged else whole)
                store.recovered()
                store.append(batches[:1])
                store.replace(batches[0].writer, [])
                store.compact([], bytes(32), {})
        except StoreError as error:
            # A few bits of the file say that it is another's, a newer one or not to be written. What it must not do is
            # to seem whole now, and damaged at every write.
            assert error.fault is not Fault.DAMAGED, error  # noqa: PT017
            noticed += 1
        path.unlink()
    assert noticed


# Against a dumb twin.

CHAINS = [chain(key, 40, size=300) for key in KEYS[:4]]


class StoreMachine(RuleBasedStateMachine):
    """A store, and the lists that say what is in it."""

    folder: Path

    def __init__(self) -> None:
        super().__init__()
        self.path = self.folder / f"{uuid.uuid4()}.db"
        self.store = Store(self.path, SWARM)
        self.batches: dict[Writer, list[Stretch]] = {batches[0].writer: [] for batches in CHAINS}
        self.forked: set[Writer] = set()
        self.snapshot: tuple[bytes | None, list[bytes]] = None, []

    @rule(picks=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 39)), max_size=6))
    def append(self, picks: list[tuple[int, int]]) -> None:
        batches = [CHAINS[writer][at] for writer, at in picks]
        self.store.append(batches)
        for each in batches:
            self.batches[each.writer].append(each)

    @rule(index=st.integers(0, 3), picks=st.lists(st.integers(0, 39), max_size=5, unique=True))
    def replace(self, index: int, picks: list[int]) -> None:
        writer, batches = CHAINS[index][0].writer, [CHAINS[index][at] for at in picks]
        self.store.replace(writer, [each.data for each in batches])
        self.batches[writer] = batches
        self.forked.add(writer)

    @rule(frontier=st.dictionaries(st.integers(0, 3), st.integers(0, 80)), pieces=st.lists(st.binary(), max_size=4))
    def compact(self, frontier: dict[int, int], pieces: list[bytes]) -> None:
        numbers = {CHAINS[index][0].writer: number for index, number in frontier.items()}
        self.store.compact(pieces, digest_of(pieces), numbers)
        self.snapshot = digest_of(pieces), pieces
        for writer, number in numbers.items():
            self.batches[writer] = [each for each in self.batches[writer] if each.last > number]

    @rule()
    def open_again(self) -> None:
        self.store.close()
        self.store = Store(self.path, SWARM)

    @invariant()
    def holds_the_same(self) -> None:
        digest, pieces, batches = everything(self.store.load())
        assert (digest, pieces) == self.snapshot
        for writer, own in self.batches.items():
            stored = [data for data in batches if _read(data).writer == writer]
            if writer in self.forked:  # what it is replaced with comes in any order, and may be there twice
                assert set(stored) == {each.data for each in own}
            else:
                assert stored == [each.data for each in own]

    def teardown(self) -> None:
        self.store.close()


def _read(data: bytes) -> Stretch:
    stretch = read_batch(data)
    assert isinstance(stretch, Stretch)
    return stretch


def test_a_store_holds_what_lists_would(tmp_path: Path) -> None:
    StoreMachine.folder = tmp_path
    run_state_machine_as_test(
        StoreMachine, settings=settings(max_examples=400 if SOAK else 12, stateful_step_count=15, deadline=None)
    )


# As large as it gets.


def test_many_operations_on_a_thousand_keys_come_down_to_little(path: Path) -> None:
    """A million of them: less than 50 MB, open in less than a second. Without SHOAL_SOAK a hundredth of them."""
    count = 1_000_000 if SOAK else 10_000
    target = Replica(SWARM, Rules({"set": Rule(Kind.SET, is_own=False)}, Writer(KEYS[0].public_key)))
    held: dict[str, Taken] = {}  # what lives under each key, by the one who writes it
    with Store(path, SWARM) as store:
        for turn in range(count // 20):
            keys = [f"key {(turn % 50) * 20 + each}" for each in range(20)]
            operations = [
                Operation("set", (key,), random.Random(turn).randbytes(100), (held[key],) if key in held else ())
                for key in keys
            ]
            stretch = target.write(KEYS[turn % 50], operations)
            assert isinstance(stretch, Stretch), stretch
            held.update(
                (key, Taken(b"", stretch.first + at, tag_of(stretch.hashes[at]))) for at, key in enumerate(keys)
            )
            store.append([stretch])
        before = path.stat().st_size
        snapshot = target.snapshot(target.frontier())
        assert isinstance(snapshot, Snapshot)
        pieces = list(snapshot.pieces())
        store.compact(pieces, digest_of(pieces), {writer: mark.number for writer, mark in snapshot.frontier.items()})
    started_at = time.perf_counter()
    with Store(path, SWARM) as store:
        again = replica_of(store.load())
    took_s = time.perf_counter() - started_at
    after = path.stat().st_size
    print(f"{count:,} operations: {before / 1e6:.1f} MB, compacted {after / 1e6:.2f} MB, open after {took_s:.3f} s")
    assert again.digest() == target.digest()
    assert after < (50_000_000 if SOAK else 1_000_000)
    assert took_s < 1.0
