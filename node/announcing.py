"""What a node says in the DHT about itself, and for which swarms it searches: decisions without I/O."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from shoal.dht.keys import blob_providers_key, swarm_providers_key

LASTING_S: Final = 60.0  # a state that is replaced sooner is not worth announcing
SEEK_S_MIN: Final = 5.0  # between two searches for members of a swarm; doubled each time
SEEK_S_MAX: Final = 600.0


@dataclass(frozen=True, slots=True)
class Change:
    """Provider keys to announce from now on, and to renew no longer."""

    begun: tuple[bytes, ...]
    ended: tuple[bytes, ...]


class Announcing:
    """That this node is in its swarms, and holds their lasting states."""

    def __init__(self) -> None:
        self._announced: frozenset[bytes] = frozenset()
        self._held_since: dict[bytes, float] = {}

    def forget(self) -> None:
        """Nobody has been told yet."""
        self._announced = frozenset()

    def look(self, swarms: Iterable[bytes], states: Iterable[bytes], now: float) -> Change:
        """What has changed since the last look.

        Args:
            swarms: the ids of those this node is in.
            states: the digests of those it holds.
        """
        self._held_since = {digest: self._held_since.get(digest, now) for digest in states}
        lasting = [digest for digest, since in self._held_since.items() if now >= since + LASTING_S]
        wanted = frozenset([*map(swarm_providers_key, swarms), *map(blob_providers_key, lasting)])
        change = Change(tuple(sorted(wanted - self._announced)), tuple(sorted(self._announced - wanted)))
        self._announced = wanted
        return change


@dataclass(slots=True)
class _Search:
    due_at: float
    pause_s: float = SEEK_S_MIN


class Seeking:
    """For the members of swarms to none of which this node is connected, ever more rarely."""

    def __init__(self) -> None:
        self._searches: dict[str, _Search] = {}

    def due(self, lonely: Collection[str], now: float) -> list[str]:
        """The swarms, of those without a connected member, for which to search now."""
        self._searches = {swarm: self._searches.get(swarm, _Search(now + SEEK_S_MIN)) for swarm in sorted(lonely)}
        due: list[str] = []
        for swarm, search in self._searches.items():
            if now >= search.due_at:
                search.pause_s = min(SEEK_S_MAX, 2 * search.pause_s)
                search.due_at = now + search.pause_s
                due.append(swarm)
        return due
