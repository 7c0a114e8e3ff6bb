"""`shoal testnet --adversaries` as a person runs it: real processes of which one attacks."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import trio

from shoal.node import report as reports
from shoal.node import testnet as nets

SMALL = ("--model", "gpt-0.2m", "--set", "steps=3", "--set", "batch_size=2", "--set", "validation_windows=4")
TIMEOUT_S = 170
MEDIAN = nets.Plan(
    nodes=8,
    rounds=8,
    model="gpt-0.2m",
    seed=8,
    settings={"steps": 5, "batch_size": 4, "validation_windows": 4, "rule": "median", "attackers": 0.25},
    adversaries=("signflip", "huge"),
)


def test_one_that_sends_nan_has_no_weight_and_the_others_agree_and_wait_for_nobody(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "shoal", "testnet", "--json", "--report", str(tmp_path), "--nodes", "4"]
    done = subprocess.run(
        [*command, "--rounds", "3", "--adversaries", "nan=1", *SMALL],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.stdout, done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["ok"], (last, done.stderr)
    assert last["adversaries"] == ["nan: 0% of all weight in the last round, taken in none of 3 rounds"]
    report = reports.read(tmp_path / "report.json")
    (liar,) = report.adversaries
    assert report.attacks == {liar: "nan"}
    assert len(report.rounds) == 3
    for entry in report.rounds:
        assert entry.contributors == report.honest()
        assert set(entry.weights) == set(report.honest())
        assert abs(sum(entry.weights.values()) - 1) < 1e-9
        assert len({entry.state_digest[peer] for peer in report.honest()}) == 1
        assert liar in entry.contribution_bytes  # it did send something
        assert entry.seconds < 20  # of the 610 s until who has not contributed is given up
    refusals = [one.what for one in report.incidents if one.node != liar and "its values reach nan" in one.what]
    assert len(refusals) == 9
    assert "Of the 4 nodes 1 attacked" in (tmp_path / "report.html").read_text()


def test_a_node_that_no_testnet_has_told_to_attack_does_not_start(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "shoal.node.cli_adversary", "node", "--data-dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 5
    assert len(done.stderr.splitlines()) == 1
    assert "no testnet has said here how to attack" in done.stderr


def shoal(directory: Path, *arguments: str) -> dict[str, Any]:
    """What `shoal log` says, with the node's own disk alone."""
    command = [sys.executable, "-m", "shoal", "log", *arguments, "--data-dir", str(directory), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


async def test_attackers_of_two_kinds_lose_all_weight_and_the_log_says_why_offline(tmp_path: Path) -> None:
    with trio.fail_after(TIMEOUT_S):
        async with nets.open_testnet(MEDIAN, tmp_path) as testnet:
            await testnet.launch()
            await testnet.until(lambda: testnet.tally.has_finished)
            outcasts, report = await testnet.outcasts(), testnet.tally.report(MEDIAN.method)
    assert reports.faults(report, MEDIAN.rounds or 0) == []
    assert set(outcasts["banned"]) == set(report.adversaries)
    assert sum(report.rounds[-1].weights.get(liar, 0.0) for liar in report.adversaries) == 0
    assert all(report.rounds[-1].weights[peer] > 0.1 for peer in report.honest())
    disk = tmp_path / "node-0"
    assert shoal(disk, "verify")["ok"]
    for liar in report.adversaries:
        story = shoal(disk, "explain", liar)
        assert story["banned_until"] == outcasts["banned"][liar]
        assert (story["trust"], story["bans"]) == (0, 1)
    for peer in report.honest():
        assert shoal(disk, "explain", peer)["bans"] == 0
