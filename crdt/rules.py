"""What may be written where: a pure function of an operation, its writer's chain, the swarm's rules and agreed records.

Rules follow from the swarm's spec, so all members have the same. An operation that they refuse ends its writer's chain
for everybody: neither it nor what follows it is stored or passed on. Of an operation that names a record which is not
known here yet nothing is said until it is: the record is agreed on, and comes.

What a writer may write is bounded along its own chain, since the newest agreed frontier: operations, bytes, entries of
its own that live, and entries of others that it takes away (what is taken away before it came has to be remembered).
No clock and no view of others enters, so that all draw the same line.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec

from shoal.transport.identity import peer_id_of
from shoal.transport.wire import Malformed, decode, encode

from .counter import Totals
from .dots import Writer
from .operation import VALUE_BYTES_MAX, WRITER_BYTES, Operation


class Kind(enum.Enum):
    """The type of a namespace's values. See the modules of these names."""

    REGISTER = "register"  # the last writer wins
    VALUES = "values"  # a register that keeps what was written at once, side by side
    SET = "set"  # add wins
    GROW_SET = "grow-set"
    COUNTER = "counter"
    GROW_COUNTER = "grow-counter"
    LOG = "log"  # append-only, per writer


class Authors(enum.Enum):
    """Who may write in a namespace."""

    ANYBODY = "anybody"
    MEMBERS = "members"  # under a record that they name
    CREATOR = "creator"


# No sets: an Enum's hash costs more than to look at both.
_KEEPS_ALL: Final = (Kind.GROW_SET, Kind.LOG)  # whose entries nobody takes away
_TOTALS: Final = (Kind.COUNTER, Kind.GROW_COUNTER)


@dataclass(frozen=True, slots=True)
class Rule:
    """Of one namespace."""

    kind: Kind
    authors: Authors = Authors.ANYBODY
    is_own: bool = True  # the first part of a path is its writer's peer id
    path_parts: int = 1
    schema: Any = None  # that values are read as, canonically; None: any bytes
    value_bytes_max: int = VALUE_BYTES_MAX


@dataclass(frozen=True, slots=True)
class Rules:
    """Of one swarm."""

    namespaces: Mapping[str, Rule]
    creator: Writer
    writers_max: int = 1024  # beside those of the agreed frontier (`seats`): strangers must not fill the disk
    operations_max: int = 65_536  # of one writer above the frontier; as many of its own entries it may take away
    bytes_max: int = 16 * 1024 * 1024  # likewise
    entries_max: int = 4096  # of one writer that live, and of others that it took away since the frontier


class Records(Protocol):
    """The swarm's agreed records."""

    def is_member(self, record: bytes, writer: Writer) -> bool | None:
        """Whether `writer` was a member under the record with this hash; None while the record is not known here."""
        ...


class NoRecords:
    """Of a swarm that has agreed on none."""

    def is_member(self, record: bytes, writer: Writer) -> bool | None:
        return None


class Unknown(msgspec.Struct, frozen=True, gc=False):
    """An operation names a record that is not known here."""

    record: bytes


def judge(operation: Operation, writer: Writer, rules: Rules, records: Records) -> Malformed | Unknown | None:
    """What is wrong with an operation, but for what `Spent` bounds; None: nothing."""
    rule = rules.namespaces.get(operation.namespace)
    if rule is None:
        return Malformed(f"there is no namespace {operation.namespace!r} in this swarm")
    if len(operation.path) != rule.path_parts:
        return Malformed(f"a path in {operation.namespace} has {rule.path_parts} parts, not {len(operation.path)}")
    if rule.is_own and operation.path[0] != peer_id_of(writer):
        return Malformed(f"{operation.namespace} of {operation.path[0]} is not {peer_id_of(writer)}'s to write")
    wrong = _shape(operation, writer, rule) or _value(operation, rule)
    if wrong is not None or rule.authors is Authors.ANYBODY:
        return wrong
    return _author(operation, writer, rule.authors, rules.creator, records)


def _shape(operation: Operation, writer: Writer, rule: Rule) -> Malformed | None:
    if operation.taken and any(
        each.writer and (len(each.writer) != WRITER_BYTES or each.writer == writer) for each in operation.taken
    ):
        return Malformed("an entry taken away names its writer with 32 bytes, or its own with none")
    if len(operation.record) != (32 if rule.authors is Authors.MEMBERS else 0):
        return Malformed(f"a record of {len(operation.record)} bytes is named in {operation.namespace}")
    if operation.stamp and rule.kind is not Kind.REGISTER:
        return Malformed(f"{operation.namespace} is no register: its entries have no stamp")
    if rule.kind is Kind.GROW_COUNTER and operation.value is None:
        return Malformed(f"{operation.namespace} counts up only: a total is replaced by a larger one")
    if rule.kind in _KEEPS_ALL and (operation.taken or operation.value is None):
        return Malformed(f"nothing is taken away from {operation.namespace}")
    if rule.kind in _TOTALS and any(each.writer for each in operation.taken):
        return Malformed(f"totals in {operation.namespace} are their writer's to replace")
    if operation.value is None and not operation.taken:
        return Malformed("an operation that changes nothing")
    return None


def _value(operation: Operation, rule: Rule) -> Malformed | None:
    value = operation.value
    if value is None:
        return None
    if len(value) > rule.value_bytes_max:
        return Malformed(f"a value of {len(value)} bytes; {operation.namespace} takes {rule.value_bytes_max}")
    schema = Totals if rule.kind in _TOTALS else rule.schema
    if schema is None:
        return None
    read = decode(value, schema, rule.value_bytes_max)
    if isinstance(read, Malformed):
        return read
    if encode(read) != value:
        return Malformed(f"a value in {operation.namespace} that is not written in its shortest form")
    if rule.kind is Kind.GROW_COUNTER and read.down:
        return Malformed(f"{operation.namespace} counts up only")
    return None


def grown_to(operation: Operation, rules: Rules) -> int | None:
    """What it sets its writer's total to, of a counter that only counts up; None: it is about something else.

    The writer's next one on the same key is no smaller, on the same chain: `Chain.refusal`. A fork takes back what
    followed it, here as everywhere.
    """
    if operation.value is None or rules.namespaces[operation.namespace].kind is not Kind.GROW_COUNTER:
        return None
    totals = decode(operation.value, Totals, VALUE_BYTES_MAX)
    return None if isinstance(totals, Malformed) else totals.up


def _author(
    operation: Operation, writer: Writer, authors: Authors, creator: Writer, records: Records
) -> Malformed | Unknown | None:
    if authors is Authors.CREATOR and writer != creator:
        return Malformed(f"{operation.namespace} is the swarm's creator's to write")
    if authors is Authors.MEMBERS:
        is_member = records.is_member(operation.record, writer)
        if is_member is None:
            return Unknown(operation.record)
        if not is_member:
            return Malformed(f"{peer_id_of(writer)} was no member under record {operation.record.hex()[:16]}")
    return None


class Spent(msgspec.Struct, frozen=True, gc=False):
    """What a writer has used of its bounds after one of its operations. Sums, so that any of them is at hand."""

    bytes: int = 0
    entries: int = 0  # at the frontier those that live; then one more for each added, one less for each it took away
    dropped: int = 0  # entries of its own that it took away
    taken: int = 0  # entries of others that it took away; at the frontier those that have not come

    def after(self, operation: Operation, size: int) -> "Spent":
        """With one more operation, of `size` bytes."""
        taken = sum(1 for each in operation.taken if each.writer) if operation.taken else 0
        dropped = len(operation.taken) - taken
        entries = self.entries + (operation.value is not None) - dropped
        return Spent(self.bytes + size, entries, self.dropped + dropped, self.taken + taken)

    def refusal(self, operation: Operation, count: int, at_frontier: "Spent", rules: Rules) -> Malformed | None:
        """Why the writer may not go so far, with `operation` as its `count`-th above the frontier.

        Who claims to take away entries of its own that are not there adds more than `entries` tells, but once only:
        from the next frontier on it adds nothing.
        """
        if count > rules.operations_max:
            return Malformed(f"more than {rules.operations_max} operations above the frontier, of one writer")
        if self.bytes > rules.bytes_max:
            return Malformed(f"more than {rules.bytes_max} bytes above the frontier, of one writer")
        if self.dropped > rules.operations_max:
            return Malformed(f"more than {rules.operations_max} entries of its own taken away, of one writer")
        if self.taken > rules.entries_max:
            return Malformed(f"more than {rules.entries_max} entries of others taken away, of one writer")
        if operation.value is not None and max(self.entries, at_frontier.entries) > rules.entries_max:
            return Malformed(f"more than {rules.entries_max} entries of one writer")
        return None
