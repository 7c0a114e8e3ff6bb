"""What each state was made of: rows that hold, and all that does not; on disk, in a file that is worth little."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from shoal.crdt.file_service import Fault, StoreError
from shoal.training.agreed import Share, next_record
from shoal.training.calls import ROUNDS_TOLD_MAX
from shoal.training.history import MADE_BYTES_MAX, Made, Part, is_of, made_of, shares_of
from shoal.training.history_service import History, HistoryReader
from shoal.training.records import Offered
from shoal.training.skipping import beginning
from shoal.training.spec import Spec, swarm_id
from shoal.transport.blobs import BlobRef
from shoal.transport.wire import Malformed, decode, encode
from tests.training import history_child as child
from tests.training.rows import KEYS, METHOD, Course, made, offer

SPEC = Spec(creator=KEYS[0].peer_id, nonce=bytes(16), samples_max=100, payload_bytes_max=1000)
SWARM = swarm_id(SPEC)
ROWS = Course(SWARM, SPEC, 20).rows


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rounds" / "history.db"


def row_of(*offers: Offered) -> Made:
    row = made_of(9, offers, [1] * len(offers))
    assert row is not None
    return row


def fault_of(row: Made) -> str:
    shares = shares_of(row, SWARM, SPEC, METHOD)
    assert isinstance(shares, Malformed), shares
    return shares.reason


def test_shares_are_what_was_signed_with_the_weights_that_are_told() -> None:
    shares = shares_of(ROWS[0], SWARM, SPEC, METHOD)
    assert not isinstance(shares, Malformed)
    assert [share.member for share in shares] == [key.peer_id for key in KEYS]
    assert [(share.turn_round, share.base_round, share.weight) for share in shares] == [
        (1, 0, 1000 + place) for place in range(4)
    ]
    assert [share.payload.read(0, 8) for share in shares] == [(31 + n).to_bytes(8, "little") for n in range(4)]


def test_a_payload_elsewhere_is_not_kept() -> None:
    far = offer(KEYS[0], SWARM, 1, BlobRef(bytes(32), 5000))
    assert made_of(1, [far], [1]) is None
    row, spec = Made(1, (Part(1, far.envelope),)), msgspec.structs.replace(SPEC, payload_bytes_max=5000)
    assert "does not travel inside" in str(shares_of(row, SWARM, spec, METHOD))
    near = offer(KEYS[0], SWARM, 1, BlobRef(bytes(32), 9))
    assert "a payload of 9 bytes travels inside" in fault_of(Made(1, (Part(1, near.envelope),)))


def test_what_is_too_large_for_an_answer_is_not_kept() -> None:
    large = [offer(KEYS[0], SWARM, round, bytes(4096)) for round in range(1, 1001)]
    assert made_of(1001, large, [1] * 1000) is None
    assert len(encode(made_of(1001, large[:960], [1] * 960))) <= MADE_BYTES_MAX


def test_a_row_that_no_round_can_have_taken_is_refused() -> None:
    sound = offer(KEYS[0], SWARM, 9)
    assert "not signed by" in fault_of(Made(9, (Part(1, sound.envelope[:-1] + b"\0"),)))
    assert "does not hold" in fault_of(row_of(offer(KEYS[0], bytes(32), 9)))  # another swarm's
    assert "is no number below 1000" in fault_of(row_of(offer(KEYS[0], SWARM, 9, b"\xff" * 8)))
    assert "1001 bytes" in fault_of(row_of(offer(KEYS[0], SWARM, 9, bytes(1001))))
    assert "yet to come" in fault_of(row_of(offer(KEYS[0], SWARM, 10)))
    assert "not sorted" in fault_of(row_of(sound, sound))
    assert "not sorted" in fault_of(row_of(offer(KEYS[1], SWARM, 9), sound))


def test_a_row_is_of_a_record_if_it_has_all_that_it_took_in_order() -> None:
    offers = [offer(key, SWARM, 1) for key in KEYS]
    shares = [Share(each.member, 1, 0, each.hash, each.contribution.samples) for each in offers]
    record = next_record(beginning(SWARM, SPEC), bytes(32), shares)
    assert not isinstance(record, Malformed)
    row = made_of(1, offers, [1] * 4)
    assert row is not None
    assert is_of(row, record)
    assert not is_of(replace(row, round=2), record)
    assert not is_of(replace(row, parts=row.parts[1:]), record)
    assert not is_of(replace(row, parts=row.parts[::-1]), record)


@given(st.binary(max_size=400))
def test_any_bytes_are_a_row_or_a_refusal(data: bytes) -> None:
    assert isinstance(decode(data, Made, 300), Made | Malformed)


def test_rows_come_back_in_order_up_to_the_first_that_is_missing(path: Path) -> None:
    with History(path, SWARM) as history:
        history.append(ROWS[:8])
        history.append(ROWS[9:])
        reader = history.reader
        assert reader.range(1, 20) == tuple(ROWS[:8])
        assert reader.range(3, 5) == tuple(ROWS[2:5])
        assert reader.range(9, 20) == ()
        assert reader.range(10, 2**31) == tuple(ROWS[9:])
        assert (reader.first(), reader.last(1), reader.last(9), reader.last(10)) == (1, 8, 8, 20)
        history.append(ROWS[8:9])
    with HistoryReader(path, SWARM) as reader:
        assert reader.last(1) == 20


def test_an_answer_is_bounded_and_has_one_round_at_least(path: Path) -> None:
    with History(path, SWARM) as history:
        history.append(ROWS)
        size = len(encode(ROWS[0]))
        assert len(history.reader.range(1, 20, 3 * size + 10)) == 3
        assert len(history.reader.range(1, 20, 10)) == 1
        history.append(Made(round, ()) for round in range(21, 2 * ROUNDS_TOLD_MAX))
        assert len(history.reader.range(21, 2**31)) == ROUNDS_TOLD_MAX


def test_what_is_staged_is_told_to_nobody_until_it_is_adopted(path: Path) -> None:
    with History(path, SWARM) as history:
        history.append(ROWS[:3])
        history.stage([made(SWARM, 3, KEYS[:1]), *ROWS[3:6]])
        assert history.reader.last(1) == 3
        history.adopt()
        assert history.reader.range(1, 20) == tuple(ROWS[:6])  # what was applied here is not replaced
        history.stage(ROWS[6:9])
        history.drop_draft()
        history.adopt()
        assert history.reader.last(1) == 6
        history.stage(ROWS[6:9])
    with History(path, SWARM) as history:
        history.adopt()
        assert history.reader.last(1) == 6


def test_a_full_file_lets_go_of_its_oldest_rounds(path: Path) -> None:
    bytes_max = 2**20
    with History(path, SWARM, bytes_max) as history:
        for first in range(1, 3001, 20):
            history.append(replace(ROWS[0], round=round) for round in range(first, first + 20))
        oldest = history.reader.first()
        assert oldest is not None
        assert 300 < 3000 - oldest < 1500
        assert history.reader.last(oldest) == 3000
    assert path.stat().st_size <= bytes_max


def test_a_damaged_file_is_thrown_away_and_a_damaged_row_counts_as_missing(path: Path) -> None:
    with History(path, SWARM) as history:
        history.append(ROWS)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE made SET data = zeroblob(99) WHERE round = 7")
    with History(path, SWARM) as history:
        assert history.reader.range(1, 20) == tuple(ROWS[:6])
    path.write_bytes(b"junk" * 4096)
    with pytest.raises(StoreError) as caught:
        HistoryReader(path, SWARM)
    assert caught.value.fault is Fault.DAMAGED
    with History(path, SWARM) as history:
        assert history.reader.range(1, 20) == ()
        history.append(ROWS)
        assert history.reader.last(1) == 20


def test_another_swarms_file_is_left_alone(path: Path) -> None:
    with History(path, SWARM) as history:
        history.append(ROWS)
    with pytest.raises(StoreError) as caught:
        History(path, bytes(32))
    assert caught.value.fault is Fault.OTHER
    with HistoryReader(path, SWARM) as reader:
        assert reader.last(1) == 20


KILLS = 100 if os.environ.get("SHOAL_SOAK") else 10


def test_after_every_kill_all_that_was_acknowledged_is_there_without_a_gap_and_nothing_staged(path: Path) -> None:
    chance = random.Random(3)
    for _ in range(KILLS):
        process = subprocess.Popen(
            [sys.executable, str(Path(child.__file__)), str(path)],
            env={**os.environ, "PYTHONPATH": str(Path(child.__file__).parents[2])},
            stdout=subprocess.PIPE,
            text=True,
        )
        with process:
            assert process.stdout is not None
            said = [process.stdout.readline() for _ in range(chance.randrange(1, 60))]
            process.send_signal(signal.SIGKILL)
            said += process.stdout.read().splitlines(keepends=True)
            assert process.wait() == -signal.SIGKILL
        acknowledged = max(int(line) for line in said if line.endswith("\n"))
        with History(path, child.SWARM) as history:
            last = history.reader.last(1)
            assert last >= acknowledged
            assert history.reader.range(1, last, 2**30) == tuple(map(child.row, range(1, min(last, 1024) + 1)))
            history.adopt()
            assert history.reader.last(1) == last
