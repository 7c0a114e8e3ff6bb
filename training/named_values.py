"""The values that were named in one round's voting: which of them are still needed, found sound or not, and backed.

A malicious member may name as many as it likes: beyond VALUES_MAX those that nothing refers to are let go, and only
what the voting asks about is judged, once, and once more when a quorum turns out to have prevoted it.
"""

from collections.abc import Callable, Iterable, Set
from typing import Final

from .votes import Value
from .voting_effects import Judge

VALUES_MAX: Final = 32  # of a record's size each


class NamedValues:
    """See the module's text. `needed` tells which must not be let go."""

    def __init__(self, needed: Callable[[], Set[bytes]]) -> None:
        self._needed = needed
        self._values: dict[bytes, Value] = {}
        self._verdicts: dict[bytes, bool] = {}
        self._asked: dict[bytes, bool] = {}  # for a verdict; and whether a quorum was known to have prevoted the value
        self._backed: set[bytes] = set()  # values that a quorum has prevoted

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, hash: bytes) -> bool:
        return hash in self._values

    def __getitem__(self, hash: bytes) -> Value:
        return self._values[hash]

    def among(self, hashes: Iterable[bytes]) -> list[bytes]:
        """Those of them that are known, sorted."""
        return sorted(self._values.keys() & set(hashes))

    def verdict(self, hash: bytes) -> bool | None:
        """Whether it is sound; None: that is not known."""
        return self._verdicts.get(hash)

    def know(self, value: Value) -> Value:
        """Somebody has named it."""
        self._values[value.hash] = value
        if len(self._values) > VALUES_MAX:
            self._forget()
        return value

    def find(self, hash: bytes, *, is_sound: bool) -> None:
        """This member has found so by itself."""
        self._verdicts[hash] = is_sound

    def judged(self, hash: bytes, *, is_sound: bool) -> None:
        """The end of a Judge."""
        if hash in self._asked:
            self._verdicts[hash] = is_sound

    def back(self, hash: bytes) -> None:
        """A quorum has prevoted it."""
        self._backed.add(hash)
        if self._asked.get(hash) is False and self._verdicts.get(hash) is False:
            del self._verdicts[hash]  # that may have been an opinion, which is not to keep us from the others

    def to_judge(self, near: Iterable[bytes]) -> list[Judge]:
        """Of these, and of what a quorum has prevoted: what has no verdict and was not asked for as it stands now."""
        judges: list[Judge] = []
        wanted = self._backed.union(near)
        for hash, value in self._values.items():
            is_backed = hash in self._backed
            is_news = hash not in self._asked or (is_backed and not self._asked[hash])
            if hash in wanted and hash not in self._verdicts and is_news:
                self._asked[hash] = is_backed
                judges.append(Judge(value, is_backed))
        return judges

    def _forget(self) -> None:
        """All but those that may still be needed, and the newest."""
        kept = {*self._needed(), next(reversed(self._values))}
        self._values = {hash: value for hash, value in self._values.items() if hash in kept}
        self._verdicts = {hash: verdict for hash, verdict in self._verdicts.items() if hash in self._values}
        self._asked = {hash: is_backed for hash, is_backed in self._asked.items() if hash in self._values}
        self._backed &= self._values.keys()
