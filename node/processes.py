"""Nodes as operating system processes of their own: started, watched, killed, and never left behind.

Three things end a node with its testnet. It is told to stop, and killed if it does not; it leads a process group of its
own, so whatever it started dies with it; and its standard input is a pipe that this process holds open: when this
process is gone, even by kill -9, the operating system closes the pipe, and the node, started with --until-stdin-closes,
stops by itself. (Rejected: PR_SET_PDEATHSIG, which only Linux has and which follows the parent's thread, not process.)

A frozen node (SIGSTOP) would notice neither. So it has a keeper beside it, a shell that waits for a pipe of its own to
close, and then lets the node go on: so it does whenever the node is to be thawed, and when this process is gone.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import trio

STOP_TIMEOUT_S = 5.0  # a node promises to end within 2 s of a SIGTERM
KILL_TIMEOUT_S = 10.0  # a process may be stuck in the kernel, on a dead disk; then nobody can end it
LOG_TAIL_BYTES = 4096
KEEP = 'cat > /dev/null; kill -s CONT -- "-$0"'  # of a frozen group, until standard input ends


class NodeProcess:
    """One `python -m shoal node` on its data directory. It may be started again after its end.

    Args:
        prefix: a command that runs the one behind it and becomes it, as `nice` does.
        module: another program that takes the same arguments.
    """

    def __init__(
        self, directory: Path, arguments: Sequence[str], prefix: Sequence[str] = (), module: str = "shoal"
    ) -> None:
        self.directory = directory
        self._command = [*prefix, sys.executable, "-m", module, "node", "--data-dir", str(directory), *arguments]
        self._process: trio.Process | None = None
        self._keeper: trio.Process | None = None

    @property
    def log(self) -> Path:
        """What the node writes to its standard output and error."""
        return self.directory / "node.log"

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    async def start(self) -> None:
        """Start the process; it needs a while until it answers. Raises OSError."""
        assert not self.is_running
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self.log.open("ab") as log:
            self._process = await trio.lowlevel.open_process(
                self._command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, **own_group()
            )

    async def wait(self) -> int:
        """Its exit status; negative for the signal that ended it."""
        process = self._process
        assert process is not None
        status = await process.wait()
        if process.stdin is not None:
            await process.stdin.aclose()
        return status

    async def freeze(self) -> None:
        """Stop all of it where it is (SIGSTOP), as a laptop that sleeps. Not on Windows. Raises OSError."""
        if sys.platform == "win32" or self._process is None or self._keeper is not None:
            return
        command = ["sh", "-c", KEEP, str(self._process.pid)]
        self._keeper = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, **own_group())
        os.killpg(self._process.pid, signal.SIGSTOP)

    async def thaw(self) -> None:
        """Let it go on where it was."""
        if self._keeper is None:
            return
        with trio.move_on_after(KILL_TIMEOUT_S) as scope:
            scope.shield = True
            assert self._keeper.stdin is not None
            await self._keeper.stdin.aclose()
            await self._keeper.wait()
            self._keeper = None

    async def stop(self) -> None:
        """Ask it to end, and kill it if it does not. Shielded: nothing may be left behind."""
        await self.thaw()
        if self._process is None:
            return
        with trio.move_on_after(STOP_TIMEOUT_S + KILL_TIMEOUT_S) as scope:
            scope.shield = True
            if self._process.poll() is None:
                self._process.terminate()
                with trio.move_on_after(STOP_TIMEOUT_S):
                    await self._process.wait()
            await self.kill()

    async def kill(self) -> None:
        """kill -9, to the whole group, whatever it does at the moment."""
        await self.thaw()
        if self._process is None:
            return
        with trio.move_on_after(KILL_TIMEOUT_S) as scope:
            scope.shield = True
            kill_group(self._process)
            await self.wait()
            self._process = None  # its number may soon be another's

    def last_lines(self, count: int = 3) -> str:
        """The end of its log, as one line for a person."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
                lines = log.read().decode(errors="replace").strip().splitlines()
        except FileNotFoundError:
            lines = []
        return " | ".join(line.strip() for line in lines[-count:]) or "it wrote nothing"


def own_group() -> dict[str, Any]:
    """What makes a new process lead its own group: Ctrl-C then reaches only the testnet, which stops all in order."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}


def kill_group(process: trio.Process) -> None:
    """SIGKILL to the process's group; where there are no groups, to the process."""
    if sys.platform == "win32":
        process.kill()
        return
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # all of them have ended
    except PermissionError:
        process.kill()  # macOS says so of a group whose leader is a zombie
