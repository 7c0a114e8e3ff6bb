"""The log on disk: what was kept comes back, what has changed by itself is named, and reading disturbs nobody."""

import random
import sqlite3
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.crdt.compact import WriterMark
from shoal.crdt.file_service import Fault, StoreError
from shoal.training.agreed import Position, StoreMark
from shoal.training.agreeing import Agreement, Keep, Split
from shoal.training.archive_reading_service import ArchiveReader
from shoal.training.archive_service import CHANGES_PER_ANCHOR, Archive, Loaded
from shoal.training.members import Resume, Suspend
from shoal.training.skipping import Anchor, Leap, Proof, prove, verify_proof
from shoal.training.votes import Journal, Step, cast
from shoal.training.voting_effects import Timeouts
from shoal.transport.wire import encode

from .agreed_log import ANN, BEN, CLEO, DAN, ORIGIN, SWARM, Written, joins, record_at, signed, written

LONG = written(100, {1: joins(BEN), 2: joins(CLEO), 40: joins(DAN), 70: (Suspend(DAN.peer_id),)})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rounds" / "log.db"


@pytest.fixture
def archive(path: Path) -> Generator[Archive]:
    with Archive(path, ORIGIN) as archive:
        yield archive


def test_where_the_log_stands_says_which_snapshot_of_the_store_is_agreed_on(path: Path) -> None:
    mark = StoreMark((WriterMark(ANN.public_key, 1, bytes(32)),), b"d" * 32)
    log = Written()
    for round in range(1, 8):
        log.write(*joins(BEN) if round == 2 else (), store=mark if round == 4 else None)
    with Archive(path, ORIGIN) as archive:
        archive.append(log.keeps)
        positions = [archive.reader.position(round) for round in range(8)]
        assert [None if at is None else at.snapshot for at in positions] == [None] * 4 + [mark.digest] * 4
        assert archive.load(1).position == log.at(6)
        leap_over(archive, log, 2, 7)
        proof = archive.reader.proof(log.at(2).record)
    assert proof is not None
    assert verify_proof(SWARM, ORIGIN, log.at(2).record, proof) == log.position


def leap_over(archive: Archive, log: Written, since: int, until: int) -> None:
    """Have it know of the rounds between from a proof alone."""
    part = Written(keeps=log.keeps[:until])
    proof = Proof(log.anchor(since), tuple(part.leaps(since)))
    assert verify_proof(SWARM, ORIGIN, log.at(since).record, proof) == log.at(until)
    archive.leap(proof, log.at(until))


def agreement(loaded: Loaded) -> Agreement:
    return Agreement(SWARM, ANN, Timeouts(), loaded.position, loaded.log, loaded.journal)


def test_an_empty_log_begins_with_the_swarm(archive: Archive) -> None:
    assert archive.load() == Loaded(ORIGIN, (), None, None, False)


@pytest.mark.parametrize(("rounds", "kept"), [(1, 64), (63, 64), (64, 64), (65, 64), (100, 64), (100, 1), (100, 1000)])
def test_a_member_goes_on_where_it_was(path: Path, rounds: int, kept: int) -> None:
    with Archive(path, ORIGIN) as archive:
        for keep in LONG.keeps[:rounds]:
            archive.append([keep])
    with Archive(path, ORIGIN) as archive:
        loaded = archive.load(kept)
        assert loaded.position == LONG.at(max(0, rounds - kept))
        assert loaded.log == tuple(keep.decided for keep in LONG.keeps[max(0, rounds - kept) : rounds])
        assert agreement(loaded).position == LONG.at(rounds)
        archive.append(LONG.keeps[rounds : rounds + 1])


def test_what_does_not_follow_is_not_kept(archive: Archive) -> None:
    archive.append(LONG.keeps[:2])
    for wrong in (LONG.keeps[:1], LONG.keeps[3:4], LONG.keeps[1:4], [LONG.keeps[2], LONG.keeps[2]]):
        with pytest.raises(ValueError, match="does not follow"):
            archive.append(wrong)
    assert archive.load().log == tuple(keep.decided for keep in LONG.keeps[:2])
    archive.append(LONG.keeps[2:5])
    assert archive.load().position.round + len(archive.load().log) == 5


def journal(round: int) -> Journal:
    vote = cast(ANN, SWARM, round, 0, Step.PREVOTE, bytes(32))
    return Journal(round, 0, None, (vote,), None)


def test_what_was_signed_last_comes_back(path: Path) -> None:
    with Archive(path, ORIGIN) as archive:
        for round in (1, 2, 3):
            archive.save_journal(journal(round))
    with Archive(path, ORIGIN) as archive:
        assert archive.load().journal == journal(3)


def split_of(log: Written, round: int) -> Split:
    other = signed(log.at(round - 1), record_at(log.at(round - 1), state=b"x" * 32), signers=[ANN, CLEO])
    return Split(log.decided(round), other)


def test_a_split_is_remembered(path: Path) -> None:
    split = split_of(LONG, 9)
    with Archive(path, ORIGIN) as archive:
        archive.append(LONG.keeps[:9])
        archive.keep_split(split)
    with Archive(path, ORIGIN) as archive:
        assert archive.load().split == split


def test_who_came_later_has_the_log_from_there(path: Path) -> None:
    with Archive(path, ORIGIN) as archive:
        leap_over(archive, LONG, 30, 30)
        assert archive.load() == Loaded(LONG.at(30), (), None, None, False)
        leap_over(archive, LONG, 30, 80)
        assert archive.load() == Loaded(LONG.at(80), (), None, None, False)
        archive.append(LONG.keeps[80:90])
    with Archive(path, ORIGIN) as archive:
        loaded = archive.load()
        assert loaded.position == LONG.at(80)
        assert agreement(loaded).position == LONG.at(90)
        assert archive.load(3).position == LONG.at(87)
        for round, is_known in ((29, False), (30, True), (31, False), (40, True), (80, True), (90, True), (91, False)):
            position = archive.reader.position(round)
            assert position == (LONG.at(round) if is_known else None)
        with pytest.raises(ValueError, match="does not follow"):
            archive.append(LONG.keeps[91:92])


def test_a_gap_is_leapt_over_and_the_log_goes_on(archive: Archive) -> None:
    archive.append(LONG.keeps[:35])
    leap_over(archive, LONG, 35, 75)
    leap_over(archive, LONG, 20, 75)  # asked of a second peer, from an older record
    archive.append(LONG.keeps[75:])
    assert archive.load(10).position == LONG.at(90)
    assert archive.load(50).position == LONG.at(75)
    assert [leap.decided.round for leap in archive.reader.walk(0) if isinstance(leap, Leap)] == [
        *range(1, 36),
        40,
        70,
        75,
        *range(76, 101),
    ]
    proof = archive.reader.proof(LONG.at(20).record)
    assert proof is not None
    assert verify_proof(SWARM, ORIGIN, LONG.at(20).record, proof) == LONG.position


def test_what_contradicts_the_log_is_not_leapt_to(archive: Archive) -> None:
    archive.append(LONG.keeps[:9])
    other = split_of(LONG, 9).second
    with pytest.raises(ValueError, match="another record of round 9"):
        archive.leap(Proof(Anchor(), (Leap(LONG.decided(8).value, other),)), LONG.at(9))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Generator[ArchiveReader]:
    path = tmp_path_factory.mktemp("whole") / "log.db"
    with Archive(path, ORIGIN) as archive:
        archive.append(LONG.keeps)
    with ArchiveReader(path, ORIGIN) as reader:
        yield reader


@pytest.mark.parametrize("since", range(0, 101, 9))
def test_from_any_record_that_is_kept_the_newest_is_proved(whole: ArchiveReader, since: int) -> None:
    found = whole.proof(LONG.at(since).record)
    assert found is not None
    assert found == prove(LONG.anchor(since), LONG.leaps(since))
    assert verify_proof(SWARM, ORIGIN, LONG.at(since).record, found) == LONG.position


def test_a_long_proof_is_told_in_parts(whole: ArchiveReader) -> None:
    position, parts = ORIGIN, 0
    while position.round < 100:
        proof = whole.proof(position.record, bytes_max=2500)
        assert proof is not None
        found = verify_proof(SWARM, position, position.record, proof)
        assert isinstance(found, Position)
        position, parts = found, parts + 1
    assert parts > 1


def test_nothing_is_told_of_what_is_not_there(whole: ArchiveReader) -> None:
    assert whole.proof(bytes(32)) is None
    assert whole.anchor(bytes(32)) is None
    assert whole.by_hash(bytes(32)) is None
    assert whole.position(101) is None
    assert whole.range(101, 200) == ()


def test_records_are_found_by_round_and_hash(whole: ArchiveReader) -> None:
    assert whole.range(1, 3) == tuple(keep.decided for keep in LONG.keeps[:3])
    assert whole.range(99, 200) == tuple(keep.decided for keep in LONG.keeps[98:])
    size = len(encode(LONG.decided(50)))
    assert len(whole.range(50, 60, bytes_max=3 * size)) == 3
    row = whole.by_hash(LONG.at(50).record)
    assert row is not None
    assert row.decided == LONG.decided(50)
    newest = whole.newest()
    assert newest is not None
    assert newest.round == 100


def test_a_range_ends_where_records_are_missing(archive: Archive) -> None:
    archive.append(LONG.keeps[:5])
    leap_over(archive, LONG, 5, 50)
    archive.append(LONG.keeps[50:55])
    assert [each.round for each in archive.reader.range(3, 60)] == [3, 4, 5]
    assert archive.reader.range(10, 60) == ()
    assert [each.round for each in archive.reader.range(50, 52)] == [50, 51, 52]


def test_an_electorate_is_found_without_reading_all_changes(archive: Archive) -> None:
    log = written(2)
    while len(log.keeps) < 3 * CHANGES_PER_ANCHOR:
        log.write(Suspend(CLEO.peer_id))
        log.write(Resume(CLEO.peer_id))
    archive.append(log.keeps)
    with closing(sqlite3.connect(archive.reader.path)) as connection:
        rounds = [round for (round,) in connection.execute("SELECT round FROM anchors ORDER BY round")]
    assert rounds == [64, 128, 192]
    assert all(archive.reader.position(round) == log.at(round) for round in range(len(log.keeps) + 1))


def test_others_read_while_a_member_writes(path: Path) -> None:
    with Archive(path, ORIGIN) as archive, ArchiveReader(path, ORIGIN) as reader, ThreadPoolExecutor(2) as pool:
        archive.append(LONG.keeps[:1])
        walking = reader.walk(0)
        next(walking)

        def write() -> None:
            for keep in LONG.keeps[1:]:
                archive.append([keep])

        writing = pool.submit(write)
        while not writing.done():
            list(pool.submit(lambda: list(reader.walk(0))).result())
        writing.result()
        assert len(list(walking)) == 99
    with ArchiveReader(path, ORIGIN) as reader:
        assert len(list(reader.walk(0))) == 100


def test_another_swarms_log_is_refused(path: Path) -> None:
    Archive(path, ORIGIN).close()
    for kind in (Archive, ArchiveReader):
        with pytest.raises(StoreError, match="log of swarm") as caught:
            kind(path, Position(0, bytes(32), ORIGIN.electorate))
        assert caught.value.fault is Fault.OTHER


def has_room(archive: Archive, keep: Keep) -> bool:
    try:
        archive.append([keep])
    except StoreError as error:
        if error.fault is not Fault.FULL:
            raise
        return False
    return True


def test_a_full_file_says_so_and_keeps_what_it_has(path: Path) -> None:
    with Archive(path, ORIGIN, bytes_max=64 * 1024) as archive:
        refused = next(keep for keep in LONG.keeps if not has_room(archive, keep))
        loaded = archive.load()
        assert loaded.position.round + len(loaded.log) == refused.record.round - 1 > 0


SPOILERS = [
    "UPDATE log SET data = x'00' || data WHERE round = 3",
    "UPDATE log SET hash = zeroblob(32) WHERE round = 3",
    "UPDATE log SET has_changes = 0 WHERE round = 2",
    "UPDATE log SET round = 7 WHERE round = 3",
    "UPDATE journal SET data = zeroblob(9)",
    "UPDATE log SET data = 'text' WHERE round = 4",
    "DROP INDEX hashed",
    "DROP TABLE split",
    "DELETE FROM about",
    "PRAGMA application_id = 1",
]


@pytest.mark.parametrize("spoiler", SPOILERS)
def test_a_log_that_changed_by_itself_is_put_aside_and_said(path: Path, spoiler: str) -> None:
    with Archive(path, ORIGIN) as archive:
        archive.append(LONG.keeps[:5])
        archive.save_journal(journal(6))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(spoiler)
    with (
        pytest.raises(StoreError, match=r"is damaged|is not a log|has other tables|does not say") as caught,
        ArchiveReader(path, ORIGIN) as reader,
    ):
        reader.check()
    assert caught.value.fault is Fault.DAMAGED
    with Archive(path, ORIGIN) as archive:
        assert archive.load() == Loaded(ORIGIN, (), None, None, True)
        archive.append(LONG.keeps[:5])
    assert path.with_name("log.db.damaged").exists()
    with Archive(path, ORIGIN) as archive:
        loaded = archive.load()
        assert (loaded.is_damaged, len(loaded.log)) == (True, 5)
        archive.recovered()
        assert not archive.load().is_damaged


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_whichever_byte_changes_nothing_false_is_told(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    path = tmp_path_factory.mktemp("bytes") / "log.db"
    with Archive(path, ORIGIN) as archive:
        archive.append(LONG.keeps[:20])
        archive.save_journal(journal(21))
    data = bytearray(path.read_bytes())
    chance = random.Random(seed)
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)
    try:
        with Archive(path, ORIGIN) as archive:
            loaded = archive.load()
    except StoreError as error:
        if error.fault not in (Fault.NEWER, Fault.OTHER, Fault.DISK):
            raise
        return
    found = loaded.log, loaded.journal
    sound = tuple(keep.decided for keep in LONG.keeps[:20]), journal(21)
    assert found == (((), None) if loaded.is_damaged else sound)


def test_damage_that_turns_up_in_use_is_named(archive: Archive) -> None:
    archive.append(LONG.keeps[:5])
    with closing(sqlite3.connect(archive.reader.path)) as connection, connection:
        connection.execute("UPDATE log SET data = zeroblob(99) WHERE round = 3")
    with pytest.raises(StoreError, match="Start the node again") as caught:
        archive.reader.range(1, 5)
    assert caught.value.fault is Fault.DAMAGED
    assert [each.round for each in archive.reader.range(4, 5)] == [4, 5]


def test_a_log_that_is_closed_while_threads_write_lets_them_end_first(tmp_path: Path) -> None:
    """Who stops abandons its threads; a file that was closed under one would crash the process."""

    def write(archive: Archive) -> str:
        try:
            for keep in LONG.keeps:
                archive.append([keep])
        except StoreError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(1) as pool:
        for number in range(20):
            archive = Archive(tmp_path / f"{number}.db", ORIGIN)
            writing = pool.submit(write, archive)
            while archive.reader.newest() is None:
                assert not writing.done(), writing.result()
            archive.close()
            problem = writing.result(10)
            assert not problem or "closed database" in problem
