"""kill -9 at any moment loses nothing that was acknowledged, and the chain goes on from there."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

from shoal.crdt.store import Store
from tests.crdt import store_child as child

KILLS = 200 if os.environ.get("SHOAL_SOAK") else 20
GROUPS = 30  # that a child may store before it is killed
MOMENT_S = 0.01  # a group takes less, and a compaction, and opening the file
PROGRAM = Path(child.__file__)
ROOT = PROGRAM.parents[2]


def write_until_killed(path: Path, groups: int, moment_s: float, seed: int) -> list[tuple[int, str]]:
    """What the child acknowledged: number and hash of the last operation of each group it stored."""
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM), str(path), str(seed)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "opening\n"
        said = "".join(process.stdout.readline() for _ in range(groups))
        time.sleep(moment_s)
        process.kill()
        said += process.stdout.read()
        assert process.wait() == -9
    whole, _, _ = said.rpartition("\n")  # the kill may have cut the last line
    return [(int(number), hash) for number, hash in (line.split() for line in whole.splitlines())]


def test_what_was_acknowledged_is_there_after_every_kill(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    chance = random.Random(7)
    twin = child.empty()  # writes the same, and is never killed
    newest = compactions = 0
    for kill in range(KILLS):
        acknowledged = write_until_killed(
            path, chance.choice((0, 1, chance.randrange(GROUPS))), chance.uniform(0, MOMENT_S), kill
        )
        with Store(path, child.SWARM) as store:
            loaded = store.load()
            assert not loaded.is_damaged
            compactions += loaded.snapshot is not None
            found = child.replica_of(loaded)
        number = found.context().get(child.WRITER, 0)
        newest = max([newest, *(number for number, _ in acknowledged)])
        assert number >= newest
        while twin.context().get(child.WRITER, 0) < number:
            child.write(twin, 1)
        chain = twin.chain(child.WRITER)
        for last, hash in acknowledged:
            assert chain is not None
            assert chain.hash_at(last).hex() == hash
        assert found.digest() == twin.digest()
        assert found.heads() == twin.heads()
    assert compactions > KILLS // 4
    print(f"{KILLS} kills, {newest:,} operations acknowledged, a snapshot found {compactions} times")
