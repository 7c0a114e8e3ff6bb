"""`shoal log export` writes all that it takes to make a model anew; `shoal log replay` makes it, believing nothing."""

import json
import os
import random
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from shoal.node.cli_replay import replayed_as_json, say_replayed
from shoal.node.complaint import Complaint, Exit
from shoal.node.exported import Replayed, replay, save
from shoal.node.membership import SwarmFolder
from shoal.training.history import Made, Part
from shoal.training.history_service import HISTORY_NAME
from shoal.training.log_file import (
    CONTENTS_BYTES_MAX,
    MAGIC,
    Contents,
    certify,
    framed,
    head,
    open_file,
    proofs,
    rounds,
)
from shoal.training.ports import BytesReader
from shoal.training.skipping import Anchor, Leap, Proof
from shoal.training.spec import sign_spec
from shoal.transport.wire import Malformed, encode
from tests.node.replayed_swarm import ID, METHOD, ORIGIN, SPEC, Trained, WeighingToy, folder, on_disk
from tests.training.agreed_log import ANN, BEN

ROOT = Path(__file__).resolve().parents[2]
TRAINED = Trained().go_on(12)
NEWEST = TRAINED.log.position.record
EVERY = 1 if os.environ.get("SHOAL_SOAK") else 5  # byte is flipped


def shoal(data_dir: Path, *words: str, code: int = 0) -> str:
    """What it prints, on both streams; with --json on the first."""
    command = [sys.executable, "-m", "shoal", "log", *words, "--data-dir", str(data_dir)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == code, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stdout if "--json" in words else ended.stdout + ended.stderr


def replayed(path: Path, trust: str | None = None) -> Replayed:
    return replay(path, trust, lambda spec: WeighingToy(), lambda done, total: None)


def complaint(path: Path, trust: str | None = None) -> str:
    with pytest.raises(Complaint) as caught:
        replayed(path, trust)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of a swarm of 12 rounds: 11 of them are certified."""
    data_dir = on_disk(tmp_path_factory.mktemp("node"), TRAINED)
    path = data_dir / "my.log"
    told = json.loads(shoal(data_dir, "export", str(path), "--json"))
    assert told == {
        "id": ID.hex(),
        "file": str(path),
        "bytes": path.stat().st_size,
        "rounds": 11,
        "record": NEWEST.hex(),
        "trusted": None,
    }
    return path


def test_a_file_leads_to_the_newest_state_that_is_certified(exported: Path, tmp_path: Path) -> None:
    found = replayed(exported)
    assert found.is_right
    assert found.state == TRAINED.states[11]
    assert found.certified.position == TRAINED.log.position
    assert (found.members, found.contributions) == (3, sum(len(row.parts) for row in TRAINED.rows[:11]))
    assert found.bytes == sum(len(encode(row)) for row in TRAINED.rows[:11])
    save(found, tmp_path / "model")
    assert METHOD.load(BytesReader((tmp_path / "model").read_bytes())) == TRAINED.states[11]
    assert list(tmp_path.iterdir()) == [tmp_path / "model"]


def test_what_came_of_it_is_said(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = replayed_as_json(replayed(exported), None)
    assert told["ok"]
    assert (told["rounds"], told["members"], told["trusted"], told["creator"]) == (11, 3, None, ANN.peer_id)
    assert told["digest"] == told["certified"] == TRAINED.log.keeps[-1].record.base_digest.hex()
    json.dumps(told)
    say_replayed(told)
    said = capsys.readouterr().out
    assert "11 rounds, 21 contributions of 3 members" in said
    assert said.endswith("the same that a quorum has certified after round 11\n")
    say_replayed(told | {"ok": False})
    assert "NOT the state" in capsys.readouterr().out


def test_progress_is_told_round_by_round(exported: Path) -> None:
    ticks: list[tuple[int, int]] = []
    replay(exported, None, lambda spec: WeighingToy(), lambda done, total: ticks.append((done, total)))
    assert ticks == [(round, 11) for round in range(1, 12)]


def test_a_machine_that_cannot_have_the_method_says_so(exported: Path, tmp_path: Path) -> None:
    assert "method 'toy' is not known here" in shoal(tmp_path, "replay", str(exported), code=Exit.SPEC)
    assert "No such file" in shoal(tmp_path, "replay", str(tmp_path / "none"), code=Exit.FAILED)
    assert "is there already" in shoal(tmp_path, "replay", "x", "--save", str(exported), code=Exit.USAGE)


def test_where_rounds_are_missing_nothing_is_exported(tmp_path: Path) -> None:
    path = tmp_path / "my.log"
    on_disk(tmp_path / "late", TRAINED, rows=slice(5, None))
    assert "only what rounds took from 6 on" in shoal(tmp_path / "late", "export", str(path), code=Exit.FAILED)
    folder(tmp_path / "new")
    assert "there is no" in shoal(tmp_path / "new", "export", str(path), code=Exit.FAILED)
    on_disk(tmp_path / "empty", Trained())
    assert "the log is empty" in shoal(tmp_path / "empty", "export", str(path), code=Exit.FAILED)
    (SwarmFolder(tmp_path / "late" / "swarms", ID).rounds / HISTORY_NAME).unlink()
    assert "the method does not replay" not in shoal(tmp_path / "late", "export", str(path), code=Exit.FAILED)
    assert not list(tmp_path.glob("my.log*"))


def test_a_node_that_is_behind_exports_as_far_as_it_is(tmp_path: Path) -> None:
    on_disk(tmp_path, TRAINED, rows=slice(0, 6))
    path = tmp_path / "my.log"
    assert "6 rounds" in shoal(tmp_path, "export", "replayed", str(path))
    assert replayed(path).state == TRAINED.states[6]
    assert "is there already" in shoal(tmp_path, "export", str(path), code=Exit.USAGE)


def test_a_file_that_begins_at_an_invites_record_is_believed_by_who_trusts_it(tmp_path: Path) -> None:
    on_disk(tmp_path, TRAINED, since=5)
    path = tmp_path / "my.log"
    assert "which this node's invite named" in shoal(tmp_path, "export", str(path))
    record = TRAINED.log.at(5).record.hex()
    assert f"--trust {record[:16]}" in complaint(path)
    assert "does not name" in complaint(path, record[:7])
    assert "does not name" in complaint(path, "0" * 16)
    found = replayed(path, record[:16].upper())
    assert found.state == TRAINED.states[11]
    assert replayed_as_json(found, None)["trusted"] == record


def frames(data: bytes) -> list[bytes]:
    """The file in pieces: magic and version, then the messages with their lengths."""
    pieces, at = [data[: len(MAGIC) + 4]], len(MAGIC) + 4
    while at < len(data):
        (size,) = struct.unpack_from("<I", data, at)
        pieces.append(data[at : at + 4 + size])
        at += 4 + size
    return pieces


def written(path: Path, *pieces: bytes) -> Path:
    path.write_bytes(b"".join(pieces))
    return path


def test_whatever_byte_is_flipped_nothing_wrong_is_believed(exported: Path, tmp_path: Path) -> None:
    data = exported.read_bytes()
    chance = random.Random(5)
    path = tmp_path / "spoiled"
    for at in range(chance.randrange(EVERY), len(data), EVERY):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :])
        said = ""
        try:
            assert not replayed(path).is_right, at
        except Complaint as error:
            said = str(error)
        assert not said or str(path) in said
        assert len(said) < 1000


def test_a_file_that_is_cut_off_or_goes_on_is_refused(exported: Path, tmp_path: Path) -> None:
    data = exported.read_bytes()
    path = tmp_path / "cut"
    for length in [*range(40), *range(40, len(data), 97), len(data) - 1]:
        assert "it " in complaint(written(path, data[:length]))
    assert "something follows" in complaint(written(path, data, b"\0"))


def test_each_part_that_is_not_as_it_must_be_is_named(exported: Path, tmp_path: Path) -> None:
    start, contents, proof, *rows = frames(exported.read_bytes())
    path = tmp_path / "spoiled"
    assert "format 2" in complaint(written(path, MAGIC, struct.pack("<I", 2), contents))
    assert "no file that" in complaint(written(path, b"shoal/st", contents))
    huge = struct.pack("<I", 2**32 - 1)
    assert f"{CONTENTS_BYTES_MAX} are the most" in complaint(written(path, start, huge))
    assert "claims 4294967295 bytes" in complaint(written(path, start, contents, proof, huge))
    stranger = replace(sign_spec(SPEC, ANN), signature=BEN.sign(encode(SPEC)))
    made = Contents(stranger, ID, 1, 11)
    assert "not signed by its creator" in complaint(written(path, head(made), proof, *rows))
    signed = sign_spec(SPEC, ANN)
    more = head(Contents(signed, ID, 1, 12))
    assert "its newest record is that of round 12" in complaint(written(path, more, proof, *rows))
    empty = framed(Proof(Anchor(), ()))
    assert "proves nothing" in complaint(written(path, start, contents, empty, *rows))
    swapped = [rows[1], rows[0], *rows[2:]]
    assert "round 2 stands where round 1" in complaint(written(path, start, contents, proof, *swapped))


def test_rounds_that_took_something_else_lead_to_another_state(exported: Path, tmp_path: Path) -> None:
    start, contents, proof, *rows = frames(exported.read_bytes())
    first: Made = TRAINED.rows[1]
    spoils: list[Callable[[Made], Made]] = [
        lambda made: replace(made, parts=made.parts[1:]),
        lambda made: replace(made, parts=(replace(made.parts[0], weight=7), *made.parts[1:])),
    ]
    for spoil in spoils:
        path = written(tmp_path / "spoiled", start, contents, proof, rows[0], framed(spoil(first)), *rows[2:])
        assert not replayed(path).is_right
    forged = replace(first, parts=(Part(1, first.parts[0].envelope[:-1] + b"\0"), *first.parts[1:]))
    path = written(tmp_path / "spoiled", start, contents, proof, rows[0], framed(forged), *rows[2:])
    assert "what round 2 took does not hold: not signed by" in complaint(path)


def test_many_changes_of_members_take_several_proofs() -> None:
    leaps = TRAINED.log.leaps(0)
    size = len(encode(Proof(Anchor(), tuple(leaps[:2])))) + 16

    def after(start: int, last: int) -> list[Leap]:
        """As if no more than two fitted."""
        return [leap for leap in leaps if start < leap.decided.round <= last][:2]

    found = list(proofs(Anchor(), 0, 12, after))
    assert [len(proof.leaps) for proof in found] == [2, 2]
    assert all(len(encode(proof)) < size + 2000 for proof in found)
    contents = Contents(sign_spec(SPEC, ANN), ID, len(found), 11)
    data = head(contents) + b"".join(map(framed, found)) + b"".join(map(framed, TRAINED.rows[:11]))
    reader = Reading(data)
    opened = open_file(reader.read)
    assert not isinstance(opened, Malformed)
    certified = certify(reader.read, opened, lambda done: None)
    assert not isinstance(certified, Malformed), certified
    assert (certified.position, certified.leaps) == (TRAINED.log.position, 4)
    assert [made for each in rounds(reader.read, contents) for made in _made(each)] == TRAINED.rows[:11]


def _made(each: Any) -> list[Made]:
    assert not isinstance(each, Malformed), each
    return [each[0]]


class Reading:
    """A file in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, count: int) -> bytes:
        piece, self._data = self._data[:count], self._data[count:]
        return piece


def test_nothing_leads_over_rounds_that_are_not_there() -> None:
    with pytest.raises(ValueError, match="nothing leads"):
        list(proofs(Anchor(), ORIGIN.round, 3, lambda start, last: []))
