"""The contributions to one round as one member knows them: heard, fetched, checked, held or refused.

A member's first contribution heard counts; another of the same member and round is kept as evidence and used only if
a proposal takes it. Bounded by the roster, plus the sets of the proposals at hand.
"""

from collections.abc import Mapping

from shoal.transport.port import PeerId

from .effects import CheckPayload, Effect, FetchPayload
from .records import Offered


class Offers:
    """One round's."""

    def __init__(self, can_check: bool) -> None:
        self._can_check = can_check
        self._first: dict[PeerId, bytes] = {}  # whose was heard first: its hash
        self._offers: dict[bytes, Offered] = {}
        self._at_work: set[bytes] = set()  # being fetched or checked
        self._held: set[bytes] = set()
        self._held_first: dict[PeerId, bytes] = {}  # those of _first that are held
        self._refused: set[bytes] = set()

    def get(self, hash: bytes) -> Offered | None:
        return self._offers.get(hash)

    def first_of(self, member: PeerId) -> Offered | None:
        """The contribution of `member` that counts."""
        hash = self._first.get(member)
        return None if hash is None else self._offers[hash]

    def member_count(self) -> int:
        """Whose contributions were heard."""
        return len(self._first)

    def take_in(self, offered: Offered) -> list[Effect]:
        """Know of a contribution and get its payload."""
        self._first.setdefault(offered.member, offered.hash)
        known = self._offers.setdefault(offered.hash, offered)
        if any(known.hash in known_ones for known_ones in (self._held, self._at_work, self._refused)):
            return []
        self._at_work.add(known.hash)
        if known.ref is not None:
            return [FetchPayload(known)]
        if self._can_check:
            return [CheckPayload(known)]
        self.hold(known)
        return []

    def hold(self, offered: Offered) -> None:
        """It is here, whole and checked."""
        self._offers.setdefault(offered.hash, offered)
        self._first.setdefault(offered.member, offered.hash)
        self._at_work.discard(offered.hash)
        self._held.add(offered.hash)
        if self._first[offered.member] == offered.hash:
            self._held_first[offered.member] = offered.hash

    def refuse(self, offered: Offered) -> None:
        """The method says it is unsound."""
        self._at_work.discard(offered.hash)
        self._refused.add(offered.hash)

    def is_held(self, hash: bytes) -> bool:
        return hash in self._held

    def is_refused(self, hash: bytes) -> bool:
        return hash in self._refused

    def held(self) -> tuple[bytes, ...]:
        """Sorted hashes."""
        return tuple(sorted(self._held))

    def held_by_member(self) -> Mapping[PeerId, bytes]:
        """Of the contributions that count, those held: their hashes by member."""
        return self._held_first
