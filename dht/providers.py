"""Who announced to this node that it provides at a key.

An announcement lives for PROVIDER_S and is renewed by its provider after 12 to 22 hours (`renewal`). Answers name at
most PROVIDERS_MAX of a key's providers, in an order that differs from holder to holder: who asks several holders sees
more of a long list than any one of them tells.

What a malicious peer may do: announce itself, truly or not. What it cannot do: announce others (the sender is the
provider), take more than PER_PROVIDER_MAX keys with one id, or more than NARROW_PER_KEY_MAX and WIDE_PER_KEY_MAX places
at one key from one range of addresses. When a key, or everything, is full, the newcomer takes a place of the range that
has most: one range cannot crowd out the others. In the directory each id has one shard (`keys.may_provide`).
"""

import math
from collections import Counter, OrderedDict
from collections.abc import Sized
from dataclasses import dataclass
from typing import Final, TypeVar

from blake3 import blake3

from shoal.transport.port import Address, PeerId
from shoal.transport.wire import Malformed

from .contacts import Contact, Ranges, ranges_of
from .keys import may_provide
from .messages import PROVIDERS_MAX

PROVIDER_S: Final = 36 * 3600.0
ENTRIES_MAX: Final = 65_536
PER_KEY_MAX: Final = 256
PER_PROVIDER_MAX: Final = 4096
NARROW_PER_KEY_MAX: Final = 8
WIDE_PER_KEY_MAX: Final = 32
SWEEP_S: Final = 60.0
SWEPT_MAX: Final = 4096  # announcements looked at in a sweep: 1 ms


@dataclass(slots=True)
class _Entry:
    provider: Contact
    ranges: Ranges | None
    until: float


class Providers:
    """Args:
    seed: of the order of answers; differs from node to node.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._entries: OrderedDict[bytes, dict[PeerId, _Entry]] = OrderedDict()
        self._per_provider: Counter[PeerId] = Counter()
        self._by_range: dict[str | None, dict[tuple[bytes, PeerId], None]] = {}  # oldest first
        self._count = 0
        self._sweep_at = -math.inf

    def add(self, key: bytes, provider: Contact, sent_from: Address | None, now: float) -> Malformed | None:
        """Keep an announcement of `provider`, who sent it. Malformed: why it is refused."""
        if not may_provide(provider.peer, key):
            return Malformed("this shard of the directory is not the announcer's")
        entries = self._entries.get(key, {})
        new = _Entry(provider, ranges_of(sent_from), now + PROVIDER_S)
        if provider.peer in entries and _narrow(entries[provider.peer]) == _narrow(new):
            entries[provider.peer] = new  # a renewal keeps its place
            return None
        refusal = self._make_room(key, entries, new)
        if refusal is not None:
            return refusal
        if provider.peer in entries:
            self._remove(key, provider.peer)
        self._entries.setdefault(key, {})[provider.peer] = new
        self._by_range.setdefault(_narrow(new), {})[key, provider.peer] = None
        self._count += 1
        self._per_provider[provider.peer] += 1
        return None

    def get(self, key: bytes, now: float) -> tuple[Contact, ...]:
        """At most PROVIDERS_MAX of those who provide at a key."""
        entries = [entry for entry in self._entries.get(key, {}).values() if entry.until > now]
        if len(entries) > PROVIDERS_MAX:
            entries.sort(key=lambda entry: blake3(f"{self._seed}/{entry.provider.peer}".encode()).digest())
        return tuple(entry.provider for entry in entries[:PROVIDERS_MAX])

    @property
    def deadline(self) -> float:
        """When to call `expire`."""
        return self._sweep_at if self._count else math.inf

    def expire(self, now: float) -> None:
        """Free the memory of what has expired, which `get` no longer shows: a part of all keys at a time, in turn."""
        self._sweep_at = now + SWEEP_S
        swept = 0
        for _ in range(len(self._entries)):
            key = next(iter(self._entries))
            self._entries.move_to_end(key)
            swept += len(self._entries[key])
            for peer in [peer for peer, entry in self._entries[key].items() if entry.until <= now]:
                self._remove(key, peer)
            if swept >= SWEPT_MAX:
                return

    def __len__(self) -> int:
        return self._count

    def _make_room(self, key: bytes, entries: dict[PeerId, _Entry], new: _Entry) -> Malformed | None:
        """Why `new` gets no place at a key, or a place for it."""
        if self._per_provider[new.provider.peer] >= PER_PROVIDER_MAX:
            return Malformed(f"{PER_PROVIDER_MAX} announcements of this provider are held")
        if new.ranges is not None:
            within = [entry.ranges for entry in entries.values() if entry.ranges is not None]
            narrow = sum(each.narrow == new.ranges.narrow for each in within)
            wide = sum(each.wide == new.ranges.wide for each in within)
            if narrow >= NARROW_PER_KEY_MAX or wide >= WIDE_PER_KEY_MAX:
                return Malformed(f"enough of those who provide here are in {new.ranges.narrow} or {new.ranges.wide}")
        if len(entries) >= PER_KEY_MAX:
            here: dict[str | None, list[PeerId]] = {}
            for peer, entry in entries.items():
                here.setdefault(_narrow(entry), []).append(peer)
            crowded = _crowded(here, _narrow(new))
            if crowded is None:
                return Malformed(f"{PER_KEY_MAX} peers provide here, of no range more than of the announcer's")
            self._remove(key, crowded[-1])
        elif self._count >= ENTRIES_MAX:
            places = _crowded(self._by_range, _narrow(new))
            if places is None:
                return Malformed(f"{ENTRIES_MAX} announcements are held, of no range more than of the announcer's")
            self._remove(*next(reversed(places)))
        return None

    def _remove(self, key: bytes, peer: PeerId) -> None:
        entries = self._entries[key]
        name = _narrow(entries[peer])
        places = self._by_range[name]
        del entries[peer], places[key, peer]
        if not places:
            del self._by_range[name]
        if not entries:
            del self._entries[key]
        self._count -= 1
        self._per_provider[peer] -= 1
        if not self._per_provider[peer]:
            del self._per_provider[peer]


def _narrow(entry: _Entry) -> str | None:
    """What an entry counts for; all private addresses are one range here."""
    return None if entry.ranges is None else entry.ranges.narrow


Places = TypeVar("Places", bound=Sized)


def _crowded(by_range: dict[str | None, Places], newcomer: str | None) -> Places | None:
    """What the range with the most places has, if that is more than the newcomer's would have.

    Its newest goes: who has been there for long is not pushed out by its own neighbours.
    """
    name = max(by_range, key=lambda each: (len(by_range[each]), each or ""))
    own = by_range.get(newcomer)
    return by_range[name] if len(by_range[name]) > (0 if own is None else len(own)) + 1 else None
