"""Which program of this machine has a port, where the system tells: Linux, and of other users' programs only root."""

import os
from contextlib import suppress
from pathlib import Path

LISTENS = "0A"  # a TCP state, as in the kernel's tables
PROCESSES_MAX = 65_536  # looked at


def holder_of(port: int) -> str:
    """Its name and number; empty where that cannot be found out."""
    sockets = {f"socket:[{inode}]" for inode in _listening(port)}
    if not sockets:
        return ""
    with suppress(OSError):
        numbers = [entry for entry in os.listdir("/proc") if entry.isdigit()]
        for number in numbers[:PROCESSES_MAX]:
            if _has_one(Path("/proc") / number / "fd", sockets):
                return f"{_name(number)} (process {number})"
    return ""


def _listening(port: int) -> list[str]:
    """The inodes of the sockets that listen there."""
    found: list[str] = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == LISTENS and int(fields[1].rpartition(":")[2], 16) == port:
                    found.append(fields[9])
    return found


def _has_one(folder: Path, sockets: set[str]) -> bool:
    with suppress(OSError):
        for name in os.listdir(folder):
            with suppress(OSError):  # closed meanwhile
                if os.readlink(folder / name) in sockets:
                    return True
    return False


def _name(number: str) -> str:
    with suppress(OSError):
        return Path("/proc", number, "comm").read_text().strip()
    return "a program"
