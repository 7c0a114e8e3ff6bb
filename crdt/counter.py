"""Counters: each writer keeps its own totals in one entry, and the count is their sum.

A total replaces the one before it, so that applying an operation twice, or an old state on a new one, counts nothing
twice (Shapiro et al. 2011, G-Counter and PN-Counter). A liar may claim any total, under its own name; where a counter
only counts up, one no smaller than before (`Chain.refusal`): what has been counted goes by a fork alone.
"""

from typing import Annotated

import msgspec

from shoal.transport.wire import Malformed, Message, decode, encode

from .dots import Cell, Dot, Writer
from .operation import TAKEN_MAX, Operation, Path, taken_by

TOTAL_MAX = 2**53

Total = Annotated[int, msgspec.Meta(ge=0, le=TOTAL_MAX)]


class Totals(Message, frozen=True):
    """All that one writer has added, and all that it has subtracted."""

    up: Total
    down: Total = 0


def change(cell: Cell, namespace: str, path: Path, writer: Writer, by: int) -> Operation:
    """Add `by` to the counter, negative to subtract. Raises ValueError where the total would exceed TOTAL_MAX."""
    own = own_totals(cell, writer)
    totals = Totals(own.up + max(by, 0), own.down + max(-by, 0))
    if max(totals.up, totals.down) > TOTAL_MAX:
        raise ValueError(f"a counter's total is at most {TOTAL_MAX}")
    own_entries = sorted(each for each in cell.entries.items() if each[0].writer == writer)
    return Operation(namespace, path, encode(totals), taken_by(writer, own_entries[:TAKEN_MAX]))


def count(cell: Cell) -> int:
    """The sum over all writers."""
    newest: dict[Writer, Dot] = {}
    for dot in cell.entries:
        newest[dot.writer] = max(dot, newest.get(dot.writer, dot))
    totals = [_read(cell, dot) for dot in newest.values()]
    return sum(each.up - each.down for each in totals)


def own_totals(cell: Cell, writer: Writer) -> Totals:
    """A writer's newest; of one that left older ones beside it, which is of no use to it, the newest counts."""
    newest = max((dot for dot in cell.entries if dot.writer == writer), default=None)
    return Totals(0) if newest is None else _read(cell, newest)


def _read(cell: Cell, dot: Dot) -> Totals:
    totals = decode(cell.entries[dot].value, Totals, 64)
    return Totals(0) if isinstance(totals, Malformed) else totals  # the rules let no other value in
