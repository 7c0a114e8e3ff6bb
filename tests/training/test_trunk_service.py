"""Activations are computed once on a machine, whoever comes, whoever is killed, and whatever happens to the files."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from shoal.training.trunk_service import CHUNK_TEXTS, FOLDERS_MAX, Keep, Trunk, activations, trunk_name

PROGRAM = Path(__file__).with_name("trunk_child.py")
ROOT = PROGRAM.parents[2]
WIDTH = 4
LENGTHS = [1 + text % 5 for text in range(3 * CHUNK_TEXTS + 7)]


def expected(text: int) -> np.ndarray:
    return np.full((LENGTHS[text], WIDTH), text, np.float32)


class Counting:
    """Computes, and remembers for which texts."""

    def __init__(self) -> None:
        self.chunks: list[range] = []

    def __call__(self, chunk: range) -> np.ndarray:
        self.chunks.append(chunk)
        return np.concatenate([expected(text) for text in chunk])


def obtain(folder: Path, name: str = "one") -> tuple[list[range], list[tuple[int, int]]]:
    """Get all activations and check them; what had to be computed for that, and what progress was told."""
    computing, told = Counting(), list[tuple[int, int]]()
    keep = Keep(folder, lambda done, texts: told.append((done, texts)))
    parts = activations(Trunk(name, LENGTHS, WIDTH, computing), keep)
    assert len(parts) == len(LENGTHS)
    for text, part in enumerate(parts):
        assert np.array_equal(part, expected(text))
    return computing.chunks, told


def test_the_second_who_comes_computes_nothing(tmp_path: Path) -> None:
    chunks, told = obtain(tmp_path)
    assert [text for chunk in chunks for text in chunk] == list(range(len(LENGTHS)))
    assert [done for done, _ in told] == [CHUNK_TEXTS, 2 * CHUNK_TEXTS, 3 * CHUNK_TEXTS, len(LENGTHS)]
    assert {texts for _, texts in told} == {len(LENGTHS)}
    assert obtain(tmp_path)[0] == []


def test_a_damaged_a_shortened_and_a_missing_file_are_made_again_and_no_other(tmp_path: Path) -> None:
    obtain(tmp_path)
    files = sorted(tmp_path.glob("one/*/activations"))
    data = bytearray(files[0].read_bytes())
    data[-1] ^= 1
    files[0].write_bytes(data)
    files[1].write_bytes(files[1].read_bytes()[:-4])
    files[3].unlink()
    assert [chunk.start for chunk in obtain(tmp_path)[0]] == [0, CHUNK_TEXTS, 3 * CHUNK_TEXTS]
    assert obtain(tmp_path)[0] == []


def test_where_nothing_can_be_kept_everything_is_computed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    assert len(obtain(tmp_path / "file")[0]) == 4


def test_other_parts_have_another_name_wherever_they_are_cut() -> None:
    assert trunk_name(b"ab", b"c") != trunk_name(b"a", b"bc")
    assert trunk_name(b"ab", b"c") == trunk_name(b"ab", b"c")


def test_what_was_begun_longest_ago_makes_room(tmp_path: Path) -> None:
    for index in range(FOLDERS_MAX + 2):
        obtain(tmp_path, f"task{index}")
    assert len(list(tmp_path.iterdir())) == FOLDERS_MAX
    assert obtain(tmp_path, f"task{FOLDERS_MAX + 1}")[0] == []


def start(folder: Path, behaviour: str) -> "subprocess.Popen[str]":
    command = [sys.executable, str(PROGRAM), str(folder), behaviour]
    return subprocess.Popen(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True)


def test_processes_that_start_at_once_share_the_work(tmp_path: Path) -> None:
    children = [start(tmp_path, "work") for _ in range(3)]
    done = [child.communicate(timeout=60)[0].split() for child in children]
    assert all(child.returncode == 0 for child in children)
    assert sorted(int(first) for each in done for first in each) == [n * CHUNK_TEXTS for n in range(4)]
    assert obtain(tmp_path)[0] == []


def test_the_chunk_of_a_killed_process_is_made_by_another(tmp_path: Path) -> None:
    with start(tmp_path, "hang") as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "0\n"  # it holds the first chunk's lock
        with start(tmp_path, "work") as other:
            assert other.stdout is not None
            others = [int(other.stdout.readline()) for _ in range(3)]
            assert others == [CHUNK_TEXTS, 2 * CHUNK_TEXTS, 3 * CHUNK_TEXTS]  # and waits for the first
            child.kill()
            assert other.stdout.readline() == "0\n"
    assert obtain(tmp_path)[0] == []
