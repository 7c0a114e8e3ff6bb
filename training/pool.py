"""The contributions that a next record may take, as one member knows them: heard, fetched, checked, held or refused.

A member's first contribution to a round from a state counts; another one of the same place is said, once for each
member, and used only if a record takes it. A peer may send as many as it likes: of each member there is room for so
many rounds, and what no record can take any more is let go. Of how many members, `Contributions` decides, which knows
who is one.
"""

from collections.abc import Callable, Iterator

from shoal.transport.port import PeerId

from .effects import CheckPayload, Effect, FetchPayload, Observe
from .events import Problem
from .records import Offered

Place = tuple[int, int]  # the round that a contribution is for, and the one whose end it started from


def place_of(offered: Offered) -> Place:
    """Where it stands among its member's contributions: one of each place counts."""
    return offered.round, offered.contribution.base_round


class Pool:
    """One member's."""

    def __init__(self, rounds_max: int, *, can_check: bool) -> None:
        """Args:
        rounds_max: contributions of one member that may be waiting.
        can_check: whether payloads are checked here: not by a storage member.
        """
        self._rounds_max = rounds_max
        self._can_check = can_check
        self._first: dict[PeerId, dict[Place, bytes]] = {}  # by member: the hash of what was heard first
        self._offers: dict[bytes, Offered] = {}
        self._at_work: set[bytes] = set()  # being fetched or checked
        self._held: set[bytes] = set()
        self._refused: set[bytes] = set()
        self.version = 0  # grows with whatever a record could take now and could not before, or the other way round
        self._named: set[PeerId] = set()  # of whom it was said that they have signed two in one place

    @property
    def members_count(self) -> int:
        """Of whom contributions wait."""
        return len(self._first)

    def get(self, hash: bytes) -> Offered | None:
        return self._offers.get(hash)

    def of(self, member: PeerId) -> Iterator[Offered]:
        """Those of `member` that count, by round and base."""
        first = self._first.get(member, {})
        return (self._offers[first[place]] for place in sorted(first))

    def all(self) -> Iterator[Offered]:
        """Those that count, sorted by member, round and base."""
        return (offered for member in sorted(self._first) for offered in self.of(member))

    def refused(self) -> Iterator[Offered]:
        """Those that are unsound."""
        return (self._offers[hash] for hash in self._refused if hash in self._offers)

    def is_held(self, hash: bytes) -> bool:
        return hash in self._held

    def is_refused(self, hash: bytes) -> bool:
        return hash in self._refused

    def held(self) -> tuple[bytes, ...]:
        """Whole and checked: sorted hashes."""
        return tuple(sorted(self._held))

    def hear(self, offered: Offered) -> list[Effect] | str:
        """Know of a contribution and get its payload; or why not."""
        first = self._first.setdefault(offered.member, {})
        known = first.get(place_of(offered))
        if known is not None and known != offered.hash:
            return self._name(offered) or "another contribution of that member was heard first"
        if known is None and len(first) >= self._rounds_max:
            return "too many contributions of that member wait"
        return self.take_in(offered)

    def take_in(self, offered: Offered) -> list[Effect]:
        """Know of a contribution, whichever was heard first, and get its payload."""
        self._know(offered)
        named = self._name(offered)
        if any(offered.hash in known for known in (self._held, self._at_work, self._refused)):
            return named
        self._at_work.add(offered.hash)
        if offered.ref is not None:
            return [*named, FetchPayload(offered)]
        if self._can_check:
            return [*named, CheckPayload(offered)]
        self.hold(offered)
        return named

    def hold(self, offered: Offered) -> None:
        """It is here, whole and checked."""
        self._know(offered)
        self._at_work.discard(offered.hash)
        self._held.add(offered.hash)
        self.version += 1

    def refuse(self, offered: Offered) -> None:
        """The method says it is unsound."""
        self._at_work.discard(offered.hash)
        self._refused.add(offered.hash)
        self.version += 1

    def drop(self, offered: Offered) -> None:
        """Its payload is gone from the disk."""
        self._held.discard(offered.hash)
        self._at_work.discard(offered.hash)
        self.version += 1

    def keep(self, is_needed: Callable[[Offered], bool]) -> None:
        """Let go of all others."""
        gone = {hash for hash, offered in self._offers.items() if not is_needed(offered)}
        for hash in gone:
            offered = self._offers.pop(hash)
            first = self._first.get(offered.member, {})
            if first.get(place_of(offered)) == hash:
                del first[place_of(offered)]
            if not first:
                self._first.pop(offered.member, None)
                self._named.discard(offered.member)
        for known in (self._at_work, self._held, self._refused):
            known -= gone
        self.version += 1

    def _name(self, offered: Offered) -> list[Effect]:
        """Say, once, that a member has signed another contribution in the place of this one. From another state of the
        same round it may: it has taken over the others' in between.
        """
        first = self._offers[self._first[offered.member][place_of(offered)]]
        is_honest = first is offered or first.contribution.base_digest != offered.contribution.base_digest
        if is_honest or first.hash == offered.hash or offered.member in self._named:
            return []
        self._named.add(offered.member)
        text = (
            f"{offered.member} has signed two contributions to round {offered.round} from one state: a record takes one"
        )
        return [Observe(Problem(text))]

    def _know(self, offered: Offered) -> None:
        self._offers.setdefault(offered.hash, offered)
        self._first.setdefault(offered.member, {}).setdefault(place_of(offered), offered.hash)
