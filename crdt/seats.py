"""Which writers have a chain, where there are more than the rules allow: a function of who has written, never of when.

Whoever is in the agreed frontier has a seat for good. The other seats are for those who come first in an order that
hashes give, and who loses a seat loses all that it has written. So two members that have heard of the same writers keep
the same ones; the first who came would be others on each, and no exchange could ever make them equal.

A malicious peer may choose keys that come first: where anybody may write, it pushes out honest writers that no frontier
names yet, at a few tries for each key. What it cannot: make members differ, or push out whom a frontier names. Where
rules let only members write, by agreed records, its keys get no seat at all.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable

from blake3 import blake3

from .dots import Writer


class Seats:
    """Args:
    most: seats beside those of the agreed frontier.
    """

    def __init__(self, swarm: bytes, most: int) -> None:
        self._swarm = swarm
        self._most = most
        self._agreed: set[Writer] = set()
        self._seated: list[tuple[bytes, Writer]] = []  # in order

    def has_room(self, writer: Writer) -> bool:
        """Whether it has a seat, or would get one."""
        if writer in self._agreed or len(self._seated) < self._most:
            return True
        return bool(self._seated) and self._ranked(writer) <= self._seated[-1]

    def take(self, writer: Writer) -> Writer | None:
        """Seat a writer for whom there is room. Returns who loses its seat."""
        ranked = self._ranked(writer)
        at = bisect_left(self._seated, ranked)
        if writer not in self._agreed and self._seated[at : at + 1] != [ranked]:
            insort(self._seated, ranked)
        return self._seated.pop()[1] if len(self._seated) > self._most else None

    def agree(self, writers: Iterable[Writer]) -> None:
        """These are in the agreed frontier."""
        self._agreed.update(writers)
        self._seated = [each for each in self._seated if each[1] not in self._agreed]

    def _ranked(self, writer: Writer) -> tuple[bytes, Writer]:
        return blake3(self._swarm + writer).digest(), writer
