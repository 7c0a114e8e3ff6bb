"""`shoal log` shows what was agreed on, and finds every record and signature that does not hold."""

import json
import os
import pty
import select
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from shoal.crdt.compact import WriterMark
from shoal.node import progress
from shoal.node.complaint import Exit
from shoal.node.membership import Membership, SwarmFolder
from shoal.training.agreed import Position, StoreMark
from shoal.training.agreeing import Keep, Split
from shoal.training.archive_reading_service import LOG_NAME
from shoal.training.archive_service import Archive
from shoal.training.members import Change, Leave, Resume, Suspend
from shoal.training.skipping import Proof, beginning
from shoal.training.spec import Spec, sign_spec, swarm_id
from tests.training.agreed_log import ANN, BEN, CLEO, DAN, KEYS, Written, joins, leaves, record_at, signed

ROOT = Path(__file__).resolve().parents[2]
SPEC = Spec(creator=ANN.peer_id, nonce=bytes(16), name="readers")
ID = swarm_id(SPEC)
ORIGIN = beginning(ID, SPEC)


def shoal(data_dir: Path, *words: str, code: int = 0) -> str:
    """What it prints, on both streams; with --json on the first."""
    command = [sys.executable, "-m", "shoal", "log", *words, "--data-dir", str(data_dir)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == code, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stdout if "--json" in words else ended.stdout + ended.stderr


def agreed(rounds: int) -> Written:
    """Ben, Cleo and Dan come; Ben sleeps for a while; Dan leaves in the last round but one."""
    log = Written(ID, ORIGIN)
    planned: dict[int, tuple[Change, ...]] = {
        1: joins(BEN),
        2: joins(CLEO, DAN),
        5: (Suspend(BEN.peer_id),),
        7: (Resume(BEN.peer_id),),
    }
    for round in range(1, rounds + 1):
        log.write(*(leaves(log.position, DAN, ID) if round == rounds - 1 else planned.get(round, ())))
    return log


LOG = agreed(12)


def folder(data_dir: Path) -> SwarmFolder:
    folder = SwarmFolder(data_dir / "swarms", ID)
    folder.create(sign_spec(SPEC, ANN), Membership())
    return folder


def archive(data_dir: Path, keeps: Iterable[Keep] = ()) -> Archive:
    archive = Archive(folder(data_dir).rounds / LOG_NAME, ORIGIN)
    archive.append(keeps)
    return archive


def leap(archive: Archive, since: int, until: int) -> None:
    part = Written(ID, ORIGIN, LOG.keeps[:until])
    archive.leap(Proof(LOG.anchor(since), tuple(part.leaps(since))), LOG.at(until))


def test_the_log_is_shown_in_words_while_the_node_writes_it(tmp_path: Path) -> None:
    with archive(tmp_path, LOG.keeps):
        lines = shoal(tmp_path, "show").splitlines()
    assert len(lines) == 13
    assert lines[1].split()[:5] == ["1", LOG.at(1).record.hex()[:12], "0", "1", "7"]
    assert f"{BEN.peer_id[-8:]} joined with 1 vote" in lines[1]
    assert lines[5].endswith(f"{BEN.peer_id[-8:]} was suspended")
    assert lines[7].endswith(f"{BEN.peer_id[-8:]} is back")
    assert lines[11].endswith(f"{DAN.peer_id[-8:]} left")
    assert lines[12].split()[-1] == bytes([11]).hex() * 6  # the state before


def test_programs_get_the_records_in_full(tmp_path: Path) -> None:
    archive(tmp_path, LOG.keeps).close()
    shown = json.loads(shoal(tmp_path, "show", "readers", "--last", "2", "--json"))
    assert shown["id"] == ID.hex()
    assert [record["round"] for record in shown["records"]] == [11, 12]
    newest = shown["records"][-1]
    assert newest["hash"] == LOG.position.record.hex()
    assert newest["previous"] == shown["records"][0]["hash"]
    assert newest["signers"] == [key.peer_id for key in (ANN, BEN, CLEO)]
    assert newest["samples"] == 7 * len(newest["taken"]) == 21


def test_what_the_store_was_compacted_to_is_shown(tmp_path: Path) -> None:
    frontier = tuple(WriterMark(key.public_key, 7, bytes(32)) for key in sorted(KEYS, key=lambda key: key.public_key))
    log = Written(ID, ORIGIN, list(LOG.keeps))
    log.write(store=StoreMark(frontier, b"d" * 32))
    archive(tmp_path, log.keeps).close()
    assert shoal(tmp_path, "show").splitlines()[-1].endswith("the store was compacted: 28 operations of 4 writers")
    records = json.loads(shoal(tmp_path, "show", "--json"))["records"]
    assert records[0]["store"] is None
    assert records[-1]["store"] == {
        "snapshot": (b"d" * 32).hex(),
        "frontier": {key.peer_id: 7 for key in KEYS},
        "operations": 28,
    }


def verified(data_dir: Path, *words: str, code: int = 0) -> Any:
    return json.loads(shoal(data_dir, "verify", "--json", *words, code=code))


def test_a_sound_log_is_verified_from_the_spec_alone(tmp_path: Path) -> None:
    archive(tmp_path, LOG.keeps).close()
    found = verified(tmp_path)
    votes = 1 + 2 + 4 * 9 + 3
    proofs = 1  # Dan's word that he leaves
    assert (found["ok"], found["first"], found["last"], found["records"]) == (True, 1, 12, 12)
    assert (found["changes"], found["signatures"]) == (6, votes + proofs)
    assert (found["gaps"], found["trusted"], found["split"], found["problems"]) == ([], [], None, [])
    said = shoal(tmp_path, "verify")
    assert "12 records, 6 changes of members, 43 signatures" in said
    assert said.splitlines()[-1].startswith("verified")


def test_it_is_verified_from_a_record_that_one_trusts(tmp_path: Path) -> None:
    archive(tmp_path, LOG.keeps).close()
    start = LOG.at(6).record.hex()
    found = verified(tmp_path, "--from", start[:8])
    assert (found["first"], found["last"], found["records"]) == (7, 12, 6)
    assert verified(tmp_path, "--from", start.upper()) | {"seconds": 0} == found | {"seconds": 0}
    assert verified(tmp_path, "--from", ID.hex()[:10])["records"] == 12
    assert "8 to 64 hexadecimal digits" in shoal(tmp_path, "verify", "--from", start[:7], code=Exit.USAGE)
    assert "8 to 64 hexadecimal digits" in shoal(tmp_path, "verify", "--from", "it" * 4, code=Exit.USAGE)
    assert "there is no record" in shoal(tmp_path, "verify", "--from", "0" * 64, code=Exit.FAILED)


def test_gaps_and_trusted_records_are_said(tmp_path: Path) -> None:
    with archive(tmp_path) as log:
        leap(log, 3, 3)  # told of round 3 by an invite
        leap(log, 3, 6)
        leap(log, 6, 9)
        log.append(LOG.keeps[9:])
    found = verified(tmp_path)
    assert (found["ok"], found["trusted"], found["gaps"], found["records"]) == (True, [3], [[4, 4], [8, 8]], 7)
    said = shoal(tmp_path, "verify")
    assert "trusted   the record of round 3" in said
    assert "gap       1 record from round 4 on not here" in said
    assert "1 are not here" in shoal(tmp_path, "show")
    assert verified(tmp_path, "--from", LOG.at(3).record.hex())["trusted"] == []


def spoiled(round: int, keep: Keep) -> list[Keep]:
    return [*LOG.keeps[: round - 1], keep]


def other_members(keep: Keep) -> Keep:
    record = structs.replace(keep.record, electorate=bytes(32))
    return Keep(signed(LOG.at(keep.record.round - 1), record, ID), record, keep.position, keep.voters)


def below_quorum(keep: Keep) -> Keep:
    return replace(keep, decided=structs.replace(keep.decided, precommits=keep.decided.precommits[:1]))


def forged(keep: Keep) -> Keep:
    first, second, *rest = keep.decided.precommits
    wrong = structs.replace(first, signature=second.signature)
    return replace(keep, decided=structs.replace(keep.decided, precommits=(wrong, second, *rest)))


def other_swarm(keep: Keep) -> Keep:
    return replace(keep, decided=signed(LOG.at(keep.record.round - 1), keep.record, bytes(32)))


def unproved(keep: Keep) -> Keep:
    """Ben is made to leave by a quorum that has not heard him say so."""
    before = LOG.at(keep.record.round - 1)
    record = record_at(before, Leave(BEN.peer_id, bytes(64)))
    return Keep(signed(before, record, ID), record, Position(0, b"", before.electorate), before.electorate)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (other_members, "its members are not those that follow"),
        (below_quorum, "are no quorum"),
        (forged, "did not sign"),
        (other_swarm, "did not sign"),
        (unproved, "has not said that it leaves"),
    ],
)
def test_the_first_fault_is_named(tmp_path: Path, spoil: Any, words: str) -> None:
    archive(tmp_path, spoiled(9, spoil(LOG.keeps[8]))).close()
    found = verified(tmp_path, code=Exit.FAILED)
    assert (found["ok"], found["last"], found["records"]) == (False, 8 if spoil is not unproved else 9, 8)
    (problem,) = found["problems"]
    assert problem.startswith("round 9: ")
    assert words in problem
    assert shoal(tmp_path, "verify", code=Exit.FAILED).splitlines()[-1] == "this log is NOT sound"


def test_a_split_is_shown_with_all_who_signed_both(tmp_path: Path) -> None:
    other = signed(LOG.at(8), record_at(LOG.at(8), state=b"x" * 32), ID, signers=[BEN, CLEO, DAN])
    culprits = tuple(sorted(key.peer_id for key in (BEN, CLEO, DAN)))
    with archive(tmp_path, LOG.keeps[:9]) as log:
        log.keep_split(Split(LOG.decided(9), other))
    found = verified(tmp_path, code=Exit.FAILED)
    assert found["records"] == 9
    assert found["split"]["culprits"] == list(culprits)
    assert [len(each["signers"]) for each in found["split"]["records"]] == [4, 3]
    assert "members lie" in found["problems"][0]
    assert f"signed both: {', '.join(culprits)}" in shoal(tmp_path, "show")


def test_a_damaged_or_missing_log_is_said(tmp_path: Path) -> None:
    assert "swarm create" in shoal(tmp_path, "show", code=Exit.FAILED)
    path = folder(tmp_path).rounds / LOG_NAME
    assert "there is no" in shoal(tmp_path, "verify", code=Exit.FAILED)
    with Archive(path, ORIGIN) as log:
        assert "the log is empty" in shoal(tmp_path, "show")
        assert verified(tmp_path)["records"] == 0
        log.append(LOG.keeps)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE log SET data = zeroblob(99) WHERE round = 3")
    assert "is damaged" in verified(tmp_path, code=Exit.FAILED)["problems"][0]
    path.write_bytes(b"junk" * 4096)
    assert "Start the node again" in shoal(tmp_path, "verify", code=Exit.DISK)
    assert path.read_bytes() == b"junk" * 4096


def test_no_less_than_one_record_is_shown(tmp_path: Path) -> None:
    assert "--last 0" in shoal(tmp_path, "show", "--last", "0", code=Exit.USAGE)


def test_who_waits_at_a_terminal_sees_how_long_it_takes(tmp_path: Path) -> None:
    archive(tmp_path, LOG.keeps).close()
    main, terminal = pty.openpty()
    program = "from shoal.node import cli, progress; progress.QUIET_S = progress.TERMINAL_S = 0.0; cli.main()"
    assert 0 < progress.TERMINAL_S < progress.QUIET_S
    command = [sys.executable, "-c", program, "log", "verify", "--data-dir", str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=terminal)
    os.close(terminal)
    seen = b""
    deadline = time.monotonic() + 60
    while select.select([main], [], [], max(0, deadline - time.monotonic()))[0]:
        try:
            seen += os.read(main, 4096)
        except OSError:  # Linux: the other end is closed
            break
    os.close(main)
    assert process.wait(10) == 0
    assert b"6 of 12 rounds, " in seen
    assert seen.endswith(b"\r\x1b[K")
