"""Nothing is left of a laboratory, however its owner ends, and nobody needs to be root to have one."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import psutil
import pytest
import trio

from .hands import PATIENCE_S

ROOT: Final = Path(__file__).resolve().parents[2]
# Without any privilege; what is on disk is still its own, wherever the tests were checked out to.
NOBODY: Final = ("unshare", "--user", "--map-user=65534", "--map-group=65534")
OWNER: Final = """
import json, psutil, sys, trio
from contextlib import AsyncExitStack
from shoal.node import gateway
from shoal.node.laboratory import Line, obstacle, open_internet
from shoal.node.routers import Router

async def main():
    if reason := await obstacle():
        print(json.dumps({"reason": reason}), flush=True)
        return
    async with open_internet() as internet, AsyncExitStack() as stack:
        home = await internet.add_home(Router.CGN_HOME, Line(up_mbit=5, delay_ms=5))
        host = await home.add_host()
        if not gateway.obstacle():
            await stack.enter_async_context(gateway.serve_mappings(home))
        await internet.add_home(Router.SYMMETRIC, Line(delay_ms=5, loss=0.1))
        sleeper = await trio.lowlevel.open_process([*host.prefix, "sleep", "1000"], start_new_session=True)
        while psutil.Process(sleeper.pid).name() != "sleep":
            await trio.sleep(0.01)
        host.freeze()
        print(json.dumps({"pids": [child.pid for child in psutil.Process().children(recursive=True)]}), flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)
        sleeper.kill()
        await sleeper.wait()

trio.run(main)
"""


@pytest.mark.parametrize("user", [(), NOBODY], ids=["as root", "as nobody"])
@pytest.mark.parametrize("is_killed", [True, False], ids=["killed", "told to end"])
async def test_nothing_runs_on_when_the_owner_has_ended(user: tuple[str, ...], *, is_killed: bool) -> None:
    with trio.fail_after(PATIENCE_S):
        owner = await trio.lowlevel.open_process(
            [*user, sys.executable, "-c", OWNER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert owner.stdin is not None
        assert owner.stdout is not None
        async with owner.stdin, owner.stdout:
            said: dict[str, Any] = json.loads(await owner.stdout.receive_some())
            if "reason" in said:
                pytest.skip(f"NOT TESTED: {said['reason']}")
            assert (
                len(said["pids"]) >= 6
            )  # the namespaces' holders, the delays, the one that sleeps, and miniupnpd if there is one
            assert all(psutil.pid_exists(pid) for pid in said["pids"])
            if is_killed:
                owner.kill()
        await owner.wait()
        while any(psutil.pid_exists(pid) for pid in said["pids"]):  # noqa: ASYNC110
            await trio.sleep(0.05)
