"""Chaos: nodes are killed, frozen, restarted and cut off while they train, and in the end all of them agree.

`SHOAL_SOAK=1` (`make soak`) takes eight nodes and ten minutes instead of five and two.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import psutil
import pytest
import trio

from shoal.node import report as reports
from shoal.node.cli_chaos import undisturbed
from shoal.node.lan import obstacle
from shoal.node.plan import CHAOS_MODEL, CHAOS_SETTINGS, Plan

IS_SOAK: Final = bool(os.environ.get("SHOAL_SOAK"))
NODES, MINUTES = (8, 10) if IS_SOAK else (5, 2)
SEED: Final = 7
WORSE_MAX: Final = 1.2  # times the undisturbed run's loss; measured: 1.00 to 1.03, with a tenth to a third of work lost
TIMEOUT_S: Final = MINUTES * 60 * 4 + 240
ROUNDS: Final = 5  # of a run to compare with
COMPARED_S: Final = 120.0

FREEZE_FIRST: Final = 3  # a seed: of three nodes in a minute the first thing that befalls any is a freeze of 6 s
STOPPED_S: Final = 4.0  # a busy machine takes a while to stop all threads
GONE_S: Final = 20.0

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals as on POSIX")


def start(*flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "shoal", "testnet", "--json", *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_after_kills_freezes_and_partitions_all_take_part_and_have_equal_states(tmp_path: Path) -> None:
    flags = ("--nodes", str(NODES), "--minutes", str(MINUTES), "--chaos", str(SEED), "--report", str(tmp_path))
    process = start(*flags)
    try:
        out, told = process.communicate(timeout=TIMEOUT_S)
    finally:
        process.kill()
        process.communicate()
    assert out, told
    last = json.loads(out.splitlines()[-1])
    assert last["ok"], (last["problems"], told)
    assert process.returncode == 0

    report = reports.read(tmp_path / "report.json")
    assert report.rounds[-1].contributors == report.nodes
    assert set(report.rounds[-1].state_digest) == set(report.nodes)
    assert len(set(report.rounds[-1].state_digest.values())) == 1
    kinds = {"kill", "freeze"} if trio.run(obstacle) else {"kill", "freeze", "partition"}
    assert {event.kind for event in report.events} == kinds
    assert last["loss_over_undisturbed"] < WORSE_MAX


async def test_the_run_to_compare_with_tells_where_no_terminal_is_how_far_it_is_and_how_long_still(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = Plan(nodes=3, minutes=1.0, model=CHAOS_MODEL, settings=CHAOS_SETTINGS, chaos=SEED)
    with trio.fail_after(COMPARED_S):
        baseline = await undisturbed(plan, tmp_path, ROUNDS)
    assert len(baseline.curve) == ROUNDS
    first, *lines = capsys.readouterr().err.splitlines()
    assert first == f"starting the same 3 nodes for {ROUNDS} rounds undisturbed, to compare with"
    assert any(re.match(rf"round \d+ of {ROUNDS}, .*, about .* left  loss ", line) for line in lines)
    assert re.match(rf"round \d+ of {ROUNDS}, [^,]*  loss ", lines[-1])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_when_it_is_stopped_or_killed_no_process_is_left_not_even_a_frozen_one(
    number: signal.Signals, tmp_path: Path
) -> None:
    flags = ("--nodes", "3", "--minutes", "1", "--chaos", str(FREEZE_FIRST), "--report", str(tmp_path))
    process = start(*flags)
    try:
        assert process.stderr is not None
        assert any(line.startswith("frozen: ") for line in process.stderr)
        started = psutil.Process(process.pid).children(recursive=True)
        until = time.monotonic() + STOPPED_S
        while not any(each.status() == psutil.STATUS_STOPPED for each in started):
            assert time.monotonic() < until
            time.sleep(0.01)
        process.send_signal(number)
        process.communicate(timeout=GONE_S)
        assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL)
        _, left = psutil.wait_procs(started, timeout=GONE_S)
        assert left == []
    finally:
        process.kill()
        process.communicate()
