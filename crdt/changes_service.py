"""Who reads a store is told which keys changed, once for many changes; a slow reader is told that it missed some."""

from dataclasses import dataclass, field
from typing import Final

import trio

from .cells import Key

KEYS_MAX: Final = 4096  # that wait for one reader


@dataclass(frozen=True, slots=True)
class Changed:
    """What changed since the last time."""

    keys: frozenset[Key]
    has_missed: bool  # more than these: look at everything


@dataclass(slots=True, eq=False)
class Changes:
    """One reader's. Iterate it."""

    _keys: set[Key] = field(default_factory=set[Key])
    _has_missed: bool = False
    _wake: trio.Event = field(default_factory=trio.Event)

    def tell(self, keys: set[Key]) -> None:
        if not keys:
            return
        self._keys |= keys
        if len(self._keys) > KEYS_MAX:
            self._keys, self._has_missed = set(), True
        self._wake.set()

    def __aiter__(self) -> "Changes":
        return self

    async def __anext__(self) -> Changed:
        await self._wake.wait()
        changed = Changed(frozenset(self._keys), self._has_missed)
        self._keys, self._has_missed, self._wake = set(), False, trio.Event()
        return changed
