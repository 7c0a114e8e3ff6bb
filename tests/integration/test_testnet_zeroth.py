"""Real processes that train by forward passes alone: the same bits on another instruction set, after kill -9, and for
who comes late.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from shoal.node import report as reports
from shoal.node import testnet as nets
from shoal.node.async_client import connect
from shoal.node.places import LOOPBACK, Place
from shoal.training.evaluators import smol_problem
from shoal.training.registry import data_folder

OTHER_ARITHMETIC = ("env", "ATEN_CPU_CAPABILITY=default", "MKL_CBWR=COMPATIBLE")
PLAN = nets.Plan(
    nodes=4,
    rounds=None,
    method="zeroth",
    model="gpt-0.2m",
    seed=6,
    settings={"directions": 8, "batch_size": 2, "context": 32, "audit_share": 0.2, "evaluate_rounds": 1000},
    rules={"members_start": 3},
)
TIMEOUT_S = 170
AWAY_ROUNDS = 8  # more than payloads are kept for in memory


async def join(testnet: nets.Testnet, node: nets.TestnetNode) -> None:
    async with connect(node.data_dir) as client:
        await client.call("swarm.join", invite=testnet.invite)


async def test_all_have_the_same_bits_also_who_computes_otherwise_was_killed_or_comes_late(tmp_path: Path) -> None:
    places = [LOOPBACK, LOOPBACK, Place(OTHER_ARITHMETIC, LOOPBACK.listen), LOOPBACK]
    with trio.fail_after(170):
        async with nets.open_testnet(PLAN, tmp_path, places) as testnet:
            founder, victim, other, late = testnet.nodes
            for node in (founder, victim, other):
                await testnet.start(node)
            async with connect(founder.data_dir) as client:
                created = await client.call("swarm.create", spec=PLAN.spec(), nonce=PLAN.nonce())
                testnet.invite = str(created["invite"])
            for node in (victim, other):
                await join(testnet, node)
            await testnet.until(lambda: testnet.tally.rounds_closed() >= 3)
            await testnet.kill(victim)
            away = testnet.tally.rounds_closed() + AWAY_ROUNDS
            await testnet.until(lambda: testnet.tally.rounds_closed() >= away)
            await testnet.start(victim)
            await testnet.start(late)
            await join(testnet, late)
            await testnet.until(lambda: testnet.tally.newest_round(late.peer) > away)
            last = max(testnet.tally.newest_round(node.peer) for node in testnet.nodes) + 3
            await testnet.until(lambda: testnet.tally.rounds_closed() >= last)
            (digest,) = {testnet.tally.digest(node.peer, last) for node in testnet.nodes}
            assert digest
            assert set(testnet.tally.contributors(founder.peer, last)) == {node.peer for node in testnet.nodes}
            told = [each for each in testnet.tally.report("zeroth").incidents if "by log: got there" in each.what]
            assert {each.node for each in told} == {victim.peer, late.peer}  # not by the checkpoint, of 850 kB
            async with connect(founder.data_dir) as client:
                agreement = (await client.call("swarm.show"))["agreement"]
            assert agreement["barred"] == []  # nobody's audits fail by arithmetic
            assert agreement["removals"] == []
            for node in (victim, late):  # 850 KB of parameters, or some kilobytes of slopes
                (went,) = [json.loads(line) for line in node.process.log.read_text().splitlines() if '"Went"' in line]
                assert (went["way"], went["has_arrived"]) == ("log", True)


def run(folder: Path, *flags: str, **environment: str) -> tuple[dict[str, Any], str]:
    """`shoal testnet --method zeroth`: the last line, and what it said besides."""
    command = [
        sys.executable,
        "-m",
        "shoal",
        "testnet",
        "--json",
        "--method",
        "zeroth",
        "--report",
        str(folder),
        *flags,
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=TIMEOUT_S, env={**os.environ, **environment}, check=False
    )
    assert done.stdout, done.stderr
    last: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert last["ok"], (last, done.stderr)
    return last, done.stderr


def test_without_the_sentences_it_says_so_in_a_line_and_trains_the_embedded_model(tmp_path: Path) -> None:
    small = ("--nodes", "2", "--rounds", "2", "--set", "directions=2", "--set", "validation_windows=2")
    last, told = run(tmp_path / "report", *small, XDG_DATA_HOME=str(tmp_path), HOME=str(tmp_path))
    assert len([line for line in told.splitlines() if "make smollm" in line and "gpt-0.2m" in line]) == 1
    report = reports.read(Path(last["report"]))
    assert (report.model, report.loss_per) == ("gpt-0.2m", "byte")
    assert report.before["validation_loss"] > 5


def test_a_pretrained_model_learns_a_task_and_the_report_says_what_it_took(tmp_path: Path) -> None:
    if missing := smol_problem(data_folder()):
        pytest.skip(f"NOT TESTED: {missing}")
    small = ("--set", "train_sentences=48", "--set", "evaluation_sentences=24", "--set", "evaluate_rounds=2")
    last, told = run(tmp_path / "report", "--nodes", "2", "--rounds", "3", *small, XDG_CACHE_HOME=str(tmp_path))
    report = reports.read(Path(last["report"]))
    assert (report.model, report.data, report.loss_per) == ("smollm2-135m", "sentiment", "sentence")
    assert set(report.before) == {"validation_loss", "accuracy"}
    assert [entry.validation_loss is None for entry in report.rounds] == [True, False, False]
    assert set(report.final.metrics) == {"accuracy"}
    assert report.final.validation_loss != report.before["validation_loss"]
    for entry in report.rounds:
        assert set(entry.contribution_bytes) == set(report.nodes)
        assert all(4 + 64 < size <= 4 + 250 for size in entry.contribution_bytes.values())
    assert "accuracy" in told
    assert "bytes, signatures included" in told
