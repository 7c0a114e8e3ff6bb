"""What a person can mend: one line that says what was expected, what came and what to do, with an exit code.

Bugs are not complaints: they stay the exceptions they are.
"""

import enum
from collections.abc import Iterable
from difflib import get_close_matches

from .visible import visible


class Exit(enum.IntEnum):
    """Exit codes of the command `shoal`; docs/operating.md explains them to people."""

    OK = 0
    FAILED = 1  # the node or a peer refused, or something broke; the message says what
    USAGE = 2  # the command line itself; argparse uses the same number
    NO_NODE = 3  # no node is running in this data directory
    IN_USE = 4  # the data directory or the port belongs to another process
    CONFIG = 5  # the configuration, the key file or the data directory cannot be used as it is
    INVITE = 6  # the invite is mistyped, made by a newer Shoal, does not let you in, or nobody answers at its addresses
    SPEC = 7  # the spec, or the file of --data or --entry, cannot be used on this machine
    MISSING = 8  # something is not installed here: torch
    DISK = 9  # the disk or the node's share of it is full
    DECLINED = 10  # the person answered no
    INTERRUPTED = 130  # Ctrl-C in a command that had not finished


class Complaint(Exception):
    """Raised in the node and its commands for what their owner can mend.

    `str(complaint)` is one line that can be looked at: it may quote peers.
    """

    def __init__(self, message: str, code: Exit = Exit.FAILED) -> None:
        super().__init__(visible(" ".join(message.split())))
        self.code = code


def only_complaint(group: BaseExceptionGroup[BaseException]) -> Complaint | None:
    """The first complaint of a group in which nothing is a bug; None if something is. Nurseries raise groups."""
    complaints, bugs = group.split(Complaint)
    return None if bugs is not None or complaints is None else first_complaint(complaints)


def first_complaint(group: BaseExceptionGroup[Complaint]) -> Complaint:
    """One complaint is enough for a person."""
    first = group.exceptions[0]
    return first_complaint(first) if isinstance(first, BaseExceptionGroup) else first


def nearest(word: str, valid: Iterable[str]) -> str:
    """A hint for a mistyped word: the nearest valid one, or all of them when none is near."""
    choices = sorted(valid)
    close = get_close_matches(word, choices, n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else f"valid are: {', '.join(choices)}"
