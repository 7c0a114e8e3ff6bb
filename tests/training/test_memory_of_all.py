"""Who trains all of a model's parameters needs memory for one model, its largest tensor and a tenth, and no more."""

import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from shoal.training.registry import data_folder
from tests.training.weights_at_hand import needs_smollm

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("one_life.py")
MODEL_MIB: Final = 134_515_008 * 4 / 2**20
LARGEST_MIB: Final = 49_152 * 576 * 4 / 2**20
GROUPS: Final = Path("/sys/fs/cgroup/memory")
# What is freed goes back to the system at once: else what is measured is how malloc's heap happens to be split.
ENVIRONMENT: Final = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "PYTHONPATH": str(ROOT)}


@contextmanager
def living(states: Path) -> Generator[subprocess.Popen[str]]:
    """The program, with its libraries loaded, waiting for a line."""
    command = [sys.executable, str(PROGRAM), str(data_folder()), str(states)]
    program = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | ENVIRONMENT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with program:
        assert program.stdout is not None
        assert program.stdout.readline() == "loaded\n"
        yield program
        program.kill()


def peak_mib(program: subprocess.Popen[str]) -> float:
    """What is left when the program has gone through all of it."""
    said, _ = program.communicate("go on\n")
    assert program.returncode == 0
    return float(said)


@contextmanager
def memory_group(name: str) -> Generator[Path]:
    group = GROUPS / name
    try:
        group.mkdir(exist_ok=True)
    except OSError:
        pytest.skip(f"NOT TESTED: that it lives within a limit of memory; no group can be made in {GROUPS}")
    try:
        yield group
    finally:
        group.rmdir()


@needs_smollm
def test_beside_one_model_it_holds_no_more_than_its_largest_tensor_and_a_tenth(tmp_path: Path) -> None:
    """States lie in files: what is not in a file is all that is held beside the one that is worked on."""
    with living(tmp_path) as program:
        assert peak_mib(program) < MODEL_MIB / 10 + LARGEST_MIB
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second"]  # no file of a vector is left


@needs_smollm
def test_it_lives_where_the_system_gives_no_more_memory_than_that(tmp_path: Path) -> None:
    with memory_group(f"shoal-{os.getpid()}") as group, living(tmp_path) as program:
        status = Path(f"/proc/{program.pid}/status").read_text()
        before = sum(int(line.split()[1]) * 2**10 for line in status.splitlines() if line.startswith("RssAnon"))
        limit = before + int((MODEL_MIB * 1.1 + LARGEST_MIB) * 2**20)
        (group / "memory.limit_in_bytes").write_text(str(limit))
        (group / "cgroup.procs").write_text(str(program.pid))
        peak_mib(program)
        assert int((group / "memory.max_usage_in_bytes").read_text()) <= limit
