"""What a swarm's members know together outlives all of them at once, and can be verified on each one's disk."""

import json
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shoal.node.complaint import Exit
from shoal.node.local_client import LocalClient

from .test_node_swarm import ROOT, SPEC, closed_rounds, running, wait_for

Entries = dict[tuple[str, ...], Any]


def store(data_dir: Path, verb: str, *flags: str) -> tuple[int, Any]:
    command = [sys.executable, "-m", "shoal", "store", verb, "--json", "--data-dir", str(data_dir), *flags]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    return ended.returncode, json.loads(ended.stdout) if ended.stdout else ended.stderr


def entries(data_dir: Path, namespace: str) -> Entries:
    code, shown = store(data_dir, "show", "--namespace", namespace)
    assert code == Exit.OK, shown
    return {tuple(entry["path"]): entry["value"] for entry in shown["entries"]}


def digest(data_dir: Path) -> str:
    return str(store(data_dir, "digest")[1]["digest"])


def sound(data_dir: Path) -> dict[str, Any]:
    code, found = store(data_dir, "verify")
    assert code == Exit.OK, found
    assert (found["ok"], found["problems"], found["forked"]) == (True, [], [])
    return dict(found)


@contextmanager
def pair(one: Path, two: Path) -> Generator[list["subprocess.Popen[str]"]]:
    with running(one) as first, running(two) as second:
        yield [first, second]


def test_when_all_members_are_killed_at_once_nothing_is_lost(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    with pair(one, two) as processes:
        with LocalClient(one) as node:
            created = node.call("swarm.create", spec=SPEC)
            peers = {node.call("status")["peer_id"]}
        with LocalClient(two) as node:
            node.call("swarm.join", invite=created["invite"])
            peers.add(node.call("status")["peer_id"])
        closed_rounds(one, 2)
        wait_for(lambda: len(entries(one, "contributions")) >= 4 and len(entries(two, "contributions")) >= 4)
        # While the nodes run, too: nothing is asked of them.
        assert {path[0] for path in entries(two, "members")} == peers
        for process in processes:
            process.send_signal(signal.SIGKILL)
        for process in processes:
            process.wait(10)
    before = entries(one, "contributions")
    operations = max(sound(one)["operations"], sound(two)["operations"])
    assert {path[0] for path in before} == peers
    assert {path[0] for path in entries(one, "members")} == peers

    with pair(one, two):
        later = max(closed_rounds(one, 3))
        wait_for(lambda: any(value["round"] > later for value in entries(two, "contributions").values()))
        for data_dir in (one, two):  # else there is always news
            with LocalClient(data_dir) as node:
                node.call("pause")
        wait_for(lambda: digest(one) == digest(two))
        after = entries(two, "contributions")
        assert all(after[path] == value or after[path]["round"] > value["round"] for path, value in before.items())
    assert sound(one)["operations"] > operations


def test_a_spoiled_store_is_told_and_one_that_is_not_there_too(tmp_path: Path) -> None:
    code, said = store(tmp_path / "none", "show")
    assert code == Exit.FAILED
    assert "shoal swarm create" in said
