"""kill -9 at any moment loses nothing that was acknowledged, and leaves nothing in halves."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

from shoal.training.archive_reading_service import ArchiveReader
from shoal.training.archive_service import Archive, Loaded
from shoal.training.skipping import Leap
from shoal.training.votes import Journal
from tests.training import archive_child as child

KILLS = 200 if os.environ.get("SHOAL_SOAK") else 20
LINES = 40  # that a child may say before it is killed
MOMENT_S = 0.01  # a call takes less
PROGRAM = Path(child.__file__)
ROOT = PROGRAM.parents[2]


def write_until_killed(path: Path, lines: int, moment_s: float, seed: int) -> list[list[str]]:
    """What the child acknowledged, word by word."""
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM), str(path), str(seed)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "opening\n"
        said = "".join(process.stdout.readline() for _ in range(lines))
        time.sleep(moment_s)
        process.kill()
        said += process.stdout.read()
        assert process.wait() == -9
    whole, _, _ = said.rpartition("\n")  # the kill may have cut the last line
    return [line.split() for line in whole.splitlines()]


def signed_no_less(found: Journal | None, acknowledged: list[list[str]]) -> bool:
    """Whether it is the newest that was acknowledged, or the one that was being saved."""
    said = [(int(round), int(attempt)) for kind, round, attempt in acknowledged if kind == "journal"]
    if not said:
        return True
    assert found is not None
    return (found.round, found.attempt) == said[-1] or found.round > said[-1][0]


def test_what_was_acknowledged_is_there_after_every_kill(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    chance = random.Random(7)
    twin = [child.ORIGIN]  # writes the same, and is never killed
    newest = 0
    for kill in range(KILLS):
        lines = chance.choice((0, 1, chance.randrange(LINES)))
        acknowledged = write_until_killed(path, lines, chance.uniform(0, MOMENT_S), kill)
        loaded = read(path)
        assert not loaded.is_damaged
        round = loaded.position.round + len(loaded.log)
        newest = max([newest, *(int(words[1]) for words in acknowledged if words[0] == "round")])
        assert round >= newest
        while len(twin) <= round:
            twin.append(child.keep_after(twin[-1]).position)
        for kind, number, hash in acknowledged:
            assert kind != "round" or twin[int(number)].record.hex() == hash
        assert signed_no_less(loaded.journal, acknowledged)
        assert loaded.journal is None or loaded.journal == child.journal_of(
            loaded.journal.round, loaded.journal.attempt
        )
        with ArchiveReader(path, child.ORIGIN) as reader:
            reader.check()
            leaps = [leap for leap in reader.walk(0) if isinstance(leap, Leap) and not leap.before]
            assert [leap.decided.round for leap in leaps] == list(range(1, round + 1))
            assert reader.position(round) == twin[round]
    print(f"{KILLS} kills, {newest:,} rounds acknowledged")


def read(path: Path) -> Loaded:
    with Archive(path, child.ORIGIN) as archive:
        return archive.load()
