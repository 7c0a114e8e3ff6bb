"""Large vectors lie in files that nobody sees, where there is room for them."""

import gc
import os
import resource
from pathlib import Path

import numpy as np
import pytest

from shoal.training.room_service import FILE_BYTES_MIN, room

LARGE = FILE_BYTES_MIN // 4


def mapped(folder: Path) -> int:
    """How many files in it this process has mapped."""
    return sum(str(folder) in line for line in Path("/proc/self/maps").read_text().splitlines())


@pytest.mark.skipif(
    not Path("/proc/self/maps").exists(), reason="NOT TESTED: that large vectors lie in files; no /proc"
)
def test_a_large_vector_lies_in_a_file_without_a_name_and_is_gone_with_its_last_view(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "when needed"
    values = room(LARGE, folder)
    values[:] = np.arange(LARGE, dtype=np.float32)
    assert mapped(folder) == 1
    assert list(folder.iterdir()) == []
    part = values[-2:]
    del values
    assert part.tolist() == [LARGE - 2, LARGE - 1]
    del part
    gc.collect()
    assert mapped(folder) == 0


def test_a_small_one_is_in_memory(tmp_path: Path) -> None:
    folder = tmp_path / "never made"
    values = room(LARGE - 1, folder)
    assert (values.shape, values.dtype.name) == ((LARGE - 1,), "float32")
    assert not folder.exists()


def test_two_share_nothing(tmp_path: Path) -> None:
    one, two = room(LARGE, tmp_path), room(LARGE, tmp_path)
    one[0], two[0] = 1, 2
    assert (one[0], two[0]) == (1, 2)


def test_where_there_is_no_folder_to_be_had_it_is_in_memory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    values = room(LARGE, tmp_path / "file" / "folder")
    values[-1] = 1
    assert len(values) == LARGE


def test_where_files_may_not_grow_so_large_it_is_in_memory(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))
    try:
        values = room(LARGE, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    values[-1] = 1
    assert len(values) == LARGE
    assert list(tmp_path.iterdir()) == []


def test_without_a_way_to_reserve_room_it_is_written_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    values = room(LARGE + 1, tmp_path)
    assert len(values) == LARGE + 1
    assert not values.any()
