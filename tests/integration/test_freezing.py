"""Frozen nodes stand still, go on where they were, and do not outlive who froze them. A `cat` stands for a node."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import psutil
import pytest
import trio

from shoal.node.processes import NodeProcess

PATIENCE_S: Final = 20.0
UNTIL_STDIN_CLOSES: Final = ("sh", "-c", "exec cat > /dev/null")  # as `shoal node --until-stdin-closes`
FREEZER: Final = """
import sys, trio
from pathlib import Path
from shoal.node.processes import NodeProcess

async def main():
    node = NodeProcess(Path(sys.argv[1]), (), sys.argv[2:])
    await node.start()
    await node.freeze()
    print(node.pid, flush=True)
    await trio.sleep_forever()

trio.run(main)
"""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals as on POSIX")


def reaches(pid: int | None, wanted: str) -> None:
    until = time.monotonic() + PATIENCE_S
    while psutil.Process(pid).status() != wanted:
        assert time.monotonic() < until
        time.sleep(0.01)


async def test_a_frozen_node_stands_still_until_it_is_thawed_or_stopped(tmp_path: Path) -> None:
    node = NodeProcess(tmp_path, (), UNTIL_STDIN_CLOSES)
    await node.start()
    for _ in range(2):
        await node.freeze()
        await node.freeze()
        await trio.to_thread.run_sync(reaches, node.pid, psutil.STATUS_STOPPED)
        await node.thaw()
        await node.thaw()
        await trio.to_thread.run_sync(reaches, node.pid, psutil.STATUS_SLEEPING)
    await node.freeze()
    pid = node.pid
    with trio.fail_after(PATIENCE_S):
        await node.stop()
    assert not psutil.pid_exists(pid or 0)


async def test_a_frozen_node_can_be_killed_and_started_again(tmp_path: Path) -> None:
    node = NodeProcess(tmp_path, (), UNTIL_STDIN_CLOSES)
    await node.start()
    await node.freeze()
    await node.kill()
    assert not node.is_running
    await node.start()
    assert node.is_running
    await node.kill()


def test_a_frozen_node_ends_when_its_testnet_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FREEZER, str(tmp_path), *UNTIL_STDIN_CLOSES]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as freezer:
        assert freezer.stdout is not None
        node = psutil.Process(int(freezer.stdout.readline()))
        reaches(node.pid, psutil.STATUS_STOPPED)
        freezer.send_signal(signal.SIGKILL)
    gone, left = psutil.wait_procs([node], timeout=PATIENCE_S)
    assert (gone, left) == ([node], [])
