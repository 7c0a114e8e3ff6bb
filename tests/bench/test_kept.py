"""Outcomes that are kept in a file."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.kept import Kept


@dataclass(frozen=True, slots=True)
class Case:
    rule: str
    seed: int


@dataclass(frozen=True, slots=True)
class Outcome:
    loss: float


FIRST, SECOND = Case("mean", 0), Case("median", 0)


def test_what_was_kept_is_there_for_who_opens_the_file_again(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    kept = Kept(path, Case, Outcome)
    assert FIRST not in kept
    kept.add(FIRST, Outcome(0.5))
    kept.add(SECOND, Outcome(float("inf")))  # a model that is lost
    again = Kept(path, Case, Outcome)
    assert (again[FIRST], again[SECOND]) == (Outcome(0.5), Outcome(float("inf")))


@pytest.mark.parametrize("lines", [1, 2])
def test_a_line_that_a_kill_cut_off_is_run_again_and_no_other(tmp_path: Path, lines: int) -> None:
    path = tmp_path / "runs.jsonl"
    kept = Kept(path, Case, Outcome)
    for case in (FIRST, SECOND)[:lines]:
        kept.add(case, Outcome(0.5))
    path.write_text(path.read_text()[:-5])
    again = Kept(path, Case, Outcome)
    cut_off = (FIRST, SECOND)[lines - 1]
    assert cut_off not in again
    assert lines == 1 or FIRST in again
    again.add(cut_off, Outcome(0.25))
    assert Kept(path, Case, Outcome)[cut_off] == Outcome(0.25)
