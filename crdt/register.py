"""Registers: a write replaces all that its writer has seen of the cell. What was written at once stays side by side.

How that is read makes two types. Of a last-writer-wins register (`Kind.REGISTER`) the newest stamp counts; where only
the owner of a path writes nobody needs a clock, and the newest number decides. Of a multi-value register
(`Kind.VALUES`) all count, and the next write settles it.

A malicious writer may stamp what it writes with any time. What lies beyond a reader's horizon is held back: it neither
counts nor is it an offence, and it changes no digest, since readers decide it and not the state; when its time comes,
it counts, unless somebody has written since. Entries held back are entries like others: of one writer no more live than
the rules allow it (`Rules.entries_max`), and a write takes the furthest ahead away first.
"""

from .dots import Cell, Dot, Entry, Writer
from .operation import TAKEN_MAX, Operation, Path, taken_by


def write(cell: Cell, namespace: str, path: Path, writer: Writer, value: bytes, stamp: int = 0) -> Operation:
    """Put `value` in the place of all that the cell holds: of the newest TAKEN_MAX, if there are more.

    What is left of a register is older than `value`, or beyond the horizon; of several values it is left to the next.
    """
    newest = sorted(cell.entries.items(), key=_age, reverse=True)
    return Operation(namespace, path, value, taken_by(writer, newest[:TAKEN_MAX]), stamp)


def clear(cell: Cell, namespace: str, path: Path, writer: Writer) -> Operation | None:
    """Leave nothing of what the cell holds, likewise; None: it is empty."""
    newest = sorted(cell.entries.items(), key=_age, reverse=True)
    return Operation(namespace, path, None, taken_by(writer, newest[:TAKEN_MAX])) if newest else None


def read(cell: Cell, horizon: int | None = None) -> bytes | None:
    """The last written value that is not stamped beyond the horizon (`clock.horizon`); None: there is none."""
    believed = [each for each in cell.entries.items() if horizon is None or each[1].stamp <= horizon]
    return max(believed, key=_age)[1].value if believed else None


def values(cell: Cell) -> list[bytes]:
    """All that was written at once, sorted, each value once."""
    return sorted({entry.value for entry in cell.entries.values()})


def _age(held: tuple[Dot, Entry]) -> tuple[int, int, Writer]:
    """Ascending towards the newest; the writer breaks a tie."""
    dot, entry = held
    return entry.stamp, dot.number, dot.writer
