"""`shoal log replay` makes a model anew that real processes have trained, and nothing else passes for it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shoal.node import report as reports
from shoal.node.complaint import Exit
from shoal.training.history_service import HISTORY_NAME
from tests.integration.test_testnet_runs import run

ROUNDS = 6
SMALL = ("--model", "gpt-0.2m", "--set", "directions=2", "--set", "batch_size=2", "--set", "validation_windows=4")


def shoal(*words: str, code: int = 0) -> str:
    command = [sys.executable, "-m", "shoal", "log", *words]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == code, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stdout if "--json" in words else ended.stdout + ended.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[reports.Report, list[Path]]:
    """A run of three nodes, and their data directories."""
    folder = tmp_path_factory.mktemp("run")
    told = run(folder, "--method", "zeroth", "--nodes", "3", "--rounds", str(ROUNDS), "--keep", *SMALL)
    nodes = sorted(path.parents[3] for path in folder.glob(f"*/*/node-*/swarms/*/rounds/{HISTORY_NAME}"))
    assert len(nodes) == 3
    return reports.read(Path(told["report"])), nodes


def test_every_nodes_file_leads_to_the_state_that_all_had(
    trained: tuple[reports.Report, list[Path]], tmp_path: Path
) -> None:
    report, nodes = trained
    digests = {entry.round: set(entry.state_digest.values()) for entry in report.rounds}
    for number, node in enumerate(nodes):
        path, model = tmp_path / f"{number}.log", tmp_path / f"{number}.model"
        shoal("export", str(path), "--data-dir", str(node))
        found: dict[str, Any] = json.loads(shoal("replay", str(path), "--save", str(model), "--json"))
        assert (found["ok"], found["rounds"], found["members"]) == (True, ROUNDS - 1, 3)
        assert {found["digest"]} == digests[ROUNDS - 1]
        assert found["saved"] == str(model)
    assert len({(tmp_path / f"{number}.model").read_bytes() for number in range(3)}) == 1


def test_a_file_that_was_changed_is_refused_or_leads_elsewhere(
    trained: tuple[reports.Report, list[Path]], tmp_path: Path
) -> None:
    path, spoiled = tmp_path / "sound.log", tmp_path / "spoiled.log"
    shoal("export", str(path), "--data-dir", str(trained[1][0]))
    data = path.read_bytes()
    for at in (0, 9, 40, len(data) // 2, len(data) - 100, len(data) - 1):
        spoiled.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        said = shoal("replay", str(spoiled), "--save", str(tmp_path / "model"), code=Exit.FAILED)
        assert said.strip()
    assert not (tmp_path / "model").exists()
