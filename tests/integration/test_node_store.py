"""What a swarm's members know together is shown and verified by `shoal store` on each one's disk."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from shoal.node.complaint import Exit
from shoal.node.local_client import LocalClient
from shoal.node.stored import read_store

from .test_node_swarm import ROOT, SPEC, closed_rounds, running, wait_for


def store(data_dir: Path, verb: str, *flags: str) -> tuple[int, Any]:
    command = [sys.executable, "-m", "shoal", "store", verb, "--json", "--data-dir", str(data_dir), *flags]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    return ended.returncode, json.loads(ended.stdout) if ended.stdout else ended.stderr


def digest(data_dir: Path) -> bytes:
    return read_store(data_dir, None)[2].replica.digest()


def contributions(data_dir: Path) -> set[tuple[str, ...]]:
    return set(read_store(data_dir, None)[2].replica.keys("contributions"))


def test_what_members_keep_is_shown_and_verified_while_they_run_and_after_they_were_killed(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    with running(one) as first, running(two) as second:
        with LocalClient(one) as node:
            created = node.call("swarm.create", spec=SPEC)
            peers = {node.call("status")["peer_id"]}
        with LocalClient(two) as node:
            node.call("swarm.join", invite=created["invite"])
            peers.add(node.call("status")["peer_id"])
        closed_rounds(one, 2)
        for data_dir in (one, two):  # else there is always news
            with LocalClient(data_dir) as node:
                node.call("pause")
        wait_for(lambda: len(contributions(one)) >= 4 and digest(one) == digest(two))
        code, shown = store(two, "show", "--namespace", "members")
        assert code == Exit.OK
        assert {entry["path"][0] for entry in shown["entries"]} == peers
        for process in (first, second):
            process.send_signal(signal.SIGKILL)
            process.wait(10)
    code, found = store(one, "verify")
    assert (code, found["ok"], found["problems"], found["forked"]) == (Exit.OK, True, [], [])
    assert store(two, "digest") == (Exit.OK, {"id": created["id"], "digest": found["digest"]})


def test_a_spoiled_store_is_told_and_one_that_is_not_there_too(tmp_path: Path) -> None:
    code, said = store(tmp_path / "none", "show")
    assert code == Exit.FAILED
    assert "shoal swarm create" in said
