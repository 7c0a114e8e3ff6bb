"""The command `shoal testnet` as a person runs it: real processes, real sockets, a report, and nothing left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from shoal.node import report as reports
from shoal.node.cli_testnet import sweep
from shoal.node.complaint import Exit

SMALL = ("--model", "gpt-0.2m", "--set", "steps=3", "--set", "batch_size=2", "--set", "validation_windows=4")
TIMEOUT_S = 180


def start(folder: Path, *flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "shoal", "testnet", "--json", "--report", str(folder), *flags]
    # What a killed testnet leaves on the disk is pytest's to remove. The path is too long for a Unix socket on most
    # systems: the nodes' local APIs then listen on loopback, as they do where there are no Unix sockets.
    temporary = folder / "a-temporary-folder-with-a-long-name"
    temporary.mkdir(parents=True)
    environment = {**os.environ, "TMPDIR": str(temporary)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def run(folder: Path, *flags: str) -> dict[str, Any]:
    out, told = start(folder, *flags).communicate(timeout=TIMEOUT_S)
    assert out, told
    last: dict[str, Any] = json.loads(out.splitlines()[-1])
    assert last["ok"], (last, told)
    return last


def test_a_run_ends_well_reports_compares_and_repeats_to_the_bit(tmp_path: Path) -> None:
    flags = ("--nodes", "3", "--rounds", "2", *SMALL)
    first = run(tmp_path / "first", *flags)
    report = reports.read(Path(first["report"]))
    assert reports.faults(report, 2) == []
    assert len(report.nodes) == 3
    for entry in report.rounds:
        assert entry.contributors == report.nodes
        assert set(entry.state_digest) == set(entry.bytes_sent) == set(report.nodes)
        assert len(set(entry.state_digest.values())) == 1
        assert (entry.validation_loss or 9.0) < 6.0
    assert report.final.tokens_per_member == 2 * 3 * 2 * 128
    assert report.samples is not None
    assert report.samples.before != report.samples.after
    assert "<svg" in Path(first["html"]).read_text()

    again = reports.read(Path(run(tmp_path / "again", "--compare", *flags)["report"]))
    assert [entry.state_digest for entry in again.rounds] == [entry.state_digest for entry in report.rounds]
    assert again.samples == report.samples
    assert again.baselines is not None
    for baseline in (again.baselines.alone, again.baselines.synchronous):
        assert [point.tokens for point in baseline.curve] == [768, 1536]
        assert baseline.curve[-1].validation_loss == baseline.validation_loss


@pytest.mark.parametrize(("flag", "value"), [("--model", "gpt-9000"), ("--data", "hamlet.txt"), ("--method", "none")])
def test_what_no_node_can_train_is_one_line_before_any_node_is_started(flag: str, value: str, tmp_path: Path) -> None:
    process = start(tmp_path, "--nodes", "1", flag, value)
    out, told = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == Exit.SPEC
    assert value in told
    assert len(told.splitlines()) == 1
    assert (out, [*tmp_path.rglob("node-*")]) == ("", [])


@pytest.mark.skipif(sys.platform == "win32", reason="signals as on POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_when_the_testnet_is_stopped_or_killed_no_process_is_left(number: signal.Signals, tmp_path: Path) -> None:
    process = start(tmp_path, "--nodes", "2", "--rounds", "500", *SMALL)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("round ") and int(line.split()[1]) >= 3:  # by then round 1 is evaluated, too
                break
        else:
            pytest.fail("round 3 did not close")
        nodes = psutil.Process(process.pid).children(recursive=True)
        assert len(nodes) == 2
        (data,) = tmp_path.glob("*/shoal-testnet-*")
        sweep(data.parent)
        assert (data / "node-1").exists()
        os.kill(process.pid, number)
        out, told = process.communicate(timeout=20)
        if number == signal.SIGINT:
            assert process.returncode == 130
            assert "Traceback" not in told
            (line,) = [line for line in told.splitlines() if line.startswith("shoal: interrupted after round ")]
            assert line.endswith(str(tmp_path / "report.html"))
            assert json.loads(out)["problems"] == [line.removeprefix("shoal: ")]
            assert "<svg" in (tmp_path / "report.html").read_text()
            report = reports.read(tmp_path / "report.json")
            assert reports.faults(report, len(report.rounds)) == []
            assert len(report.rounds) >= 1
            assert alive(nodes) == []
        else:
            ended_by = time.monotonic() + 10
            while alive(nodes) and time.monotonic() < ended_by:
                time.sleep(0.1)
            assert alive(nodes) == []
            sweep(data.parent)
        assert not data.exists()
    finally:
        process.kill()
        process.communicate()


def alive(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    return [each for each in processes if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
