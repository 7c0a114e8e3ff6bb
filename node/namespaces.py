"""Network namespaces that nobody has to clean up: they have no names, and end with the processes in them.

Each is held by a shell whose standard input is a pipe from this process, so it hears when this process ends, even by
kill -9. It then waits for what still runs in the namespace, kills what does not end by itself (a frozen process never
would), and ends; cables end with the namespaces at their ends. It outlives the node in its namespace, so a node that
is started again has its address still. As root, or without by a user namespace, where the system allows them.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Final

import trio

from .complaint import Complaint
from .processes import own_group

TOOLS: Final = {"ip": "iproute2", "nsenter": "util-linux", "unshare": "util-linux"}  # and their Debian packages
HELD_TIMEOUT_S: Final = 10.0  # until a namespace is there
GRACE_S: Final = 5  # for the processes in a namespace whose owner is gone
HOLD: Final = f"""
while read -r word; do echo "$word"; done
here=$(readlink /proc/$$/ns/net | tr '[]' '??')
for _ in $(seq {GRACE_S * 10}); do
  left=
  for pid in $(find /proc/[0-9]*/ns/net -lname "$here" 2> /dev/null | cut -d / -f 3); do
    [ "$pid" != $$ ] && kill -0 "$pid" 2> /dev/null && left="$left $pid"
  done
  [ -z "$left" ] && exit
  sleep 0.1
done
kill -s KILL $left
"""
_PROCESSES: Final = Path("/proc")


class Namespace:
    """A network namespace, and the process that holds it. Obtained from `open_namespace`."""

    def __init__(self, holder: trio.Process, *, is_users: bool) -> None:
        users = ("--user", "--preserve-credentials") if is_users else ()
        self._is_users = is_users
        self.pid = holder.pid  # of the process that holds it: `ip` names a namespace by one
        self.prefix = ("nsenter", "--target", str(holder.pid), *users, "--net", "--")

    def open_another(self) -> AbstractAsyncContextManager["Namespace"]:
        """One more, which cables may join to this one. Raises Complaint."""
        return _hold((*self.prefix, "unshare", "--net"), is_users=self._is_users)

    async def run(self, *command: str, given: str = "") -> None:
        """Run a command inside, which reads what is given. Raises Complaint."""
        done = await trio.run_process(
            [*self.prefix, *command], stdin=given.encode(), capture_stdout=True, capture_stderr=True, check=False
        )
        if done.returncode:
            raise Complaint(f"the nodes' own network, {' '.join(command)}: {done.stderr.decode(errors='replace')}")

    async def ip(self, commands: Iterable[str]) -> None:
        """Run `ip` inside, once for all commands. Raises Complaint."""
        await self.run("ip", "-batch", "-", given="".join(f"{command}\n" for command in commands))

    def processes(self) -> list[int]:
        """The ids of the processes inside, without the one that holds it."""
        inside = _namespace_of(self.pid)
        pids = (int(entry.name) for entry in _PROCESSES.iterdir() if entry.name.isdigit())
        return [pid for pid in pids if pid != self.pid and _namespace_of(pid) == inside]


async def obstacle(trial: str, tools: Mapping[str, str] = TOOLS) -> str:
    """Why this machine has no namespaces in which a shell could run `trial`, for a person; empty if it has.

    Args:
        tools: the commands that `trial` and this module call, and the Debian packages that have them.
    """
    if sys.platform != "linux":
        return "there are network namespaces on Linux alone"
    for tool, package in tools.items():
        if shutil.which(tool) is None:
            return f"the command `{tool}` is not installed here (Debian: {package})"
    tried = await trio.run_process(
        [*_unshare(), "sh", "-c", trial], capture_stdout=True, capture_stderr=True, check=False
    )
    if tried.returncode == 0:
        return ""
    return f"the system allows no such network namespaces: {' '.join(tried.stderr.decode(errors='replace').split())}"


def open_namespace() -> AbstractAsyncContextManager[Namespace]:
    """A namespace with nothing in it but a loopback interface that is down. Raises Complaint."""
    return _hold(_unshare(), is_users=not _is_root())


@asynccontextmanager
async def _hold(enter: Sequence[str], *, is_users: bool) -> AsyncGenerator[Namespace]:
    """A namespace that `enter` makes and a process of ours holds."""
    holder = await trio.lowlevel.open_process(
        [*enter, "sh", "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, **own_group()
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        is_inside = False
        with trio.move_on_after(HELD_TIMEOUT_S):
            await holder.stdin.send_all(b"here\n")
            is_inside = bool(await holder.stdout.receive_some())  # it answers once there is one
        if not is_inside:
            raise Complaint("a network namespace cannot be made here")
        yield Namespace(holder, is_users=is_users)
    finally:
        with trio.CancelScope(shield=True):
            await holder.stdin.aclose()
            await holder.wait()
            await holder.stdout.aclose()


def _namespace_of(pid: int) -> str:
    try:
        return os.readlink(_PROCESSES / str(pid) / "ns" / "net")
    except OSError:
        return ""  # it has ended, or is not ours


def _unshare() -> tuple[str, ...]:
    return ("unshare", "--net") if _is_root() else ("unshare", "--user", "--map-root-user", "--net")


def _is_root() -> bool:
    return sys.platform != "win32" and os.geteuid() == 0
