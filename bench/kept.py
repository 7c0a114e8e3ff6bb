"""Outcomes of dear runs, kept in a file: one that was stopped goes on where it was, and no run is done twice."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Case = TypeVar("Case", bound="DataclassInstance")  # hashable; its fields are plain values
Outcome = TypeVar("Outcome", bound="DataclassInstance")


class Kept(Generic[Case, Outcome]):
    """A line of JSON for each case. What a kill cut off of the last line is not there."""

    def __init__(self, path: Path, case: Callable[..., Case], outcome: Callable[..., Outcome]) -> None:
        self._path = path
        self._known = dict[Case, Outcome]()
        whole, _, cut_off = (path.read_text() if path.exists() else "").rpartition("\n")
        for line in map(json.loads, whole.splitlines()):
            self._known[case(**line["case"])] = outcome(**line["outcome"])
        if cut_off:
            path.write_text(whole and whole + "\n")

    def __contains__(self, case: Case) -> bool:
        return case in self._known

    def __getitem__(self, case: Case) -> Outcome:
        return self._known[case]

    def add(self, case: Case, outcome: Outcome) -> None:
        self._known[case] = outcome
        with self._path.open("a") as file:
            file.write(json.dumps({"case": asdict(case), "outcome": asdict(outcome)}) + "\n")
