"""Logs: each writer appends, nobody takes anything away, and all read the same: by writer, then in the order written.

No order between writers is claimed, as none can be proved. A malicious writer may append what it likes to its own part;
to rewrite it, it would have to fork its chain, and then all from there on is gone from the log.
"""

from .dots import Cell, Dot, Writer
from .operation import Operation, Path


def append(namespace: str, path: Path, value: bytes) -> Operation:
    """One more line."""
    return Operation(namespace, path, value)


def lines(cell: Cell, writer: Writer | None = None) -> list[tuple[Dot, bytes]]:
    """All lines, or one writer's, sorted by writer and number."""
    held = cell.entries.items()
    return sorted((dot, entry.value) for dot, entry in held if writer is None or dot.writer == writer)
